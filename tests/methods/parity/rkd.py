"""RKD; the stored weight of the whole is a factor of both terms here."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import rkd
from parity._wiring import Sides, Values, method_weight


def computed(case: Case) -> Values:
    sides = Sides(case)
    epsilon, weight = case.value("hp.eps"), method_weight(case)
    distance_weight, angle_weight = (case.value(f"hp.{kind}_weight") for kind in ("distance", "angle"))
    assert not case.arrays["hp.squared"]
    distance, angle = rkd.rkd_losses(*sides.pooled, epsilon)
    yield "out.distance", distance
    yield "out.angle", angle
    yield "out.rkd", distance_weight * distance + angle_weight * angle
    weights = {"distance_weight": weight * distance_weight, "angle_weight": weight * angle_weight}
    yield from sides.task(sides.method(rkd.RKD, **weights, epsilon=epsilon))
