#!/usr/bin/env bash
# Makes the environment of this project in .venv, from nothing on a bare Debian: system packages, the pinned
# Python packages, Horovod built against the installed MXNet. What is there already is not made again; a step
# that failed is repeated by the next run.
#
#   bash setup.sh                         MXNet for CPUs, or the wheel named last time
#   MXNET=mxnet-cu112 bash setup.sh       an MXNet wheel for GPUs; a version too: mxnet-cu102==1.9.0
#   PYTHON=python3.10 bash setup.sh       the interpreter that a new .venv is made with
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
venv="$root/.venv"
python="$venv/bin/python"
stamps="$venv/.setup" # what succeeded: goes when .venv goes
logs="$root/.setup"   # one log a step, and the lock
# Horovod 0.28.1 builds with no newer setuptools and no newer CMake.
build_tools=(wheel==0.45.1 setuptools==68.2.2 cmake==3.31.6)

# The user's Python paths are not those of the environment that is made here.
unset PYTHONPATH PYTHONHOME

say() { printf 'setup: %s\n' "$*"; }

die() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}

# step NAME TITLE COMMAND...: runs a command with its output in a log, and ends the set-up where it fails.
step() {
    local name="$1" title="$2" log="$logs/$1.log" status=0
    shift 2
    say "$title"
    set +e # in an `if` or before `||`, the step itself would run without `set -e`
    (set -e; "$@") >"$log" 2>&1 </dev/null
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        tail -n 15 "$log" | sed 's/^/    /' >&2
        die "the step \"$name\" failed (exit status $status): its log is $log; the next run repeats it"
    fi
}

# ---- which MXNet -------------------------------------------------------------------------------------------

pin() { sed -n "s/^$1==//p" "$root/requirements.txt"; }

# The requirement that a wheel's name stands for, at the pinned version where none is named.
mxnet_requirement() {
    case "$1" in
        mxnet | mxnet-cu10[12] | mxnet-cu11[0-7]) echo "$1==$(pin mxnet)" ;;
        mxnet-cu100) echo "$1==1.9.0" ;; # there is no later one
        *)
            [[ "$1" =~ ^mxnet(-cu[0-9]{2,3})?==[0-9][0-9a-z.]*$ ]] ||
                die "MXNET must name an MXNet wheel, alone or with ==VERSION, but is \"$1\": set it to" \
                    "mxnet, mxnet-cu100, mxnet-cu101, mxnet-cu102 or one of mxnet-cu110 to mxnet-cu117"
            echo "$1"
            ;;
    esac
}

# MXNET, or what it was last time: `bash run.sh` keeps the GPU environment that was asked for once.
chosen_mxnet() {
    if [ -n "${MXNET:-}" ]; then
        echo "$MXNET"
    elif [ -f "$stamps/mxnet" ]; then
        cat "$stamps/mxnet"
    else
        echo mxnet
    fi
}

# ---- nothing to do? ----------------------------------------------------------------------------------------

# Of everything that makes another environment when it changes.
fingerprint() {
    (
        cd "$root"
        echo "$mxnet"
        cat setup.sh requirements.txt requirements-test.txt
        find src -path '*/kernels/*' -regex '.*\(\.[ch]\|/build\.py\)' | sort | xargs -r cat
    ) | sha256sum
}

is_complete() {
    [ -x "$python" ] && [ -f "$stamps/complete" ] && [ "$(fingerprint)" = "$(cat "$stamps/complete")" ]
}

# ---- Python and system packages ----------------------------------------------------------------------------

# Every interpreter that could serve. pyenv puts shims on the PATH that may not run, so each is tried, and the
# interpreters behind the shims come after them.
python_candidates() {
    if [ -n "${PYTHON:-}" ]; then
        echo "$PYTHON"
    else
        type -aP python3.11 python3.10 python3 || true
        ls -d "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.1[01].*/bin/python3 2>/dev/null || true
    fi
}

# find_python MODULES: the first interpreter of 3.10 or 3.11 that runs and imports them.
find_python() {
    local candidate
    while read -r candidate; do
        if "$candidate" -c "import sys, $1; sys.exit(sys.version_info[:2] not in ((3, 10), (3, 11)))" \
            >/dev/null 2>&1 </dev/null; then
            echo "$candidate"
            return
        fi
    done < <(python_candidates)
    return 1
}

has_venv() { "$python" -c 'import pip' 2>/dev/null; }

missing_python_packages() {
    local base release
    if has_venv || find_python 'venv, ensurepip' >/dev/null; then
        return
    fi
    if base="$(find_python sys)"; then
        "$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'
        return
    fi
    # The releases whose own python3 is 3.10 or 3.11: elsewhere that package would not help.
    release="$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release 2>/dev/null || true)"
    if [ -z "${PYTHON:-}" ] && [[ "$release" =~ ^(bookworm|jammy)$ ]]; then
        printf '%s\n' python3 python3-venv
    fi
}

has_library() { PATH="$PATH:/sbin:/usr/sbin" ldconfig -p | grep -F "$1 " >/dev/null; }

# The Debian packages that this machine lacks, one a line.
missing_packages() {
    missing_python_packages
    mpirun --version 2>/dev/null </dev/null | grep 'Open MPI' >/dev/null || echo openmpi-bin
    mpicxx --showme:version >/dev/null 2>&1 || echo libopenmpi-dev
    command -v g++ >/dev/null || echo g++
    command -v make >/dev/null || echo make
    has_library libGL.so.1 || echo libgl1 # OpenCV's, as the next
    has_library libgthread-2.0.so.0 || echo libglib2.0-0
}

# Without the lock: a package may start a service, which would keep it.
apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    exec 9>&-
    apt-get update
    apt-get install -y --no-install-recommends "$@"
}

install_system_packages() {
    local packages
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -gt 0 ] || return 0
    if ! command -v apt-get >/dev/null; then
        die "this machine lacks what Debian's packages ${packages[*]} hold: install it, then run this again"
    elif [ "$(id -u)" -ne 0 ]; then
        die "system packages are missing; run this line, then set up again:" \
            "sudo apt-get update && sudo apt-get install -y ${packages[*]}"
    fi
    step system "system packages: ${packages[*]}" apt_install "${packages[@]}"
    mapfile -t packages < <(missing_packages)
    [ "${#packages[@]}" -eq 0 ] ||
        die "${packages[*]} was installed, and is not what is found on the PATH: is another one before it?"
}

make_venv() {
    local base
    if has_venv; then
        return
    fi
    base="$(find_python 'venv, ensurepip')" ||
        die "no Python 3.10 or 3.11 was found that runs${PYTHON:+ (PYTHON is \"$PYTHON\")}:" \
            "install one (pyenv install 3.11) and set PYTHON to it"
    step python ".venv of $("$base" --version) ($base)" "$base" -m venv --clear "$venv"
}

# ---- Python packages ---------------------------------------------------------------------------------------

# The pinned requirements with the chosen MXNet, and without Horovod, which has a step of its own.
requirements() {
    sed -e "s/^mxnet==.*/$mxnet/" -e '/^horovod==/d' "$root/requirements.txt" "$root/requirements-test.txt"
    printf '%s\n' "${build_tools[@]}"
}

# Whether .venv holds each requirement of standard input at its pinned version.
are_installed() {
    "$python" -c '
import importlib.metadata, sys
from pip._vendor.packaging.requirements import Requirement

def is_met(requirement):
    try:
        return requirement.specifier.contains(importlib.metadata.version(requirement.name))
    except importlib.metadata.PackageNotFoundError:
        return False

wanted = [Requirement(line) for line in sys.stdin if line.strip() and not line.startswith("#")]
sys.exit(not all(is_met(one) for one in wanted if one.marker is None or one.marker.evaluate()))'
}

# Before anything is removed: a wheel that does not exist leaves the environment as it is.
fetch_mxnet() { "$python" -m pip download --no-deps --only-binary :all: --dest "$stamps/wheel" "$mxnet"; }

# Another MXNet wheel brings the same files, and Horovod's library belongs to the one it was built against.
remove_other_mxnet() {
    local others
    mapfile -t others < <(
        "$python" -m pip list --format=freeze | grep -E '^mxnet(-cu[0-9]+)?==' | grep -Fvx "$mxnet"
    )
    if [ "${#others[@]}" -gt 0 ]; then
        "$python" -m pip uninstall -y "${others[@]%%==*}" horovod
    fi
}

# --no-deps: every package is in the list, so that pip resolves nothing; `pip check` sees what it lacks.
install_packages() {
    remove_other_mxnet
    requirements >"$stamps/requirements.txt"
    "$python" -m pip install --no-deps --find-links "$stamps/wheel" -r "$stamps/requirements.txt"
    "$python" -m pip check
}

check_mxnet() {
    "$python" -c '
import sys
try:
    import mxnet
except OSError as error:
    sys.exit(f"MXNet does not load: {error}. A wheel for GPUs needs the driver, CUDA in the version of its name"
             " (cu112: 11.2), cuDNN and NCCL, all where the loader finds them (LD_LIBRARY_PATH)."
             " MXNET=mxnet bash setup.sh goes back to the CPU.")'
}

install_requirements() {
    export PIP_DISABLE_PIP_VERSION_CHECK=1
    if ! echo "$mxnet" | are_installed; then
        step wheel "$mxnet" fetch_mxnet
    fi
    echo "$choice" >"$stamps/mxnet" # before what may fail: the next run goes on with the same wheel
    if ! requirements | are_installed; then
        step packages "Python packages" install_packages
    fi
    rm -rf "$stamps/wheel"
    step mxnet "$mxnet loads" check_mxnet
}

# For `python -m partial_fc.train` in the activated environment: `symbol/` and `default.py` lie in the root.
write_paths() {
    local packages
    packages="$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    printf '%s\n' "$root" "$root/src" >"$packages/partial_fc.pth"
}

# ---- Horovod -----------------------------------------------------------------------------------------------

horovod_works() {
    "$python" -c '
import sys
import horovod.mxnet as hvd
sys.exit(not (hvd.mpi_built() and hvd.gloo_built() and (sys.argv[1] == "cpu" or hvd.nccl_built())))' \
        "$device" >/dev/null 2>&1
}

# mxnet-cu112 is for CUDA 11.2: that toolkit is taken where it lies beside others.
choose_cuda() {
    local toolkit
    [[ "$mxnet" =~ -cu([0-9]+)([0-9])== ]]
    toolkit="/usr/local/cuda-${BASH_REMATCH[1]}.${BASH_REMATCH[2]}"
    if [ -z "${HOROVOD_CUDA_HOME:-}" ] && [ -d "$toolkit" ]; then
        export HOROVOD_CUDA_HOME="$toolkit"
    fi
    export HOROVOD_GPU_OPERATIONS=NCCL
}

# A wheel in pip's cache may be built for another MXNet, or for none: --no-cache-dir.
build_horovod() {
    PATH="$venv/bin:$PATH"
    MAKEFLAGS="-j$(nproc)"
    export PATH MAKEFLAGS HOROVOD_CMAKE="$venv/bin/cmake"
    export HOROVOD_WITH_MXNET=1 HOROVOD_WITH_MPI=1 HOROVOD_WITH_GLOO=1
    export HOROVOD_WITHOUT_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1
    if [ "$device" = gpu ]; then
        choose_cuda
    fi
    "$python" -m pip install --verbose --no-deps --force-reinstall --no-build-isolation --no-cache-dir \
        --no-binary horovod "$horovod"
    horovod_works || die "Horovod was built, but it does not load, or without one of MPI, Gloo, NCCL"
}

install_horovod() {
    local wanted="$horovod for $mxnet" built
    built="$(cat "$stamps/horovod" 2>/dev/null || echo "$wanted")" # without a stamp, it may work all the same
    if [ "$built" != "$wanted" ] || ! horovod_works; then
        rm -f "$stamps/horovod"
        step horovod "$horovod, built against $mxnet with MPI and Gloo (some minutes)" build_horovod
    fi
    echo "$wanted" >"$stamps/horovod"
}

# ---- the last steps ----------------------------------------------------------------------------------------

self_check() {
    "$python" -c '
import platform

import cv2
import horovod
import horovod.mxnet as hvd
import mpi4py
import mxnet
import numpy

mpi4py.rc.initialize = False
from mpi4py import MPI

built = {"MPI": hvd.mpi_built(), "Gloo": hvd.gloo_built(), "NCCL": hvd.nccl_built()}
print("Python", platform.python_version(), "NumPy", numpy.__version__, "OpenCV", cv2.__version__)
print("MXNet", mxnet.__version__, "on", mxnet.context.num_gpus(), "GPUs")
print("Horovod", horovod.__version__, "with", ", ".join(name for name, has in built.items() if has))
print("mpi4py", mpi4py.__version__, "on", MPI.Get_library_version().split(",")[0])'
}

# The head's C functions make it faster; it works without them. The next set-up tries again.
build_kernels() {
    [ -f "$root/src/partial_fc/head/kernels/build.py" ] || return 0
    "$python" -m partial_fc.head.kernels.build >"$logs/kernels.log" 2>&1 </dev/null || {
        say "warning: the head's C functions were not built, it runs without them: see $logs/kernels.log" >&2
        return 1
    }
}

hint_gpu() {
    if [ "$device" = cpu ] && nvidia-smi -L >/dev/null 2>&1; then
        say "this machine has GPUs, which $mxnet does not use: for CUDA 11.2, MXNET=mxnet-cu112 bash setup.sh"
    fi
}

set_up() {
    rm -f "$stamps/complete"
    install_system_packages
    make_venv
    mkdir -p "$stamps"
    install_requirements
    write_paths
    install_horovod
    step check "self-check" self_check
    sed 's/^/setup:   /' "$logs/check.log"
    hint_gpu
    if build_kernels; then
        fingerprint >"$stamps/complete"
    fi
}

choice="$(chosen_mxnet)"
mxnet="$(mxnet_requirement "$choice")"
horovod="horovod==$(pin horovod)"
device=cpu
if [[ "$mxnet" == mxnet-cu* ]]; then
    device=gpu
fi

if ! is_complete; then
    mkdir -p "$logs"
    exec 9>"$logs/lock" # pip and the compiler hold it too: what a killed set-up leaves behind is waited for
    flock --nonblock 9 || { say "another set-up runs in this directory: waiting for it"; flock 9; }
    is_complete || set_up
fi
say ".venv is ready ($mxnet)"
