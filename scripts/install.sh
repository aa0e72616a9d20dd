#!/bin/sh
# Makes the virtual environment and installs locked versions: install.sh VENV EXTRAS
#
# torch comes first: a CPU build where one can be had (a CPU build is 200 MB, the default Linux build drags in several
# GB of CUDA libraries), the CUDA build on a machine with an NVIDIA GPU. To get the CPU build from another index or a
# folder, set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS as usual.
set -eu
venv=$1
extras=$2
python=${PYTHON:-python3}
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

fail() {
    echo "install: $*" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
    || fail "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11"
if [ ! -x "$venv/bin/python" ]; then
    "$python" -m venv "$venv" || fail "cannot make $venv; on Debian: apt-get install python3-venv"
fi
pip="$venv/bin/python -m pip --disable-pip-version-check install --quiet"

# A Neuron device needs its vendor's generation of torch, diffusers and transformers, which the lock is not made for;
# pip must know the vendor's index (PIP_EXTRA_INDEX_URL).
if [ -e /dev/neuron0 ] && [ "$extras" = torch ]; then
    echo "Installing the service's packages for AWS Neuron ..."
    $pip --editable "$here[neuron]" || fail "the Neuron packages cannot be installed; is the vendor's index set?"
    exit 0
fi
pip="$pip --constraint $here/requirements/lock.txt"

case ",$extras," in
*,torch,*)
    if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        torch=$(sed -n 's/^torch==//p' "$here/requirements/lock.txt")
        echo "Installing torch $torch ..."
        if [ -e /dev/nvidia0 ] || [ -e /dev/nvidiactl ]; then
            $pip "torch==$torch"
        else
            $pip "torch==$torch+cpu" 2>/dev/null || {
                echo "No CPU build of torch in the configured indexes: taking the default build (larger)."
                $pip "torch==$torch" || fail "torch $torch cannot be installed; is there a network?"
            }
        fi
    fi
    ;;
esac
echo "Installing the service's packages ..."
$pip --editable "$here[$extras]" || fail "the packages cannot be installed; is there a network?"
