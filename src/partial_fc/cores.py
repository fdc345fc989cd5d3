"""A rank's part of its machine's cores, settled before MXNet is imported, which takes half of all unless told."""

from __future__ import annotations

import os

_RANKS_HERE = ("HOROVOD_LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE")


def use_all_cores() -> None:
    """Sets `OMP_NUM_THREADS`, where it is not set, to this process's cores over the ranks of this machine."""
    ranks_here = next((int(os.environ[name]) for name in _RANKS_HERE if name in os.environ), 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // ranks_here)))
