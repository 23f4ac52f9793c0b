# modelgate as a container image: the program, ONNX Runtime and an empty data folder on distroless/cc (glibc, libstdc++,
# CA certificates, no shell), as user 65532, made for a read-only root.
#
#   docker build --build-arg VERSION="$(git describe --tags --always --dirty)" -t modelgate .
#   docker run --rm -it --read-only -p 127.0.0.1:8080:8080 -v modelgate-data:/data -e MODELGATE_INSECURE_HTTP=true modelgate
#
# The image listens on every address of its container, and modelgate refuses plain HTTP there until told otherwise: give
# it a certificate (MODELGATE_TLS_CERT, MODELGATE_TLS_KEY), or say MODELGATE_INSECURE_HTTP=true where the port is
# published on loopback only, or a proxy in front speaks TLS. gRPC is off until MODELGATE_GRPC_LISTEN=0.0.0.0:8081 (and
# -p 127.0.0.1:8081:8081) asks for it. deploy/ has a compose and a Kubernetes file.
#
# What is proved: the project's tests run this file set (deploy/rootfs.sh) under chroot with a read-only root, as user
# 65532 without capabilities: serve, models in sandboxed processes, healthcheck, a clean end on SIGTERM. Building this file is not part of the tests.

FROM golang:1.26-bookworm AS build
WORKDIR /src
# pip is the first source of ONNX Runtime; without it the release archive is fetched by curl.
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
COPY go.mod go.sum ./
RUN go mod download
COPY inference/ort/fetch.sh inference/ort/onnxruntime.sha256 inference/ort/
RUN sh inference/ort/fetch.sh
COPY . .
ARG VERSION=unknown
RUN make build VERSION="$VERSION" && deploy/rootfs.sh --program-only /image

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /image/usr/local /usr/local
COPY --from=build --chown=65532:65532 /image/data /data
COPY LICENSE /usr/share/doc/modelgate/LICENSE
ENV MODELGATE_DATA=/data \
    MODELGATE_LISTEN=0.0.0.0:8080 \
    MODELGATE_ONNXRUNTIME_LIB=/usr/local/lib/libonnxruntime.so
USER 65532:65532
WORKDIR /
VOLUME /data
# 8081 where MODELGATE_GRPC_LISTEN=0.0.0.0:8081 asks for gRPC.
EXPOSE 8080 8081
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 CMD ["/usr/local/bin/modelgate", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/modelgate"]
CMD ["serve"]
