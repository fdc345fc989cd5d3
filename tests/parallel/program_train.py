"""One rank of a training run in which something is not as usual:  program_train.py WHAT [training options]

frozen      BatchNorm in inference mode
bad-rec     rank 1's training images are elsewhere
bad-option  rank 1 has an option that there is not
bug         rank 1 raises what nobody foresaw, in its second step
overflow    rank 1's gradients hold an infinity in the second step; each rank prints a sum of its backbone at the end
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable

import numpy as np

import symbol
from partial_fc import train
from partial_fc.horovod_collectives import HorovodCollectives
from partial_fc.testing_run import with_frozen_batch_norm
from partial_fc.trainer import StepReport, Trainer

RANK = int(os.environ.get("HOROVOD_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])


def freeze() -> None:
    build = symbol.build_backbone
    symbol.build_backbone = lambda *names, **options: with_frozen_batch_norm(build(*names, **options))


def before_the_second_step(act: Callable[[], None]) -> None:
    step = Trainer.step

    def step_after_act(trainer: Trainer) -> StepReport:
        if trainer.update == 1:
            act()
        return step(trainer)

    Trainer.step = step_after_act


def raise_a_bug() -> None:
    raise RuntimeError("nobody foresaw this")


def overflow_once() -> None:
    all_reduce = HorovodCollectives.all_reduce

    def poisoned(self, tensor, name, *options, **more):
        if name == "backbone.conv0_weight":
            tensor[1] = np.inf
            HorovodCollectives.all_reduce = all_reduce
        return all_reduce(self, tensor, name, *options, **more)

    HorovodCollectives.all_reduce = poisoned


def print_the_backbone_at_the_end() -> None:
    train_all = Trainer.train

    def train_and_print(trainer, *arguments, **options):
        train_all(trainer, *arguments, **options)
        content = b"".join(array.asnumpy().tobytes() for array in trainer.backbone.parameters.values())
        print(f"backbone {hashlib.sha256(content).hexdigest()}", flush=True)

    Trainer.train = train_and_print


def main(what: str, *options: str) -> int:
    if what == "frozen":
        freeze()
    elif what == "bad-rec":
        options += ("--rec", "/nowhere/train.rec") if RANK == 1 else ()
    elif what == "bad-option":
        options += ("--mispelt",) if RANK == 1 else ()
    elif what == "bug":
        if RANK == 1:
            before_the_second_step(raise_a_bug)
    elif what == "overflow":
        print_the_backbone_at_the_end()
        if RANK == 1:
            before_the_second_step(overflow_once)
    else:
        raise AssertionError(what)
    return train.main(options)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
