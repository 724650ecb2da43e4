# Replaces rust:*-slim-bookworm: gcc, and the toolchain of the building machine.
FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY bin /usr/local/bin
COPY lib /usr/local/lib
# The roots that the building machine trusts: a build reaches crates.io from a
# container just as it does from that machine.
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
ENV CARGO_HOME=/usr/local/cargo
