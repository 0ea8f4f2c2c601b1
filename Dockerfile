# galo's image: one static binary on an empty file system.

FROM golang:1.26-alpine AS build
WORKDIR /src

# The modules in a layer of their own: a change of the code does not fetch them again,
# nor compile again what takes longest.
ENV CGO_ENABLED=0
COPY go.mod go.sum ./
RUN go mod download
RUN go build -trimpath net/http github.com/valyala/fasthttp github.com/nats-io/nats.go github.com/alicebob/miniredis/v2

COPY *.go ./
ARG VERSION=dev
RUN go build -trimpath -ldflags "-s -w -X main.version=${VERSION}" -o /out/galo . \
 && mkdir -p /out/data /out/root/tmp && chmod 1777 /out/root/tmp

FROM scratch

# Certificates for a processor or a Redis that is reached over TLS. No time zones: galo knows only UTC.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/galo /galo

# Some container runtimes give a tmpfs the mode of the folder that it is mounted on, and not the one that was asked for, from the
# second start on: so the folder has to be there, open to all, or the health check of a restarted container could mark nothing.
COPY --from=build /out/root/ /

# A named volume that is mounted here for the first time takes over this owner.
COPY --from=build --chown=65532:65532 /out/data /data

USER 65532:65532
ENV DATA_DIR=/data
VOLUME /data
EXPOSE 9999
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --retries=3 CMD ["/galo", "healthcheck"]
ENTRYPOINT ["/galo"]
