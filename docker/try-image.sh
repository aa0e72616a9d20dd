#!/bin/sh
# Tries an image as its pod would run it: as its own user, by its own command, without rights:
#     docker/try-image.sh head|cpu|cpu-ipex|cuda|neuron|ui [IMAGE]        (default: localhost/imagine-...)
# Needs root, and an image that buildah has: built by docker/build-without-engine.sh, or from another engine by
# `docker save imagine-ui:TAG -o ui.tar && buildah pull docker-archive:ui.tar`.
#
# Everything runs in a network and a process namespace of its own: no port of this machine is taken, nothing outside
# can be reached, and nothing is left. The page (ui) draws at a service of the image cpu, or at the one at SERVICE_NAME:
#     SERVICE_NAME=http://127.0.0.1:8000 docker/try-image.sh ui
# Then the network is this machine's, and its port 7860 must be free.
set -eu
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
kind=${1:?head, cpu, cpu-ipex, cuda, neuron or ui}
image=${2:-localhost/imagine-$kind}
work=${WORK:-/var/tmp/imagine-images}
export BUILDAH_ISOLATION=chroot
if [ -d "$work/storage" ]; then
    [ -n "${STORAGE_DRIVER:-}" ] || export STORAGE_DRIVER=overlay
    buildah="buildah --root $work/storage --runroot $work/run"
else
    buildah=buildah
fi

if [ -z "${IN_NAMESPACES:-}" ]; then
    [ -n "${SERVICE_NAME:-}" ] && network= || network=--net
    exec unshare $network --mount --pid --fork --kill-child --mount-proc env IN_NAMESPACES=yes "$0" "$@"
fi

[ -n "${SERVICE_NAME:-}" ] || ip link set lo up
scratch=$(mktemp -d)
containers=
# shellcheck disable=SC2064,SC2086 # a list of ids
trap '[ -z "$containers" ] || $buildah rm $containers >/dev/null; rm -rf "$scratch"' EXIT
$buildah inspect --type image "$image" >"$scratch/image.json"
chmod -R a+rX "$scratch"
container=$($buildah from --pull-never "$image")
containers=$container

if [ "$kind" = ui ] && [ -z "${SERVICE_NAME:-}" ]; then
    SERVICE_NAME=http://127.0.0.1:8000
    service=$($buildah from --pull-never localhost/imagine-cpu)
    containers="$containers $service"
    $buildah run "$service" -- tini -- imagine serve --host 127.0.0.1 --port 8000 >"$scratch/service.log" 2>&1 &
    service_pid=$!
fi

status=0
$buildah run --volume "$here/try_image:/try_image:ro" --volume "$scratch/image.json:/image.json:ro" "$container" -- \
    python -B /try_image "$kind" /image.json "${SERVICE_NAME:-}" || status=$?
if [ -n "${service_pid:-}" ]; then
    [ $status = 0 ] || tail -n 30 "$scratch/service.log" >&2
    kill -TERM "$service_pid" 2>/dev/null || true
    for _ in $(seq 60); do kill -0 "$service_pid" 2>/dev/null || break; sleep 0.5; done
    kill -KILL "$service_pid" 2>/dev/null || true
    wait "$service_pid" || true
fi
exit $status
