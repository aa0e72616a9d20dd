#!/bin/sh
# Makes the virtual environment and installs locked versions: install.sh VENV EXTRAS [LOCK]
#
# LOCK is a file of requirements/, lock.txt if not said.
#
# torch comes first: a CPU build where one can be had (a CPU build is 200 MB, the default Linux build drags in several
# GB of CUDA libraries), the CUDA build on a machine with an NVIDIA GPU. To get the CPU build from another index or a
# folder, set PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS as usual.
set -eu
venv=$1
extras=$2
lock=requirements/${3:-lock.txt}
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

# optimum-neuron and AWS's packages want their own generation of torch, diffusers and transformers, which lock.txt is not
# made for, and no Python newer than 3.11; the web page wants a newer huggingface-hub than they allow.
constraints=$here/$lock
case ",$extras," in
*,neuron-test,*) neuron=yes ;;
*,torch,*)
    neuron=no
    if [ -e /dev/neuron0 ]; then
        neuron=yes
        extras=$(echo ",$extras," | sed 's/,torch,/,neuron,/; s/,ui,/,/; s/^,//; s/,$//')
    fi
    ;;
*) neuron=no ;;
esac
if [ $neuron = yes ]; then
    constraints=$here/requirements/neuron.txt
    "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' \
        || fail "optimum-neuron needs Python 3.11; set PYTHON=/path/to/python3.11 and remove $venv"
fi
pip="$pip --constraint $constraints"

case ",$extras," in
*,torch,* | *,neuron-test,*)
    if ! "$venv/bin/python" -c 'import torch' 2>/dev/null; then
        torch=$(sed -n "s/^torch==//p" "$here/$lock")
        echo "Installing torch $torch ..."
        if [ $neuron = no ] && { [ -e /dev/nvidia0 ] || [ -e /dev/nvidiactl ]; }; then
            $pip "torch==$torch"
        else
            $pip "torch==$torch+cpu" 2>/dev/null || {
                echo "No CPU build of torch in the configured indexes: taking the default build (larger)."
                $pip "torch==$torch" || fail "torch $torch cannot be installed; is there a network?"
            }
        fi
    fi
    ;;
*,neuron,*)
    # The default index has other packages of the same names, which only say that they are the wrong ones.
    echo "Installing AWS Neuron's packages ..."
    $pip --editable "$here[$extras]" \
        || fail "AWS Neuron's packages cannot be installed: add AWS's package index (PIP_EXTRA_INDEX_URL, see docs/neuron.md)"
    exit 0
    ;;
esac
echo "Installing the service's packages ..."
$pip --editable "$here[$extras]" || fail "the packages cannot be installed; is there a network?"
