"""KD."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import kd
from parity._wiring import Values, kl_per_image, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, _ = logit_sides(case)
    config = kd.KD.Config(
        ce_weight=case.value("hp.ce_weight"), kd_weight=case.value("hp.kd_weight"), temperature=case.value("hp.T")
    )
    yield "out.kd", kl_per_image(student, teacher, config.temperature).mean()
    yield from task(case, terms_of_logits(case, kd.KD, config, student), {"logits_s": student})
