"""WSLD."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import wsld
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    student, teacher, targets = logit_sides(case)
    config = wsld.WSLD.Config(
        ce_weight=case.value("hp.ce_weight"), alpha=case.value("hp.alpha"), temperature=case.value("hp.T")
    )
    weights = wsld.image_weights(student, teacher, targets)
    yield "out.weight", weights
    yield "out.soft", (weights * wsld.soft_cross_entropy(student, teacher, config.temperature)).mean()
    yield from task(case, terms_of_logits(case, wsld.WSLD, config, student), {"logits_s": student})
