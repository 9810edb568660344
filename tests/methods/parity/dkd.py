"""DKD."""

from __future__ import annotations

from parity_files import Case

from kdbench.functional import warmup_factor
from kdbench.methods import dkd
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, targets = logit_sides(case)
    config = dkd.DKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        alpha=case.value("hp.alpha"),
        beta=case.value("hp.beta"),
        temperature=case.value("hp.T"),
        warmup=case.value("hp.warmup_epochs") / 240,
    )
    tckd = dkd.tckd_loss(student, teacher, targets, config.temperature)
    nckd = dkd.nckd_loss(student, teacher, targets, config.temperature)
    yield "out.tckd", tckd
    yield "out.nckd", nckd
    yield "out.dkd", config.alpha * tckd + config.beta * nckd
    yield "out.warmup_factor", warmup_factor(case.value("hp.epoch") / 240, config.warmup)
    terms = terms_of_logits(case, dkd.DKD, config, student, epoch=int(case.value("hp.epoch")))
    yield from task(case, terms, {"logits_s": student})
