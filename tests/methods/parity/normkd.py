"""Logits over their own standard deviation, a switch of KD and DKD; the cross entropy has the raw logits."""

from __future__ import annotations

from typing import Any

from parity_files import Case

from kdbench.functional import warmup_factor
from kdbench.methods import dkd, kd
from parity._wiring import Values, kl_per_image, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, targets = logit_sides(case)
    norm = case.value("hp.temperature_norm")
    shared: dict[str, Any] = {"ce_weight": case.value("hp.ce_weight"), "temperature": norm, "normalize": True}
    ours, theirs, temperature = kd.prepared(student, teacher, norm, standardize=False, normalize=True)
    yield "out.temperature_s", norm * kd.deviation(student).squeeze(1)
    yield "out.temperature_t", norm * kd.deviation(teacher).squeeze(1)
    if case.file.startswith("dkd"):
        factors = {key: case.value(f"hp.{key}") for key in ("alpha", "beta")}
        config = dkd.DKD.Config(**shared, **factors, warmup=case.value("hp.warmup_epochs") / 240)
        yield "out.tckd", dkd.tckd_loss(ours, theirs, targets, temperature)
        yield "out.nckd", dkd.nckd_loss(ours, theirs, targets, temperature)
        yield "out.warmup_factor", warmup_factor(case.value("hp.epoch") / 240, config.warmup)
        terms = terms_of_logits(case, dkd.DKD, config, student, epoch=int(case.value("hp.epoch")))
    else:
        yield "out.normkd", kl_per_image(ours, theirs, temperature).mean()
        terms = terms_of_logits(case, kd.KD, kd.KD.Config(**shared, kd_weight=case.value("hp.kd_weight")), student)
    yield from task(case, terms, {"logits_s": student})
