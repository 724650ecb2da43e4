# Replaces gcr.io/distroless/static-debian12:nonroot: users, time zones, trusted roots; no C library, no shell.
FROM debian:bookworm-slim AS files
WORKDIR /packages
RUN apt-get update \
    && apt-get download base-files netbase tzdata \
    && for package in *.deb; do dpkg-deb --extract "$package" /files; done \
    && rm -rf /files/usr/share/doc /files/usr/share/man \
    && echo 'root:x:0:0:root:/root:/sbin/nologin' > /files/etc/passwd \
    && echo 'nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin' >> /files/etc/passwd \
    && printf 'root:x:0:\nnonroot:x:65532:\n' > /files/etc/group \
    && echo 'hosts: files dns' > /files/etc/nsswitch.conf \
    && install -d -o 65532 -g 65532 /files/home/nonroot

FROM scratch
COPY --from=files /files /
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532
