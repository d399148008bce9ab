# Two stages: build with the official Go image, ship one static binary and an empty data directory.
FROM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -pgo cmd/dunlin/load.pgo -trimpath -ldflags="-s -w" -o /out/dunlin ./cmd/dunlin && mkdir -p /out/data

FROM scratch
COPY --from=build /out/dunlin /dunlin
# A new volume takes its owner from here.
COPY --from=build --chown=65532:65532 /out/data /data
USER 65532:65532
ENV DUNLIN_DATA=/data
VOLUME ["/data"]
EXPOSE 8000 8100 8200
HEALTHCHECK --interval=3s --timeout=2s --start-period=15s --retries=3 CMD ["/dunlin", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/dunlin"]
CMD ["serve"]
