"""Checkpoints: the state of all parts of a run at one update, saved beside training and resumed by any number of ranks.

    update-00032000/manifest.json                           what there is: sizes, SHA-256, every rank's small values
                    model-symbol.json, model-0000.params    the backbone, an MXNet checkpoint for use anywhere
                    backbone-momentum.params                its optimizer's state
                    backbone-0-of-8.params, …               each rank's BatchNorm statistics
                    centers-0-of-8.params, …                each rank's class centers with their momentum, in row blocks

Files are written into a directory of another name and synced; it gets its name when all of them are there. All
``.params`` are MXNet's format (``mx.nd.load``); reading them here executes nothing.
"""

from partial_fc.checkpoint.directory import RunMark, find_updates
from partial_fc.checkpoint.find import AUTO, find_checkpoint, open_checkpoint
from partial_fc.checkpoint.manifest import MANIFEST, Manifest, read_manifest
from partial_fc.checkpoint.reader import SavedCheckpoint
from partial_fc.checkpoint.run_parts import run_parts
from partial_fc.checkpoint.saver import DEFAULT_MEMORY, Checkpointer, new_mark
from partial_fc.checkpoint.state import Part, PartState, RowBlock, RowTable, SavedPart

__all__ = [
    "AUTO",
    "DEFAULT_MEMORY",
    "MANIFEST",
    "Checkpointer",
    "Manifest",
    "Part",
    "PartState",
    "RowBlock",
    "RowTable",
    "RunMark",
    "SavedCheckpoint",
    "SavedPart",
    "find_checkpoint",
    "find_updates",
    "new_mark",
    "open_checkpoint",
    "read_manifest",
    "run_parts",
]
