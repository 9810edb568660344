"""RLD; with standardised logits the cross entropy has the raw ones."""

from __future__ import annotations

from parity_files import Case

from kdbench.functional import warmup_factor
from kdbench.methods import kd, rld
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, targets = logit_sides(case)
    standardize = bool(case.value("hp.logit_standardization"))
    config = rld.RLD.Config(
        ce_weight=case.value("hp.ce_weight"),
        alpha=case.value("hp.alpha"),
        beta=case.value("hp.beta"),
        temperature=case.value("hp.T"),
        confidence_temperature=case.value("hp.alpha_T"),
        warmup=case.value("hp.warmup_epochs") / 240,
        standardize=standardize,
    )
    scores = (kd.standardized(student), kd.standardized(teacher)) if standardize else (student, teacher)
    inputs = (*scores, targets)
    scd = rld.confidence_loss(*inputs, config.confidence_temperature).mean()
    mcd = rld.masked_loss(*inputs, config.temperature).mean()
    yield "out.scd", scd
    yield "out.mcd", mcd
    yield "out.rld", config.alpha * scd + config.beta * mcd
    yield "out.warmup_factor", warmup_factor(case.value("hp.epoch") / 240, config.warmup)
    terms = terms_of_logits(case, rld.RLD, config, student, epoch=int(case.value("hp.epoch")))
    yield from task(case, terms, {"logits_s": student})
