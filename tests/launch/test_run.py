"""`run.sh`: how many ranks, where, with which environment; and what it refuses."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
SLOTS = "ip1 slots=3\nip2 slots=4\n"


@pytest.fixture
def launch(tree):
    """A tree whose `mpirun` and `setup.sh` record what they are called with."""
    tree.add_recorder("mpirun")
    tree.add_tool("setup.sh", '#!/usr/bin/env bash\necho called >>"$RECORDS/setup"\n', tree.root)
    return tree


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def handed_on(arguments: list[str]) -> set[str]:
    return {value for name, value in zip(arguments, arguments[1:], strict=False) if name == "-x"}


def mca(arguments: list[str]) -> dict[str, str]:
    return {arguments[i + 1]: arguments[i + 2] for i, word in enumerate(arguments) if word == "-mca"}


def hosts_file(tree, text: str) -> str:
    path = tree.root / "my hosts"
    path.write_bytes(text.encode())
    return str(path)


# ---- what is started ----


def test_hands_on_every_argument_unchanged(launch):
    arguments = ["--rec", "my faces/train.rec", "", "$HOME", "*", "it's", "-x", "-np", "--", "é\n"]
    assert launch.run("run.sh", *arguments).returncode == 0
    started = launch.arguments("mpirun")
    command = started.index("bash")
    assert started[command:] == ["bash", f"{launch.root}/config.sh", *arguments]


def test_stays_in_the_directory_it_is_started_in(launch, tmp_path):
    launch.run("run.sh", directory=tmp_path)
    assert (launch.records / "mpirun.directory").read_text().strip() == str(tmp_path)


def test_one_rank_a_core_where_there_is_no_gpu(launch):
    launch.run("run.sh", OMP_NUM_THREADS="5")
    started = launch.arguments("mpirun")
    assert (option(started, "-np"), option(started, "-H")) == ("12", "localhost:12")


@pytest.mark.parametrize(
    ("visible", "ranks"), [(None, "3"), ("0,2", "2"), ("GPU-8932f937", "1"), ("", "12"), ("-1", "12")]
)
def test_one_rank_a_gpu(launch, visible, ranks):
    listing = "".join(f"GPU {i}: Some GPU (UUID: GPU-{i})\\n" for i in range(3))
    launch.add_tool("nvidia-smi", f"#!/usr/bin/env bash\nprintf '{listing}'\n")
    variables = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    launch.run("run.sh", **variables)
    assert option(launch.arguments("mpirun"), "-np") == ranks


def test_a_driver_that_does_not_answer_is_no_gpu(launch):
    launch.add_tool("nvidia-smi", "#!/usr/bin/env bash\necho 'has failed'\nexit 9\n")
    launch.run("run.sh")
    assert option(launch.arguments("mpirun"), "-np") == "12"


def test_as_many_ranks_as_np_says(launch):
    launch.run("run.sh", NP="30")
    started = launch.arguments("mpirun")
    assert (option(started, "-np"), option(started, "-H")) == ("30", "localhost:30")


def test_ranks_are_not_bound_and_no_infiniband_is_asked_for(launch):
    launch.run("run.sh")
    started = launch.arguments("mpirun")
    assert option(started, "--bind-to") == "none"
    assert option(started, "--map-by") == "slot"
    assert mca(started) == {"pml": "ob1", "btl": "^openib"}


@pytest.mark.parametrize(("user", "allowed"), [("0", True), ("1000", False)])
def test_root_is_allowed(launch, user, allowed):
    launch.add_tool("id", f"#!/usr/bin/env bash\necho {user}\n")
    launch.run("run.sh")
    assert ("--allow-run-as-root" in launch.arguments("mpirun")) is allowed


def test_ranks_on_other_machines_get_the_environment(launch):
    sent = {"NCCL_DEBUG": "INFO", "HOROVOD_TIMELINE": "t", "MXNET_X": "a b", "OMP_NUM_THREADS": "2"}
    launch.run("run.sh", UNRELATED="1", **sent)
    names = handed_on(launch.arguments("mpirun"))
    assert names >= {"PATH", "PARTIAL_FC_PROGRESS", *sent}
    assert not names & {"UNRELATED", "HOME", "LD_LIBRARY_PATH"}  # the last is not set: mpirun would complain


def test_network_interface(launch):
    launch.run("run.sh", NETWORK_INTERFACE="eth7", NCCL_SOCKET_IFNAME="eth8")
    started, variables = launch.arguments("mpirun"), launch.variables_of("mpirun")
    assert mca(started)["btl_tcp_if_include"] == mca(started)["oob_tcp_if_include"] == "eth7"
    assert variables["HOROVOD_GLOO_IFACE"] == "eth7"
    assert variables["NCCL_SOCKET_IFNAME"] == "eth8"
    assert handed_on(started) >= {"HOROVOD_GLOO_IFACE", "NCCL_SOCKET_IFNAME"}


def test_ranks_are_told_that_the_output_is_no_terminal(launch):
    launch.run("run.sh")
    assert launch.variables_of("mpirun")["PARTIAL_FC_PROGRESS"] == "lines"


def test_ranks_are_told_that_the_output_is_a_terminal(launch):
    screen, terminal = os.openpty()
    try:
        command = ["bash", str(launch.root / "run.sh")]
        subprocess.run(command, env=launch.environment(), stdout=terminal, stderr=terminal, timeout=60)
    finally:
        os.close(screen)
        os.close(terminal)
    assert launch.variables_of("mpirun")["PARTIAL_FC_PROGRESS"] == "bar"


# ---- the hosts file ----


def test_hosts_file_gives_the_machines_and_their_slots(launch):
    path = hosts_file(launch, "# two machines\n\nip1 slots=3 # first\n  ip2\tslots=4")
    launch.run("run.sh", HOSTFILE=path)
    started = launch.arguments("mpirun")
    assert (option(started, "-np"), option(started, "--hostfile")) == ("7", path)
    assert "-H" not in started


def test_fewer_ranks_than_slots(launch):
    launch.run("run.sh", HOSTFILE=hosts_file(launch, SLOTS), NP="5")
    assert option(launch.arguments("mpirun"), "-np") == "5"


def test_the_example_is_read_by_run_and_by_horovodrun(launch):
    from horovod.runner.common.util.hosts import parse_host_files

    example = str(PROJECT / "hosts/two_machines")
    launch.run("run.sh", HOSTFILE=example)
    assert option(launch.arguments("mpirun"), "-np") == "16"
    assert parse_host_files(example) == "ip1:8,ip2:8"


# ---- what is refused: one sentence, and nothing is started or set up ----

REFUSED_FILES = {
    "": "names no machine",
    "\n# localhost slots=2\n \n": "names no machine",
    "ip1 slots=2\nip2\n": "line 2, must read 'NAME slots=RANKS', but is 'ip2'",
    "ip1 slot=2\n": "line 1, must read 'NAME slots=RANKS', but is 'ip1 slot=2'",
    "ip1 slots=0\n": "line 1",
    "ip1 slots=two\n": "line 1",
    "slots=2\n": "line 1",
    "ip1:8,ip2:8\n": "line 1",
    "ip1 slots=2 slots=3\n": "line 1",
    "ip1 slots=2\r\n": "line 1",
    "ip1 slots=2\nip2 slots=2\nip1 slots=2\n": "line 3, names ip1 again",
}


def assert_refused(launch, done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode != 0
    assert done.stdout == ""
    assert done.stderr.startswith("run.sh: ") and done.stderr.count("\n") == 1, done.stderr
    for part in parts:
        assert part in done.stderr
    assert not launch.was_called("mpirun")
    assert not (launch.records / "setup").exists()


@pytest.mark.parametrize("text", REFUSED_FILES)
def test_bad_hosts_file(launch, text):
    path = hosts_file(launch, text)
    assert_refused(launch, launch.run("run.sh", HOSTFILE=path), path, REFUSED_FILES[text])


def test_missing_hosts_file(launch):
    assert_refused(launch, launch.run("run.sh", HOSTFILE="no/such file"), "HOSTFILE", '"no/such file"')


def test_directory_as_hosts_file(launch, tmp_path):
    assert_refused(launch, launch.run("run.sh", HOSTFILE=str(tmp_path)), "HOSTFILE")


@pytest.mark.parametrize("ranks", ["0", "-1", "two", "1.5", "2 3", "0x2", "08", " ", "1\n2", "9" * 20])
def test_bad_number_of_ranks(launch, ranks):
    done = launch.run("run.sh", NP=ranks)
    assert done.returncode != 0
    assert done.stderr.startswith("run.sh: NP must be a number of ranks, 1 or more, but is ")
    assert not launch.was_called("mpirun")
    assert not (launch.records / "setup").exists()


def test_more_ranks_than_slots(launch):
    done = launch.run("run.sh", HOSTFILE=hosts_file(launch, SLOTS), NP="8")
    assert_refused(launch, done, "NP is 8", "7 slots")


def test_no_mpirun(launch):
    (launch.tools / "mpirun").unlink()
    done = launch.run("run.sh", PYTHON="python3")
    assert_refused(launch, done, "mpirun was not found")


# ---- set-up and exit status ----


def test_sets_up_first(launch):
    launch.run("run.sh")
    assert (launch.records / "setup").read_text() == "called\n"


def test_no_training_where_the_set_up_failed(launch):
    launch.add_tool("setup.sh", "#!/usr/bin/env bash\nexit 3\n", launch.root)
    assert launch.run("run.sh").returncode == 3
    assert not launch.was_called("mpirun")


def test_no_set_up_for_an_environment_of_the_users_own(launch):
    launch.run("run.sh", PYTHON="python3")
    assert launch.was_called("mpirun")
    assert not (launch.records / "setup").exists()
    assert "PYTHON" in handed_on(launch.arguments("mpirun"))


def test_exit_status_is_that_of_mpirun(launch):
    launch.add_recorder("mpirun", status=9)
    assert launch.run("run.sh").returncode == 9


def run_real_ranks(tree, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`run.sh` on 3 ranks by the real mpirun, each of which runs `program` in place of Python."""
    rank = tree.add_tool("rank", f"#!/usr/bin/env bash\n{program}\n")
    environment = dict(os.environ) | {"PYTHON": str(rank), "NP": "3", "RECORDS": str(tree.records)}
    environment.pop("HOSTFILE", None)
    command = ["bash", str(tree.root / "run.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_real_ranks_get_every_argument(tree):
    program = 'printf "%s|" "$OMPI_COMM_WORLD_SIZE" "$@" >"$RECORDS/$OMPI_COMM_WORLD_RANK"'
    done = run_real_ranks(tree, program, "--rec", "my faces.rec", "", "*")
    assert done.returncode == 0, done.stderr
    for rank in "012":
        words = (tree.records / rank).read_text()
        assert words == "3|-m|partial_fc.train|--rec|my faces.rec||*|"


def test_fails_when_one_real_rank_fails(tree):
    done = run_real_ranks(tree, '[ "$OMPI_COMM_WORLD_RANK" != 1 ]')
    assert done.returncode != 0


# ---- starting again, and ending ----

COUNTING = """#!/usr/bin/env bash
printf '%s ' "$@" >>"$RECORDS/calls"; echo >>"$RECORDS/calls"
statuses=({statuses})
exit "${{statuses[$(($(wc -l <"$RECORDS/calls") - 1))]}}"
"""


def calls(tree) -> list[str]:
    return (tree.records / "calls").read_text().splitlines()


@pytest.mark.parametrize(
    ("statuses", "restarts", "starts", "status"),
    [
        ("137 3 0", 5, 3, 0),
        ("137 137 137", 2, 3, 137),
        ("4", 0, 1, 4),
        ("75 0", 1, 2, 0),
        ("2", 5, 1, 2),
        ("6", 5, 1, 6),
        ("0", 5, 1, 0),
    ],
)
def test_restarts(launch, statuses: str, restarts: int, starts: int, status: int) -> None:
    launch.add_tool("mpirun", COUNTING.format(statuses=statuses))
    done = launch.run("run.sh", "--network", "toy", "--restarts", str(restarts), "--lr", "0.1")
    assert done.returncode == status, done.stderr
    first, *others = calls(launch)
    assert len(others) == starts - 1
    assert first.endswith("config.sh --network toy --lr 0.1 ")
    for line in others:
        assert line.endswith("config.sh --network toy --lr 0.1 --resume auto ")
    assert done.stderr.count("they start again from the newest checkpoint") == starts - 1


@pytest.mark.parametrize("arguments", [("--restarts",), ("--restarts", "x"), ("--restarts=-1",)])
def test_bad_number_of_restarts(launch, arguments: tuple[str, ...]) -> None:
    done = launch.run("run.sh", *arguments)
    assert done.returncode == 2
    assert "--restarts must be" in done.stderr
    assert not launch.was_called("mpirun")


WAITING = """#!/usr/bin/env bash
trap 'echo asked >>"$RECORDS/calls"; exit 75' USR1
trap 'echo ended >>"$RECORDS/calls"; exit 143' TERM
trap '' INT
echo started >>"$RECORDS/calls"
while :; do read -r -t 0.1 <> <(:) || :; done
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_request_to_end_reaches_the_ranks_and_nothing_starts_again(launch, number: signal.Signals) -> None:
    launch.add_tool("mpirun", WAITING)
    process = subprocess.Popen(
        ["bash", str(launch.root / "run.sh"), "--restarts", "5"], env=launch.environment(), cwd=launch.root,
        stderr=subprocess.PIPE, text=True,
        # Under nohup the tests ignore SIGHUP, and a shell cannot trap what was ignored when it started.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    waiting = threading.Event()
    while not (launch.records / "calls").exists():
        assert process.poll() is None
        waiting.wait(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    assert calls(launch) == ["started", "asked"]
    assert "ends after this step, with a checkpoint" in errors
