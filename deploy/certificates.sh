#!/usr/bin/env bash
# Makes a CA and a certificate for every process of compose.yaml, in deploy/pki, by the
# image's own `meshctl pki`. For trying; a real mesh takes them from the CA that its owner runs.
#
# Each process gets a folder with its own key and nobody else's. What is there stays there.
set -euo pipefail
cd "$(dirname "$0")"
image=${KVMESH_IMAGE:-kvmesh:local}

mkdir -p pki/files
docker run --rm --interactive --user 0 --network none --volume "$PWD/pki:/pki" \
  --entrypoint bash "$image" -euo pipefail -s <<'END'
cd /pki
[ -e ca/ca.pem ] || meshctl pki init ca --trust-domain kvmesh.local

# Folder, then the flags that say who it is.
issue() {
  local to=$1; shift
  [ -e "$to/certificate.pem" ] && return
  mkdir -p "$to" made
  meshctl pki issue ca --out made "$@" >/dev/null
  mv made/*-key.pem "$to/key.pem"
  mv made/ca.pem "$to/ca.pem"
  mv made/*.pem "$to/certificate.pem"
  echo "$to: $(meshctl pki show "$to/certificate.pem" -o json | grep -o "spiffe:[^\"]*" | head -n 1)"
}

for region in us-east eu-west; do
  for node in 1 2 3; do
    issue "$region-node-$node" --role node --region "$region" --name "$node"
  done
  for gateway in 1 2; do
    issue "$region-gateway-$gateway" --role gateway --region "$region" --name "$gateway"
  done
  issue "$region-region-sync" --role region-sync --region "$region" --name 1
  issue "$region-client" --role client --region "$region" --name engine-1
done
issue operator --role operator --name admin
rm -rf made
# The programs run as this user, and each sees its own folder only.
chown -R 10001:10001 us-east-* eu-west-* operator files
END
