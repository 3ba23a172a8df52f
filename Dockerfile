FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
RUN make build VERSION="$VERSION"

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.title="eniagent" \
      org.opencontainers.image.description="Crash-safe agent for a node's extra network interfaces" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /src/LICENSE /LICENSE
COPY --from=build /src/bin/agent /agent
# It binds drivers and opens device files: without root there is nothing it could do.
USER 0:0
ENTRYPOINT ["/agent"]
CMD ["run"]
