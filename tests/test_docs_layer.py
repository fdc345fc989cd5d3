"""The lines of docs/layer.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

BEFORE = """
from pathlib import Path
import sys
import mxnet as mx
import numpy as np
mx.random.seed(1)
num_classes, slots = 7, 9
image, label = mx.nd.random.normal(shape=(4, 3, 32, 32)), mx.nd.array([0, 3, 3, 6])
batches = [(image, label)] * 2
parts = [image[:2], image[2:]]
pairs = [(image, label, image[::-1], label[::-1])] * 2
"""
AFTER_EACH = {
    "hvd.init()": "assert head.update == 2 and np.isfinite(loss.asscalar())",
    "for part in parts": "assert embeddings.shape == (4, 128)\nloss.backward()\nassert head.step()",
    "Gallery.of_block": "assert head.update == 2 and len(head.pool.lru.state()['slots']) == 3",
    "save_head": "assert Path('models/head/update-00000002/manifest.json').exists()\nprint('all ran')",
}


def test_the_lines_of_the_guide_run(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "layer.md").read_text(), re.DOTALL)
    program = BEFORE
    for mark, check in AFTER_EACH.items():
        (block,) = (block for block in blocks if mark in block)
        program += f"{block}\n{check}\n"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0 and run.stdout.endswith("all ran\n"), run.stderr


def test_the_table_of_arguments_has_the_heads_own_defaults() -> None:
    from partial_fc.head.partial_fc import PartialFC

    head = PartialFC(3, 2)
    text = (ROOT / "docs" / "layer.md").read_text()
    for name in ("learning_rate", "momentum"):
        assert f"`{name}={getattr(head, name)}`" in text
    assert head.weight_decay == 5e-4 and "`weight_decay=5e-4`" in text
    assert head.scale == 64.0 and head.sample_ratios.at(0) == 1.0
    assert "`scale=64.0`" in text and "`sample_ratio=1.0`" in text
