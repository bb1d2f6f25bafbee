# Builds the programs and puts them into a small image. FUSE needs the device and the right to mount:
#   docker run --device /dev/fuse --cap-add SYS_ADMIN -v data:/var/lib/litefs -v ./litefs.yml:/etc/litefs.yml IMAGE
FROM rust:1-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked -p litefsd -p litefsctl

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends fuse3 ca-certificates sqlite3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/litefsd /src/target/release/litefsctl /usr/local/bin/
RUN ln -s litefsctl /usr/local/bin/litefs
VOLUME /var/lib/litefs
EXPOSE 20202
STOPSIGNAL SIGTERM
ENTRYPOINT ["litefsd"]
