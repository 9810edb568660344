"""WTTM and TTM."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import ttm, wttm
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, _ = logit_sides(case)
    exponent = case.value("hp.exponent")
    weights = {"ce_weight": case.value("hp.ce_weight"), "kd_weight": case.value("hp.kd_weight")}
    kl = wttm.powered_kl(student, teacher, exponent)
    if case.file.startswith("ttm"):
        yield "out.ttm", kl.mean()
        terms = terms_of_logits(case, ttm.TTM, ttm.TTM.Config(**weights, exponent=exponent), student)
    else:
        yield "out.wttm", (wttm.power_sum(teacher, exponent) * kl).mean()
        terms = terms_of_logits(case, wttm.WTTM, wttm.WTTM.Config(**weights, exponent=exponent), student)
    yield from task(case, terms, {"logits_s": student})
