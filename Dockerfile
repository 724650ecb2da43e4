# Targets: `production` (the default) runs swr-sync against a real registry,
# `emulator` carries the emulated SWR API for docker-compose.yml.
# Both base images can be replaced; the runtime image needs glibc and nothing else.
ARG RUST_IMAGE
ARG RUNTIME_IMAGE

# The dependencies are compiled around an empty crate, so that this layer is
# built again only when Cargo.toml or Cargo.lock changes. The empty crate is
# removed, because Cargo would take it for newer than the real sources.
FROM ${RUST_IMAGE:-rust:1.95-slim-bookworm} AS dependencies
WORKDIR /src
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
RUN mkdir src \
    && echo '//! Empty.' > src/lib.rs \
    && printf '//! Empty.\nfn main() {}\n' > src/main.rs \
    && cargo build --locked --release --no-default-features \
    && cargo clean --release --package swr-sync

FROM dependencies AS dependencies-emulator
RUN cargo build --locked --release --no-default-features --features emulator \
    && cargo clean --release --package swr-sync

FROM dependencies-emulator AS build-emulator
COPY . .
RUN cargo build --locked --release --no-default-features --features emulator

FROM dependencies AS build-production
COPY . .
RUN cargo build --locked --release --no-default-features

FROM ${RUNTIME_IMAGE:-gcr.io/distroless/cc-debian12:nonroot} AS runtime
# The trusted roots come from the build image, so that a runtime image without
# any, such as debian:bookworm-slim, will do as well.
COPY --from=dependencies /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="swr-sync" \
      org.opencontainers.image.description="Mirrors a Huawei Cloud SWR Enterprise registry into PostgreSQL" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A number, because Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/swr-sync"]

FROM runtime AS emulator
COPY --from=build-emulator /src/target/release/swr-sync /usr/local/bin/swr-sync
ENV EMULATOR_LISTEN=0.0.0.0:8085
EXPOSE 8085
CMD ["emulator"]

FROM runtime AS production
COPY --from=build-production /src/target/release/swr-sync /usr/local/bin/swr-sync
CMD ["sync"]
