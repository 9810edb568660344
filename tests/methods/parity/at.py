"""AT."""

from __future__ import annotations

import torch
from parity_files import Case

from kdbench.methods import at
from parity._wiring import Sides, Values, method_weight


def computed(case: Case) -> Values:
    sides = Sides(case)
    power = int(case.value("hp.p"))
    losses = torch.stack([at.at_loss(*pair, power) for pair in sides.stages])
    yield "out.at_per_stage", losses
    yield "out.at", losses.sum()
    yield from sides.task(sides.method(at.AT, at_weight=method_weight(case), power=power))
