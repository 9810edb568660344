"""ABKD."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import abkd
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, _ = logit_sides(case)
    config = abkd.ABKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kd_weight"),
        alpha=case.value("hp.alpha"),
        beta=case.value("hp.beta"),
        temperature=case.value("hp.T"),
    )
    exponents = (config.alpha, config.beta, config.temperature)
    yield "out.ab", abkd.alpha_beta_divergence(student, teacher, *exponents).mean()
    yield from task(case, terms_of_logits(case, abkd.ABKD, config, student), {"logits_s": student})
