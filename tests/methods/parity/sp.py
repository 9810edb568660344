"""SP."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import sp
from parity._wiring import Sides, Values, method_weight


def computed(case: Case) -> Values:
    sides = Sides(case)
    loss = sp.sp_loss(*sides.stages[-1])
    yield "out.sp", loss
    yield "out.sp_per_stage", loss
    yield from sides.task(sides.method(sp.SP, sp_weight=method_weight(case)))
