"""One rank of a run: takes the steps of pickled cases and pickles what they did, each rank to a file.

program_layer.py CASES.pickle DIRECTORY
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import mxnet as mx
import numpy as np

from partial_fc.collectives import Collectives
from partial_fc.horovod_collectives import connect
from partial_fc.testing import LayerCase, centers_of, own_part, train_layer


def loss_of_a_bad_batch(case: LayerCase, collectives: Collectives) -> tuple[float, bool]:
    """The loss where an embedding of the last rank is no number, and whether the centers are as they were."""
    layer = case.make_layer(collectives)
    before = centers_of(layer)
    x_ND, label_N = case.batch(0)
    x_ND[-1, 0] = np.nan
    loss = layer.forward(mx.nd.array(own_part(x_ND, collectives)), layer.sample(label_N, 0))
    return loss, all(a.tobytes() == b.tobytes() for a, b in zip(before, centers_of(layer), strict=True))


def main(cases_path: str, directory: str) -> None:
    cases = pickle.loads(Path(cases_path).read_bytes())
    collectives = connect()
    results = {
        "size": collectives.size,
        "traces": {name: train_layer(case, collectives) for name, case in cases.items()},
        "bad batch": loss_of_a_bad_batch(next(iter(cases.values())), collectives),
    }
    Path(directory, f"rank-{collectives.rank}.pickle").write_bytes(pickle.dumps(results))
    collectives.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
