"""What `import partial_fc` gives other programs, and that it brings nothing else with it."""

import os
import subprocess
import sys

import pytest

import partial_fc


def test_names_are_there_when_they_are_asked_for():
    assert sorted(partial_fc.__all__) == ["F2C", "FaceEmbedder", "PartialFC"]
    assert {*partial_fc.__all__} <= {*dir(partial_fc)}
    for name in partial_fc.__all__:
        assert getattr(partial_fc, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'partial_fc' has no attribute 'FaceEmbeder'"):
        partial_fc.FaceEmbeder  # noqa: B018


def test_the_import_is_light():
    program = "import sys, partial_fc; sys.exit(bool({'mxnet', 'numpy', 'cv2'} & {*sys.modules}))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0
