"""`setup.sh`: what it makes, in which order, what it does not make again, and what it says when a step fails.

Python, pip, MPI and apt are stand-ins that note what they are called for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

# An interpreter that "installs" by writing files to $RECORDS: `mxnet` holds the wheel that is there, and
# `packages` and `horovod` exist when those are. As the interpreter of a new environment it copies itself.
# What it is called for goes to `calls`. A file `fail-X` lets the call X fail; `shim` turns an interpreter
# that is in no environment into one of pyenv's shims, with no version behind it.
PYTHON = r"""#!/usr/bin/env bash
set -euo pipefail
cd "$RECORDS"
note() {
    echo "$1" >>calls
    [ ! -e "fail-${1%% *}" ] || { echo "no luck with $1"; exit 4; }
}
wheel() { grep -oE '^mxnet(-cu[0-9]+)?==.*'; }
case "$*" in
    --version) echo Python 3.11.9 ;;
    "-m venv --clear "*)
        note venv
        sleep "${VENV_SECONDS:-0}"
        mkdir -p "$4/bin"
        cp "$0" "$4/bin/python" ;;
    "-m pip list"*) [ ! -e mxnet ] || cat mxnet ;;
    "-m pip download"*) note "download ${*: -1}" ;;
    "-m pip uninstall"*) note "uninstall ${*:5}"; rm -f mxnet horovod ;;
    "-m pip install"*" -r "*) note packages; touch packages; wheel <"${*: -1}" >mxnet ;;
    "-m pip install"*) note "horovod for $(cat mxnet) ${HOROVOD_GPU_OPERATIONS:-CPU}"; touch horovod ;;
    "-m pip check") ;;
    "-m partial_fc.head.kernels.build") note kernels ;;
    *importlib.metadata*)
        wanted="$(cat)"
        [ "$(wheel <<<"$wanted")" = "$(cat mxnet 2>/dev/null)" ]
        [ "$(wc -l <<<"$wanted")" -eq 1 ] || [ -e packages ] ;;
    *get_path*) mkdir -p site; echo "$RECORDS/site" ;;
    *"hvd.nccl_built()))"*) [ -e horovod ] ;;
    *"import mxnet"*"except OSError"*) note load ;;
    *get_version*|*Get_library_version*) note check; echo "MXNet 1.9.1" ;;
    "-c import sys, "*) [ ! -e shim ] || [[ "$0" == */python ]] ;;
    *) ;;
esac
"""

FIRST_SET_UP = ["venv", "download mxnet==1.9.1", "packages", "load", "horovod for mxnet==1.9.1 CPU", "check"]


@pytest.fixture
def bare(tree):
    """A tree on a machine with everything that Debian's packages bring, and no environment yet."""
    tree.add_tool("python3.11", PYTHON)
    tree.add_tool("mpirun", "#!/usr/bin/env bash\necho 'mpirun (Open MPI) 4.1.4'\n")
    tree.add_tool("ldconfig", "#!/usr/bin/env bash\necho 'libGL.so.1 (x)'; echo 'libgthread-2.0.so.0 (x)'\n")
    for name in ("mpicxx", "g++", "make"):
        tree.add_tool(name, "#!/usr/bin/env bash\n")
    return tree


def calls(tree) -> list[str]:
    """What was called since the last time this was asked."""
    path = tree.records / "calls"
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


def set_up(tree, **variables: str) -> list[str]:
    done = tree.run("setup.sh", **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return calls(tree)


def test_makes_everything_in_order(bare):
    assert set_up(bare) == FIRST_SET_UP


def test_paths_of_the_project_are_those_of_the_environment(bare):
    set_up(bare)
    paths = (bare.records / "site/partial_fc.pth").read_text().splitlines()
    assert paths == [str(bare.root), f"{bare.root}/src"]


def test_makes_nothing_twice(bare):
    set_up(bare)
    assert set_up(bare) == []


def test_a_changed_pin_installs_packages_and_keeps_horovod(bare):
    set_up(bare)
    with open(bare.root / "requirements.txt", "a") as requirements:
        requirements.write("tqdm==4.67.1\n")
    (bare.records / "packages").unlink()
    assert set_up(bare) == ["packages", "load", "check"]
    assert set_up(bare) == []


def test_adopts_an_environment_without_stamps(bare):
    set_up(bare)
    shutil.rmtree(bare.root / ".venv/.setup")
    assert set_up(bare) == ["load", "check"]


def test_horovod_that_does_not_load_is_built_again(bare):
    set_up(bare)
    (bare.root / ".venv/.setup/complete").unlink()
    (bare.records / "horovod").unlink()
    assert set_up(bare) == ["load", "horovod for mxnet==1.9.1 CPU", "check"]


@pytest.mark.parametrize(
    ("name", "step", "skipped"),
    [
        ("venv", "python", 0),
        ("download", "wheel", 1),
        ("packages", "packages", 1),
        ("load", "mxnet", 3),
        ("horovod", "horovod", 3),
        ("check", "check", 3),
    ],
)
def test_a_failed_step_is_named_with_its_log_and_repeated(bare, name, step, skipped):
    """The next run repeats the step, and passes over the `skipped` first ones."""
    (bare.records / f"fail-{name}").touch()
    done = bare.run("setup.sh")
    log = bare.root / f".setup/{step}.log"
    assert done.returncode != 0
    assert f'the step "{step}" failed' in done.stderr and str(log) in done.stderr
    assert "no luck" in log.read_text() and "no luck" in done.stderr
    assert calls(bare)[-1].startswith(name)
    (bare.records / f"fail-{name}").unlink()
    rest = [call for call in FIRST_SET_UP[skipped:] if name != "check" or not call.startswith("horovod")]
    assert set_up(bare) == rest
    assert set_up(bare) == []


# ---- MXNet wheels ----


@pytest.mark.parametrize(
    ("wheel", "requirement"),
    [
        ("mxnet-cu101", "mxnet-cu101==1.9.1"),
        ("mxnet-cu112", "mxnet-cu112==1.9.1"),
        ("mxnet-cu117", "mxnet-cu117==1.9.1"),
        ("mxnet-cu100", "mxnet-cu100==1.9.0"),
        ("mxnet-cu102==1.9.0", "mxnet-cu102==1.9.0"),
    ],
)
def test_a_gpu_wheel_builds_horovod_with_nccl(bare, wheel, requirement):
    made = set_up(bare, MXNET=wheel)
    assert f"download {requirement}" in made
    assert f"horovod for {requirement} NCCL" in made


def test_another_wheel_replaces_mxnet_and_horovod_and_stays(bare):
    set_up(bare)
    assert set_up(bare, MXNET="mxnet-cu112") == [
        "download mxnet-cu112==1.9.1",
        "uninstall mxnet horovod",
        "packages",
        "load",
        "horovod for mxnet-cu112==1.9.1 NCCL",
        "check",
    ]
    assert set_up(bare) == []  # with MXNET not set: what was asked for last
    assert set_up(bare, MXNET="mxnet")[0] == "download mxnet==1.9.1"
    assert (bare.records / "mxnet").read_text() == "mxnet==1.9.1\n"


def test_a_gpu_set_up_that_failed_goes_on_with_the_same_wheel(bare):
    (bare.records / "fail-horovod").touch()
    assert bare.run("setup.sh", MXNET="mxnet-cu112").returncode != 0
    (bare.records / "fail-horovod").unlink()
    calls(bare)
    assert set_up(bare) == ["load", "horovod for mxnet-cu112==1.9.1 NCCL", "check"]


def test_a_wheel_that_cannot_be_had_leaves_the_environment_as_it_was(bare):
    set_up(bare)
    (bare.records / "fail-download").touch()
    assert bare.run("setup.sh", MXNET="mxnet-cu112==9.9.9").returncode != 0
    assert calls(bare) == ["download mxnet-cu112==9.9.9"]
    assert set_up(bare) == ["load", "check"]


@pytest.mark.parametrize("wheel", ["mxnet-cu99", "mxnet-rocm", "torch", "mxnet==", "mxnet==1; x", "mxnet>=1"])
def test_an_unknown_wheel_is_one_sentence_and_changes_nothing(bare, wheel):
    done = bare.run("setup.sh", MXNET=wheel)
    assert done.returncode != 0
    assert done.stderr.startswith("setup: MXNET must name an MXNet wheel") and done.stderr.count("\n") == 1
    assert f'"{wheel}"' in done.stderr and "mxnet-cu110 to mxnet-cu117" in done.stderr
    assert calls(bare) == []
    assert not (bare.root / ".venv").exists()


# ---- Python ----


def test_a_shim_that_does_not_run_is_passed_over(bare):
    (bare.records / "shim").touch()
    works = PYTHON.replace('[[ "$0" == */python ]]', "true")
    behind = bare.add_tool("python3", works, bare.root / ".pyenv/versions/3.10.4/bin")
    done = bare.run("setup.sh")
    assert done.returncode == 0, done.stderr
    assert str(behind) in done.stdout


def test_no_python_that_runs(bare):
    (bare.records / "shim").touch()
    bare.add_tool("id", "#!/usr/bin/env bash\necho 0\n")
    done = bare.run("setup.sh", PYTHON="python3.11")
    assert done.returncode != 0
    assert "no Python 3.10 or 3.11 was found that runs" in done.stderr and "python3.11" in done.stderr
    assert calls(bare) == []


def test_an_environment_that_does_not_run_is_made_anew(bare):
    set_up(bare)
    bare.add_tool("python", "#!/no/such/interpreter\n", bare.root / ".venv/bin")
    (bare.root / ".venv/.setup/complete").unlink()
    assert set_up(bare)[0] == "venv"


# ---- system packages ----

APT = '#!/usr/bin/env bash\necho "apt $*" >>"$RECORDS/calls"\n'
LACKING = ("mpirun", "mpicxx", "g++", "make", "ldconfig")
PACKAGES = "openmpi-bin libopenmpi-dev g++ make libgl1 libglib2.0-0"


def take_away(tree, user: int, apt: str = APT) -> None:
    """A machine that has only what is in `BARE_TOOLS`, Python and apt-get."""
    for name in LACKING:
        (tree.tools / name).rename(tree.records / f"kept-{name}")
    tree.add_tool("ldconfig", "#!/usr/bin/env bash\n")
    tree.add_tool("id", f"#!/usr/bin/env bash\necho {user}\n")
    tree.add_tool("apt-get", apt)


def test_without_root_it_prints_the_line_to_run(bare):
    take_away(bare, user=1000)
    done = bare.run("setup.sh")
    assert done.returncode != 0
    assert done.stderr.count("\n") == 1
    assert done.stderr.endswith(f": sudo apt-get update && sudo apt-get install -y {PACKAGES}\n")
    assert calls(bare) == []


def test_without_root_it_goes_on_when_nothing_is_missing(bare):
    bare.add_tool("id", "#!/usr/bin/env bash\necho 1000\n")
    assert set_up(bare) == FIRST_SET_UP


def test_root_installs_what_is_missing(bare):
    restore = 'for path in "$RECORDS"/kept-*; do mv "$path" "$TOOLS/${path##*/kept-}"; done\n'
    take_away(bare, user=0, apt=f'{APT}[ "$1" = update ] || {restore}')
    made = set_up(bare, TOOLS=str(bare.tools))
    assert made[:2] == ["apt update", f"apt install -y --no-install-recommends {PACKAGES}"]
    assert made[2:] == FIRST_SET_UP


def test_only_what_is_missing_is_installed(bare):
    (bare.tools / "make").unlink()
    bare.add_tool("id", "#!/usr/bin/env bash\necho 1000\n")
    bare.add_tool("apt-get", APT)
    assert bare.run("setup.sh").stderr.endswith("apt-get install -y make\n")


def test_another_mpi_is_not_open_mpi(bare):
    bare.add_tool("mpirun", "#!/usr/bin/env bash\necho 'HYDRA build details'\n")
    bare.add_tool("id", "#!/usr/bin/env bash\necho 1000\n")
    bare.add_tool("apt-get", APT)
    assert bare.run("setup.sh").stderr.endswith("apt-get install -y openmpi-bin\n")


def test_apt_that_fails_is_a_failed_step(bare):
    take_away(bare, user=0, apt=APT + "echo 'no network'; exit 100\n")
    done = bare.run("setup.sh")
    assert done.returncode != 0
    assert 'the step "system" failed (exit status 100)' in done.stderr and "no network" in done.stderr
    assert calls(bare) == ["apt update"]


def test_apt_that_does_not_help_is_said(bare):
    take_away(bare, user=0)
    done = bare.run("setup.sh")
    assert done.returncode != 0
    assert "is not what is found on the PATH" in done.stderr


# ---- two at once, the head's C functions ----


def test_two_set_ups_at_once_make_everything_once(bare):
    command = ["bash", str(bare.root / "setup.sh")]
    environment = bare.environment(VENV_SECONDS="2")
    first = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (bare.records / "calls").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    first.communicate(timeout=60)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another set-up runs in this directory" in second.stdout
    assert calls(bare) == FIRST_SET_UP


def add_kernels(tree) -> Path:
    directory = tree.root / "src/partial_fc/head/kernels"
    directory.mkdir(parents=True)
    (directory / "build.py").touch()
    return directory


def test_the_heads_c_functions_are_built_last_and_again_when_they_change(bare):
    directory = add_kernels(bare)
    assert set_up(bare) == [*FIRST_SET_UP, "kernels"]
    assert set_up(bare) == []
    (directory / "softmax.c").write_text("int one;\n")
    assert set_up(bare) == ["load", "check", "kernels"]


def test_c_functions_that_do_not_build_are_a_warning(bare):
    add_kernels(bare)
    (bare.records / "fail-kernels").touch()
    done = bare.run("setup.sh")
    assert done.returncode == 0
    assert "warning" in done.stderr and "kernels.log" in done.stderr
    calls(bare)
    (bare.records / "fail-kernels").unlink()
    assert set_up(bare) == ["load", "check", "kernels"]


def test_a_ready_environment_takes_no_time(bare):
    set_up(bare)
    begin = os.times()
    done = bare.run("setup.sh")
    end = os.times()
    assert end.children_user + end.children_system - begin.children_user - begin.children_system < 2.0
    assert done.stdout == "setup: .venv is ready (mxnet==1.9.1)\n"


# ---- for real ----


@pytest.mark.parametrize(
    ("requirements", "installed"),
    [
        (f"pytest=={pytest.__version__}\n", True),
        (f"# a comment\n\npytest=={pytest.__version__}\n", True),
        (f"pytest=={pytest.__version__}\nno-such-package==1\n", False),
        (f"pytest=={pytest.__version__}.1\n", False),
        ('no-such-package==1; python_version < "3"\n', True),
    ],
)
def test_are_installed_compares_pins_with_what_is_there(requirements, installed):
    script = (PROJECT / "setup.sh").read_text()
    function = script[script.index("are_installed() {") :].split("\n}\n")[0] + "\n}\n"
    done = subprocess.run(
        ["bash", "-c", f'python="$1"\n{function}are_installed', "bash", sys.executable],
        input=requirements,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert done.stderr == ""
    assert (done.returncode == 0) is installed


def test_every_requirement_is_pinned():
    for name in ("requirements.txt", "requirements-test.txt"):
        for line in (PROJECT / name).read_text().splitlines():
            pinned = re.fullmatch(r'[A-Za-z0-9_-]+==[0-9.]+(post[0-9]+)?(; python_version < "3\.11")?', line)
            assert pinned or not line or line.startswith("#"), line
