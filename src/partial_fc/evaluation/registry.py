"""Every kind of evaluation target there is, by name."""

from __future__ import annotations

from partial_fc.evaluation.targets import TargetKind

KINDS: dict[str, TargetKind] = {}
