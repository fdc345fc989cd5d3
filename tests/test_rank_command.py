"""How a command leaves: its status, who says the error, and that a rank in trouble does not go quietly."""

import pytest

from partial_fc import rank_command
from partial_fc.collectives import PeerLostError, RankError, SingleProcess
from partial_fc.rank_command import run_on_ranks


class World(SingleProcess):
    closed = False

    def close(self):
        self.closed = True


@pytest.fixture
def world(monkeypatch):
    world = World()
    monkeypatch.setattr(rank_command, "connect", lambda: world)
    return world


def test_work_gives_the_status(world):
    assert run_on_ranks(lambda collectives: 7 + collectives.rank) == 7
    assert world.closed


@pytest.mark.parametrize(("rank", "said"), [(0, "error: no such file\n"), (1, "")])
def test_an_error_of_all_is_said_once(world, capsys, rank, said):
    world.rank = rank

    def work(collectives):
        raise RankError("no such file")

    assert run_on_ranks(work) == 2
    assert capsys.readouterr().err == said and world.closed


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (PeerLostError("another rank went away"), 3, "error: another rank went away"),
        (KeyboardInterrupt(), 130, "stopped by Ctrl-C"),
        (ZeroDivisionError("mistake"), 1, ""),
    ],
)
def test_a_rank_in_trouble_ends_the_run(world, capsys, caplog, error, status, said):
    def work(collectives):
        raise error

    with pytest.raises(SystemExit) as left:
        run_on_ranks(work)
    assert left.value.code == status and not world.closed
    assert capsys.readouterr().err.strip() == said
    assert ("rank 0 ends the run" in caplog.text) == (status == 1)
