"""NST."""

from __future__ import annotations

import torch
from parity_files import Case

from kdbench.methods import nst
from parity._wiring import Sides, Values, method_weight


def computed(case: Case) -> Values:
    sides = Sides(case)
    losses = torch.stack([nst.nst_loss(*pair) for pair in sides.stages])
    yield "out.nst_per_stage", losses
    yield "out.nst", losses.sum()
    yield from sides.task(sides.method(nst.NST, nst_weight=method_weight(case)))
