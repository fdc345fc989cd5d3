"""One rank of a training run in which rank 1 meets a fault in its third step.

program_faults.py FAULT [training options]

kill         SIGKILL between two collectives of the step
stop         SIGSTOP: the process is there and does nothing
hang         its loader never gives a batch
allocation   an operator of its head finds no memory
image        its loader meets a file that cannot be read
term         SIGTERM
bit          a bit of its backbone's first parameter has flipped
nan          an embedding of it is no number, once
nans         the same in every step from then on
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading

import mxnet as mx
import numpy as np
import psutil

from partial_fc import train
from partial_fc.head.partial_fc import PartialFC
from partial_fc.step import StepReport
from partial_fc.trainer import Trainer

RANK = int(os.environ.get("HOROVOD_RANK") or os.environ["OMPI_COMM_WORLD_RANK"])


def fail_to_read() -> None:
    raise OSError("image 7 cannot be read: the disk is gone")


def flip_a_bit(trainer: Trainer) -> None:
    array = next(iter(trainer.backbone.parameters.values()))
    bits = array.asnumpy().view(np.uint32)
    bits.reshape(-1)[0] ^= 1
    array[:] = mx.nd.array(bits.view(np.float32))


def take_all_memory() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (256 << 20), hard))
    mx.nd.ones((1 << 29,)).wait_to_read()  # 2 GiB
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def at_the_loader(fault: str, trainer: Trainer) -> None:
    act = {"hang": threading.Event().wait, "image": fail_to_read}[fault]
    next_batch = trainer.loader.next_batch

    def act_first():
        act()
        return next_batch()

    trainer.loader.next_batch = act_first


def at_the_head(fault: str, trainer: Trainer) -> None:
    forward = PartialFC.forward

    def act_first(head, embedding_BD, sample):
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "allocation":
            take_all_memory()
        if fault.startswith("nan"):
            embedding_BD[0, 0] = np.nan
        if fault == "nan":
            PartialFC.forward = forward
        return forward(head, embedding_BD, sample)

    PartialFC.forward = act_first


def before_the_third_step(fault: str) -> None:
    step = Trainer.step

    def step_after_fault(trainer: Trainer) -> StepReport:
        if trainer.update == 2:
            if fault in ("hang", "image"):
                at_the_loader(fault, trainer)
            elif fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            elif fault == "bit":
                flip_a_bit(trainer)
            else:
                at_the_head(fault, trainer)
        return step(trainer)

    Trainer.step = step_after_fault


def main(fault: str, *options: str) -> int:
    if RANK == 1:
        before_the_third_step(fault)
    return train.main(options)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
