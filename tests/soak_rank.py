"""One rank of tests/soak.py: trains, and notes for each update which images it took, a JSON line each."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from partial_fc import train
from partial_fc.step import StepReport
from partial_fc.trainer import Trainer


def note_images(directory: Path, rank: str) -> None:
    step = Trainer.step
    notes = (directory / f"images-{rank}.jsonl").open("a", buffering=1, encoding="utf-8")

    def noting_step(trainer: Trainer) -> StepReport:
        next_batch = trainer.loader.next_batch

        def noting_next_batch():
            batch = next_batch()
            entry = {"update": trainer.update + 1, "epoch": batch.epoch, "images": batch.indices_B.tolist()}
            notes.write(json.dumps(entry) + "\n")
            return batch

        trainer.loader.next_batch = noting_next_batch
        try:
            return step(trainer)
        finally:
            trainer.loader.next_batch = next_batch

    Trainer.step = noting_step


if __name__ == "__main__":
    note_images(Path(os.environ["PARTIAL_FC_SOAK_NOTES"]), os.environ["OMPI_COMM_WORLD_RANK"])
    sys.exit(train.main())
