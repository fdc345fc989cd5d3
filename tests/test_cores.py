import os

import pytest

from partial_fc.cores import use_all_cores


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, 6),
        ({"HOROVOD_LOCAL_SIZE": "2"}, 3),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "9"}, 1),
        ({"OMP_NUM_THREADS": "5"}, 5),
    ],
)
def test_a_rank_has_its_part_of_the_cores(monkeypatch, given, expected):
    monkeypatch.setattr(os, "environ", dict(given))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {*range(6)})
    use_all_cores()
    assert os.environ["OMP_NUM_THREADS"] == str(expected)
