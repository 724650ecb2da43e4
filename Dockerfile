# Targets: `production` (the default) runs swr-sync against a real registry,
# `loop` runs it again and again where no scheduler does, `emulator` carries the
# emulated SWR API for docker-compose.yml. docs/docker.md says more.
# Every base image can be replaced. The program is linked statically, so that the
# runtime image needs nothing at all, and brings no libraries of its own.
ARG RUST_IMAGE
ARG RUNTIME_IMAGE
ARG LOOP_IMAGE
# That of Cargo.toml, which a label cannot be read from; `.ci/run image` compares them.
ARG VERSION=0.1.0

# What only changes with the toolchain: cargo-auditable puts the list of crates
# into the program, where scanners find it. Not optimised, which builds faster.
FROM ${RUST_IMAGE:-rust:1.95-slim-bookworm} AS toolchain
RUN cargo install cargo-auditable --version 0.7.7 --locked --debug --root /usr/local
# So do they learn of the C library: by the record that Debian's packages have.
RUN mkdir /packages && dpkg-query --status libc6 > /packages/libc6

# The target is named, because without it procedural macros would be linked
# statically, too. The paths of this build stay out of the program.
FROM toolchain AS dependencies
WORKDIR /src
ENV CARGO_BUILD_TARGET=host-tuple \
    RUSTFLAGS="-C target-feature=+crt-static --remap-path-prefix=/src=swr-sync --remap-path-prefix=/usr/local/cargo=cargo"

# The dependencies are compiled around empty crates, so that this layer is
# built again only when a Cargo.toml or Cargo.lock changes. The real sources are
# touched, because Cargo would take the empty crates for newer.
# Only swr-sync is built: with all crates, the features that the emulator needs
# of dependencies would be switched on as well.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
COPY crates/command-findings/Cargo.toml crates/command-findings/
COPY crates/embedded-postgres/Cargo.toml crates/embedded-postgres/
COPY crates/swr-emulator/Cargo.toml crates/swr-emulator/
COPY xtask/Cargo.toml xtask/
RUN for crate in . crates/* xtask; do mkdir "$crate/src" && echo '//! Empty.' > "$crate/src/lib.rs"; done \
    && printf '//! Empty.\nfn main() {}\n' > src/main.rs \
    && cargo auditable build --locked --profile dist --package swr-sync --no-default-features

FROM dependencies AS dependencies-emulator
RUN cargo auditable build --locked --profile dist --package swr-sync --no-default-features --features emulator

FROM dependencies-emulator AS build-emulator
COPY . .
RUN touch src/*.rs crates/*/src/*.rs \
    && cargo auditable build --locked --profile dist --package swr-sync --no-default-features --features emulator \
    && docker/collect-licences /licences --no-default-features --features emulator

FROM dependencies AS build-production
COPY . .
RUN touch src/*.rs crates/*/src/*.rs \
    && cargo auditable build --locked --profile dist --package swr-sync --no-default-features \
    && docker/collect-licences /licences --no-default-features

FROM ${RUNTIME_IMAGE:-gcr.io/distroless/static-debian12:nonroot} AS runtime
COPY --from=toolchain /packages /var/lib/dpkg/status.d
# The trusted roots come from the build image, so that a runtime image without
# any will do as well.
COPY --from=toolchain /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Which commit an image was built from, and when, is for the caller to say: `docker build --label`.
ARG VERSION
LABEL org.opencontainers.image.title="swr-sync" \
      org.opencontainers.image.description="Mirrors a Huawei Cloud SWR Enterprise registry into PostgreSQL" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# A number, because Kubernetes' runAsNonRoot cannot judge a name.
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/swr-sync"]

FROM runtime AS emulator
COPY --from=build-emulator /licences /usr/share/doc/swr-sync
COPY --from=build-emulator /src/target/*/dist/swr-sync /usr/local/bin/
ENV EMULATOR_LISTEN=0.0.0.0:8085
EXPOSE 8085
CMD ["emulator"]

FROM ${LOOP_IMAGE:-debian:bookworm-slim} AS loop
COPY --from=toolchain /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build-production /licences /usr/share/doc/swr-sync
COPY --from=build-production /src/target/*/dist/swr-sync /src/docker/sync-loop /usr/local/bin/
ARG VERSION
LABEL org.opencontainers.image.title="swr-sync-loop" \
      org.opencontainers.image.description="Mirrors a Huawei Cloud SWR Enterprise registry into PostgreSQL, again and again" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
USER 65532:65532
ENTRYPOINT ["/usr/local/bin/sync-loop"]
CMD ["sync"]

FROM runtime AS production
COPY --from=build-production /licences /usr/share/doc/swr-sync
COPY --from=build-production /src/target/*/dist/swr-sync /usr/local/bin/
CMD ["sync"]
