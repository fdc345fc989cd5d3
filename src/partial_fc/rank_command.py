"""The frame of a command that runs alone or as the ranks of a launcher: who says an error, how ranks leave."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from partial_fc.collectives import Collectives, PeerLostError, RankError
from partial_fc.exit_status import INTERRUPTED, MISTAKE, PEER_LOST, REFUSED
from partial_fc.horovod_collectives import connect

logger = logging.getLogger("partial_fc")


def run_on_ranks(work: Callable[[Collectives], int]) -> int:
    """Joins the run of a launcher, or makes one of this process alone, and does `work`; returns the exit status.

    That of `work`, or 2 for a RankError, which rank 0 alone says. A rank that is in trouble by itself ends the run.
    """
    collectives = connect()
    try:
        status = work(collectives)
    except RankError as error:  # all ranks have it and leave in good order
        if collectives.rank == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        status = REFUSED
    except PeerLostError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        collectives.abort(PEER_LOST)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr, flush=True)
        collectives.abort(INTERRUPTED)
    except BaseException:  # this rank alone is in trouble, and the others must not wait for it for ever
        logger.exception("rank %d ends the run", collectives.rank)
        collectives.abort(MISTAKE)
    collectives.close()
    return status
