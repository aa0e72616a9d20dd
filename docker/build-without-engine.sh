#!/bin/sh
# Builds images with buildah alone, as root, where no container engine runs, and tries them (docker/try-image.sh):
#     docker/build-without-engine.sh [head|cpu|cpu-ipex|cuda|neuron|ui ...]        (default: head cpu ui)
# The vendor's base image is replaced by a Debian of the same release made with debootstrap, so no image registry is
# needed; Debian's Python 3.11 stands for the pinned one. Needs buildah, debootstrap and iproute2 (Debian packages).
# pip inside the build uses this machine's pip configuration and certificates.
#
# - ui is tried with a service of the image cpu, or the one at SERVICE_NAME.
# - cpu-ipex and neuron take whatever build of torch pip finds.
# - neuron: AWS's packages are those at NEURON_INDEX and NEURON_APT, or empty stand-ins (docker/neuron_stand_in.py).
# - KEEP=no removes each image after it was tried. Everything is under WORK (/var/tmp/imagine-images), 5 to 15 GB.
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
    [ -d "$folder" ] || continue
    # A copy: a build may add an archive of its own.
    rm -rf "$work/copies$folder"
    mkdir -p "$work/copies$folder"
    cp -rL "$folder/." "$work/copies$folder"
    mounts="$mounts --volume $work/copies$folder:$folder"
done
pip config list 2>/dev/null | sed -n "s/^[a-z:]*\(global\)\.\([a-z-]*\)='\(.*\)'$/\2 = \3/p" >"$work/pip.options"
{ echo '[global]'; sed 's/\\n/\n    /g' "$work/pip.options"; } >"$work/pip.conf"
# The same without folders of wheels: one may hold a CPU build of torch, which pip takes for newer than the default one.
awk '/^[^ ]/ { skip = /^find-links/ } !skip' "$work/pip.conf" >"$work/pip-cuda.conf"
for folder in $(tr ' ' '\n' <"$work/pip.conf" | sed -n 's#^\(file://\)\{0,1\}\(/[^ ]*\)$#\2#p' | cut -d/ -f1-3 | sort -u); do
    [ -d "$folder" ] && [ "$folder" != /etc/ssl ] && mounts="$mounts --volume $folder:$folder:ro"
done

server_pid=
trap '[ -z "$server_pid" ] || kill "$server_pid"' EXIT

serve_stand_in() { # sets address: of a server with the stand-ins for AWS's packages
    [ -n "${address:-}" ] && return
    rm -rf "$work/neuron"
    mkdir "$work/neuron"
    python3 "$here/docker/neuron_stand_in.py" "$work/neuron" >"$work/neuron.log" 2>&1 \
        || fail "no stand-in for AWS's packages, see $work/neuron.log"
    python3 -u -m http.server --bind 127.0.0.1 --directory "$work/neuron" 0 >"$work/server.log" 2>&1 &
    server_pid=$!
    for _ in $(seq 50); do grep -q port "$work/server.log" && break; sleep 0.2; done
    address=http://127.0.0.1:$(sed -n 's/.* port \([0-9]*\) .*/\1/p' "$work/server.log")
}

for image in ${*:-head cpu ui}; do
    say "building $image"
    file=$image
    pip_conf=$work/pip.conf
    options=
    case $image in
    head | ui) ;;
    cpu) options="--build-arg TORCH_INDEX=" ;;
    cpu-ipex)
        file=cpu
        options="--build-arg TORCH_INDEX= --build-arg TORCH_BUILD= $(sed -n '/^target "cpu-ipex"/,/^}/s/ *\([A-Z]*_VERSION\) = "\(.*\)"/--build-arg \1=\2/p' \
            "$here/docker/docker-bake.hcl")"
        ;;
    cuda) pip_conf=$work/pip-cuda.conf ;;
    neuron)
        [ -n "${NEURON_INDEX:-}" ] && [ -n "${NEURON_APT:-}" ] || { serve_stand_in; NEURON_INDEX=$address/simple; NEURON_APT=$address; }
        options="--build-arg TORCH_INDEX= --build-arg TORCH_BUILD= --build-arg NEURON_INDEX=$NEURON_INDEX --build-arg NEURON_APT=$NEURON_APT"
        ;;
    *) fail "no image $image" ;;
    esac
    # shellcheck disable=SC2086 # lists of options
    $buildah bud --format docker --layers $mounts --volume "$pip_conf:/etc/pip.conf:ro" $options --build-arg BASE=localhost/imagine-base \
        --file "$here/docker/$file.Dockerfile" --tag "localhost/imagine-$image" "$here" >"$work/$image.log" 2>&1 \
        || fail "$image does not build, see $work/$image.log"
    say "trying $image, $($buildah images --format '{{.Size}}' "localhost/imagine-$image")"
    WORK=$work "$here/docker/try-image.sh" "$image" || fail "$image does not do what it should"
    if [ "${KEEP:-yes}" = no ]; then
        $buildah rmi --force "$($buildah inspect --type image --format '{{.FromImageID}}' "localhost/imagine-$image")" >/dev/null
        $buildah rmi --prune >/dev/null
    fi
    say "$image is built and works"
done
