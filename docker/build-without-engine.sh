#!/bin/sh
# Builds images with buildah alone, as root, where no container engine runs, and tries them:
#     docker/build-without-engine.sh [head|cpu|ui ...]        (default: head cpu)
# The vendor's base image is replaced by a Debian of the same release made with debootstrap, so no image registry is
# needed; Debian's Python 3.11 stands for the pinned one. Needs buildah and debootstrap (Debian packages).
# pip inside the build uses this machine's pip configuration and certificates.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
work=${WORK:-/var/tmp/imagine-images}
mkdir -p "$work"
export BUILDAH_ISOLATION=chroot
buildah="buildah --root $work/storage --runroot $work/run"
if ! STORAGE_DRIVER=overlay $buildah images >/dev/null 2>&1; then
    export STORAGE_DRIVER=vfs  # slower, and works everywhere
else
    export STORAGE_DRIVER=overlay
fi

say() { echo "== $*"; }
fail() { echo "build-without-engine: $*" >&2; exit 1; }

if ! $buildah inspect localhost/imagine-base >/dev/null 2>&1; then
    say "base image from debootstrap"
    [ -d "$work/rootfs/usr" ] || debootstrap --variant=minbase \
        --include=ca-certificates,python3-distutils,python3.11-venv bookworm "$work/rootfs" >"$work/debootstrap.log" 2>&1 \
        || fail "debootstrap failed, see $work/debootstrap.log"
    container=$($buildah from scratch)
    $buildah add "$container" "$work/rootfs" / >/dev/null
    $buildah commit --rm "$container" localhost/imagine-base >/dev/null
fi

# What pip and apt of this machine are told is told to those of the build, and stays out of the image.
mounts="--volume /etc/ssl/certs:/etc/ssl/certs:ro"
for file in /etc/apt/sources.list /etc/apt/apt.conf /etc/resolv.conf; do
    [ -e "$file" ] && mounts="$mounts --volume $file:$file:ro"
done
for folder in /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/keyrings /usr/share/keyrings; do
    [ -d "$folder" ] && mounts="$mounts --volume $folder:$folder:ro"
done
pip config list 2>/dev/null | sed -n "s/^[a-z:]*\(global\)\.\([a-z-]*\)='\(.*\)'$/\2 = \3/p" >"$work/pip.options"
{ echo '[global]'; sed 's/\\n/\n    /g' "$work/pip.options"; } >"$work/pip.conf"
mounts="$mounts --volume $work/pip.conf:/etc/pip.conf:ro"
for folder in $(tr ' ' '\n' <"$work/pip.conf" | sed -n 's#^\(file://\)\{0,1\}\(/[^ ]*\)$#\2#p' | cut -d/ -f1-3 | sort -u); do
    [ -d "$folder" ] && [ "$folder" != /etc/ssl ] && mounts="$mounts --volume $folder:$folder:ro"
done

inside() { # inside COMMAND...: in the container of the image being tried, as the image's own user
    $buildah run "$container" -- "$@"
}

for image in ${*:-head cpu}; do
    say "building $image"
    # shellcheck disable=SC2086 # a list of options
    $buildah bud --format docker --layers $mounts --build-arg BASE=localhost/imagine-base --build-arg TORCH_INDEX= \
        --file "$here/docker/$image.Dockerfile" --tag "localhost/imagine-$image" "$here" >"$work/$image.log" 2>&1 \
        || fail "$image does not build, see $work/$image.log"
    [ "$($buildah inspect --format '{{.OCIv1.Config.User}}' "localhost/imagine-$image")" = 1000:1000 ] || fail "$image runs as root"
    container=$($buildah from "localhost/imagine-$image")
    [ "$(inside id -u)" = 1000 ] || fail "$image does not run as its user"
    case $image in
    head)
        inside python -c 'import importlib.util as u, sys; sys.exit(any(map(u.find_spec, ("torch", "diffusers"))))' \
            || fail "the head's image has torch"
        # Processes and ports are the machine's own here: what was started is stopped by its id.
        inside sh -c 'ray start --head --block --num-cpus=0 --port=46379 --dashboard-port=48265 --temp-dir=/tmp/r \
                --object-store-memory=100000000 >/tmp/head.log 2>&1 & head=$!
            for _ in $(seq 60); do ray health-check --address 127.0.0.1:46379 2>/dev/null && ready=yes && break; sleep 1; done
            kill $head; wait $head; test "$ready" = yes' \
            || fail "the head does not start"
        ;;
    cpu)
        inside sh -c 'imagine generate "a red star on a blue background" --seed 7 -o /tmp/star.png && test -s /tmp/star.png' \
            || fail "the cpu image does not draw"
        ;;
    ui)
        inside python -c 'import gradio_ui.app' || fail "the page's image does not load"
        ;;
    esac
    $buildah rm "$container" >/dev/null
    say "$image is built and works: $($buildah images --format '{{.Size}}' "localhost/imagine-$image")"
done
