#!/bin/sh
# The same container as a plain folder: make_root.sh FOLDER PACKAGES [SUITE [MIRROR]]
# Debian's smallest root with Quire's package in it; as root. A program that uses KVM needs /proc:
#   mount -t proc proc FOLDER/proc
#   chroot FOLDER quire run -- PROGRAM
set -eu
root=$1 packages=$2 suite=${3:-bookworm} mirror=${4:-http://deb.debian.org/debian}
debootstrap --variant=minbase "$suite" "$root" "$mirror"
mkdir "$root/packages"
cp "$packages"/quire_*.deb "$root/packages"
chroot "$root" sh -c 'apt-get install -y --no-install-recommends /packages/quire_*.deb'
rm -r "$root/packages"
