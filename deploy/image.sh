#!/usr/bin/env bash
# Build the image of this checkout with Buildah: framegate:VERSION-ARCH, by deploy/Dockerfile.
#
#   deploy/image.sh amd64
#   deploy/image.sh arm64 --volume /etc/ssl/certs:/etc/ssl/certs:ro    further options of buildah build
#   BASE=debian deploy/image.sh arm64
#
# BASE is the image to start from: by default that of the Dockerfile. "debian" makes one from Debian's
# packages, and needs no registry (as root: apt-get install buildah crun mmdebstrap). The image of
# another architecture also needs the packages arch-test, qemu-user and qemu-user-binfmt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

arch=${1:-}
case "$arch" in
amd64 | arm64) shift ;;
*)
  echo "usage: deploy/image.sh amd64|arm64 [OPTION of buildah build ...], got \"$arch\"" >&2
  exit 2
  ;;
esac

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
base=()
if [ "${BASE:-}" = debian ]; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  mmdebstrap --quiet --variant=minbase --architectures="$arch" \
    --include=python3,python3-venv,ca-certificates \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    trixie "$folder/base.tar"
  made=$(buildah from --arch "$arch" scratch)
  buildah add --quiet "$made" "$folder/base.tar" /
  buildah commit --quiet --rm "$made" "localhost/framegate-base:$arch"
  base=(--build-arg "BASE=localhost/framegate-base:$arch")
elif [ -n "${BASE:-}" ]; then
  base=(--build-arg "BASE=$BASE")
fi

# Docker's format, because that of OCI has no health check. The limits of this shell, because Buildah
# otherwise raises them, which is refused inside a container or a virtual machine without the right.
buildah build --format docker --ulimit "nofile=$(ulimit -Hn)" --ulimit "nproc=$(ulimit -Hu)" \
  --platform "linux/$arch" --layers=false --file deploy/Dockerfile --tag "framegate:$version-$arch" \
  "${base[@]}" "$@" .
echo "framegate:$version-$arch"
