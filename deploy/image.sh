#!/usr/bin/env bash
# Builds the image from what this machine has.
#
#   deploy/image.sh                    compile in the image; crates from the registry
#   deploy/image.sh --vendor           compile in the image; crates from this machine's cargo
#                                      (`cargo vendor`), without a network in the build
#   deploy/image.sh --programs DIR     no compiling: the four programs of DIR, such as
#                                      target/release, built against Debian 12's C library
#
# --tag NAME names the image (kvmesh:local). What is built is the last commit; with --dirty,
# the files that git knows as they are.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() { sed -n '2,/^set/{s/^# \{0,1\}//;/^set/!p}' "$0" >&2; exit 64; }

tag=kvmesh:local vendor='' programs='' dirty=''
while [ $# -gt 0 ]; do
  case "$1" in
    --vendor) vendor=yes ;;
    --programs) [ $# -gt 1 ] || usage; programs=$2; shift ;;
    --tag) [ $# -gt 1 ] || usage; tag=$2; shift ;;
    --dirty) dirty=yes ;;
    *) usage ;;
  esac
  shift
done

context=$(mktemp -d)
trap 'rm -rf "$context"' EXIT

if [ -n "$programs" ]; then
  mkdir "$context/out"
  for name in kvmesh-node kvmesh-gateway kvmesh-region-sync meshctl; do
    # Without symbols: a debug build has hundreds of MB of them.
    strip -o "$context/out/$name" "$programs/$name"
  done
  # The runtime stage of the one Dockerfile, with the programs from here.
  sed -n '/ AS runtime$/,$p' deploy/Dockerfile | sed 's/^COPY --from=build /COPY /' \
    >"$context/Dockerfile"
  docker build --tag "$tag" "$context"
  exit
fi

if [ -n "$dirty" ]; then
  git ls-files -z | xargs -0 tar -c | tar -C "$context" -x
else
  git archive HEAD | tar -C "$context" -x
fi
network=default
if [ -n "$vendor" ]; then
  network=none
  mkdir -p "$context/.cargo"
  (cd "$context" && cargo vendor --locked --versioned-dirs vendor) >"$context/.cargo/vendored.toml"
  cat "$context/.cargo/vendored.toml" >>"$context/.cargo/config.toml"
  rm "$context/.cargo/vendored.toml" "$context/.dockerignore"
fi
docker build --network "$network" --file "$context/deploy/Dockerfile" --tag "$tag" "$context"
