#!/usr/bin/env bash
# Makes stand-ins for the images that deploy/ starts from, on a machine WITHOUT A REGISTRY.
#
# Where a registry can be reached, do not run this: `docker build` and compose pull the real
# images of the same names. Here Debian packages and the machine's own Rust toolchain take
# their place, under the very same tags, so that the Dockerfile and compose.yaml are used as
# they are. Each stand-in has the label kvmesh.stand-in, and its entry point behaves like the
# official image's.
#
# Needs root, Docker, debootstrap, rustc with cargo, and a mirror of Debian's packages.
# A tag that exists is left alone, unless --again is given.
set -euo pipefail

DEBIAN=debian:bookworm-slim
RUST=rust:1.95-bookworm
NGINX=nginx:1.28
PROMETHEUS=prom/prometheus:v2.53.5

again=
case "${1:-}" in
  --again) again=yes ;;
  '') ;;
  *) echo "usage: $0 [--again]" >&2; exit 64 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

wanted() {
  [ -n "$again" ] || ! docker image inspect "$1" >/dev/null 2>&1 || { echo "$1: is there"; return 1; }
  echo "$1: making a stand-in"
}

# Builds the Dockerfile on standard input in the folder $2, with the host's network for apt.
build() {
  cat >"$2/Dockerfile.stand-in"
  docker build --quiet --network host --label kvmesh.stand-in=yes \
    --tag "$1" --file "$2/Dockerfile.stand-in" "$2"
}

if wanted "$DEBIAN"; then
  debootstrap --variant=minbase bookworm "$work/root" >"$work/log" 2>&1 || { tail "$work/log" >&2; exit 1; }
  rm -rf "$work/root/var/cache/apt/archives"/*.deb "$work/root/var/lib/apt/lists"/* \
    "$work/root/usr/share/doc"/* "$work/root/usr/share/man"/*
  tar -C "$work/root" -c . | docker import --change 'CMD ["bash"]' \
    --change 'LABEL kvmesh.stand-in=yes' - "$DEBIAN"
  rm -rf "$work/root"
fi

if wanted "$RUST"; then
  mkdir "$work/rust"
  sysroot=$(rustc --print sysroot)
  rustc --version | grep -q '^rustc 1\.95\.' || { echo "$RUST needs rustc 1.95 on this machine" >&2; exit 1; }
  tar -C "$sysroot" --exclude=share --exclude=etc -c . | tar -C "$work/rust" -x
  build "$RUST" "$work/rust" <<END
FROM $DEBIAN
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev ca-certificates \
 && rm -rf /var/lib/apt/lists/*
COPY bin /usr/local/cargo/bin
COPY lib /usr/local/cargo/lib
ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
CMD ["bash"]
END
  rm -rf "$work/rust"
fi

# The official image has the stream module built in; Debian's is a module to be loaded.
if wanted "$NGINX"; then
  mkdir "$work/nginx"
  build "$NGINX" "$work/nginx" <<END
FROM $DEBIAN
RUN apt-get update && apt-get install -y --no-install-recommends nginx-light libnginx-mod-stream \
 && rm -rf /var/lib/apt/lists/* /etc/nginx/modules-enabled/*
STOPSIGNAL SIGQUIT
CMD ["nginx", "-g", "load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off;"]
END
fi

if wanted "$PROMETHEUS"; then
  mkdir "$work/prometheus"
  build "$PROMETHEUS" "$work/prometheus" <<END
FROM $DEBIAN
RUN apt-get update && apt-get install -y --no-install-recommends prometheus \
 && rm -rf /var/lib/apt/lists/*
RUN mkdir -p /prometheus && chown 65534:65534 /prometheus
USER 65534:65534
WORKDIR /prometheus
VOLUME ["/prometheus"]
ENTRYPOINT ["/bin/prometheus"]
CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]
END
fi

docker image ls --filter label=kvmesh.stand-in=yes
