#!/bin/sh
# Makes an image's final stage what it should be: `finish.sh IMAGE BASE ROOT`. The Dockerfile runs it as root with the
# Python of the base image as BASE (/usr/local) and / as ROOT; tests/deploy/test_images.py with folders of its own.
#
# It takes pip and its kind out of BASE, installs the packages of the system that the image's row in images.txt names,
# and makes the folder for state.
set -eu

if [ "$#" -ne 3 ]; then
    echo "usage: finish.sh IMAGE BASE ROOT" >&2
    exit 64
fi
image=$1
base=$2
root=${3%/}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)

row=$(grep "^$image | " "$here/images.txt") || {
    echo "finish.sh: no image '$image'" >&2
    exit 64
}
packages=$(printf '%s\n' "$row" | awk -F ' \\| ' '{ print $4 }')

for site in "$base"/lib/python3.*/site-packages; do
    rm -rf "$site"/pip "$site"/pip-*.dist-info "$site"/setuptools "$site"/setuptools-*.dist-info \
        "$site"/pkg_resources "$site"/_distutils_hack "$site"/distutils-precedence.pth \
        "$site"/wheel "$site"/wheel-*.dist-info
    rm -rf "${site%/site-packages}/ensurepip" "${site%/site-packages}/idlelib"
done
rm -f "$base"/bin/pip "$base"/bin/pip3 "$base"/bin/pip3.* "$base"/bin/wheel "$base"/bin/idle*

if [ "$packages" != - ]; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    # Not pinned: a rebuild is how fixes of the distribution arrive, and a pinned version vanishes from its mirrors.
    # shellcheck disable=SC2086 # several packages are several words
    apt-get install --yes --no-install-recommends $packages
    rm -rf "$root"/var/lib/apt/lists/*
fi

# 65532 is the user of the Dockerfile. Group-writable, for platforms that choose a user of their own in group 65532.
install -d -m 0770 "$root/var/lib/sluice"
if [ "$(id -u)" = 0 ]; then
    chown 65532:65532 "$root/var/lib/sluice"
fi
