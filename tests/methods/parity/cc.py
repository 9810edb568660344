"""CC."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import cc
from parity._wiring import Sides, Values, method_weight

NAMES = {"student_embed.": "embed_s.linear.", "teacher_embed.": "embed_t.linear."}


def computed(case: Case) -> Values:
    sides = Sides(case)
    method = sides.method(cc.CC, NAMES, cc_weight=method_weight(case), feat_dim=int(case.value("hp.feat_dim")))
    assert isinstance(method, cc.CC)
    yield from sides.task(method, NAMES)
    embedded = method.student_embed(sides.pooled[0]), method.teacher_embed(sides.pooled[1])
    yield "out.embedded_s", embedded[0]
    yield "out.embedded_t", embedded[1]
    yield "out.cc", cc.neighbour_loss(*embedded)
