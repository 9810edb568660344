"""Standardised logits, a switch of KD and DKD; the cross entropy has the raw logits."""

from __future__ import annotations

from typing import Any

from parity_files import Case

from kdbench.functional import warmup_factor
from kdbench.methods import dkd, kd
from parity._wiring import Values, kl_per_image, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    logits, teacher, targets = logit_sides(case)
    standardize = bool(case.value("hp.logit_standardization"))
    shared: dict[str, Any] = {
        "ce_weight": case.value("hp.ce_weight"),
        "temperature": case.value("hp.T"),
        "standardize": standardize,
    }
    scores = (kd.standardized(logits), kd.standardized(teacher)) if standardize else (logits, teacher)
    if case.name.startswith("lskd/dkd"):
        factors = {key: case.value(f"hp.{key}") for key in ("alpha", "beta")}
        config = dkd.DKD.Config(**shared, **factors, warmup=case.value("hp.warmup_epochs") / 240)
        tckd, nckd = (loss(*scores, targets, config.temperature) for loss in (dkd.tckd_loss, dkd.nckd_loss))
        yield "out.tckd", tckd
        yield "out.nckd", nckd
        yield "out.dkd", config.alpha * tckd + config.beta * nckd
        yield "out.warmup_factor", warmup_factor(case.value("hp.epoch") / 240, config.warmup)
        terms = terms_of_logits(case, dkd.DKD, config, logits, epoch=int(case.value("hp.epoch")))
    else:
        yield "out.z_s", kd.standardized(logits)
        yield "out.z_t", kd.standardized(teacher)
        yield "out.kd", kl_per_image(*scores, case.value("hp.T")).mean()
        weight = case.value("hp.kd_weight")
        terms = terms_of_logits(case, kd.KD, kd.KD.Config(**shared, kd_weight=weight), logits)
        yield "out.kd", terms["kd"] / weight
    yield from task(case, terms, {"logits_s": logits})
