"""PKT."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import pkt
from parity._wiring import Sides, Values, method_weight


def computed(case: Case) -> Values:
    sides = Sides(case)
    epsilon = case.value("hp.eps")
    yield "out.pkt", pkt.pkt_loss(*sides.pooled, epsilon)
    yield from sides.task(sides.method(pkt.PKT, pkt_weight=method_weight(case), epsilon=epsilon))
