#!/bin/sh
# Makes the virtual environment of the real Open WebUI, which the tests of `make test-open-webui` drive: install_open_webui.sh VENV
#
# It pins other versions than the service of nearly everything, so it has an environment of its own.
set -eu
venv=$1
python=${PYTHON:-python3}
here=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)

fail() {
    echo "install: $*" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null \
    || fail "Open WebUI needs Python 3.11 or 3.12; set PYTHON=/path/to/python3.11"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" || fail "cannot make $venv; on Debian: apt-get install python3-venv"
echo "Installing Open WebUI (0.7 GB) ..."
"$venv/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps \
    --requirement "$here/requirements/open-webui.txt" || fail "Open WebUI cannot be installed; is there a network?"
