"""Every kind of evaluation target there is, by name."""

from __future__ import annotations

from partial_fc.evaluation import ifrt, ijb, megaface, rfw, verification_target, ytf
from partial_fc.evaluation.targets import TargetKind

KINDS: dict[str, TargetKind] = {
    **verification_target.KINDS,
    **ytf.KINDS,
    **ijb.KINDS,
    **megaface.KINDS,
    **ifrt.KINDS,
    **rfw.KINDS,
}
