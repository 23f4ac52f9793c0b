#!/bin/sh
# Makes pb/open_inference.pb.go from open_inference.proto. Needs python3 with venv and pip, for protoc, and Go.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check --only-binary :all: 'grpcio-tools==1.81.1'
go build -o "$work/protoc-gen-go" google.golang.org/protobuf/cmd/protoc-gen-go
"$work/venv/bin/python" -m grpc_tools.protoc -I . --plugin="protoc-gen-go=$work/protoc-gen-go" \
    --go_out=pb --go_opt=paths=source_relative open_inference.proto
