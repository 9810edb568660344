"""NKD."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import nkd
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    logits, teacher, targets = logit_sides(case)
    config = nkd.NKD.Config(
        ce_weight=case.value("hp.ce_weight"), gamma=case.value("hp.gamma"), temperature=case.value("hp.temp")
    )
    target = nkd.target_loss(logits, teacher, targets)
    others = config.gamma * nkd.others_loss(logits, teacher, targets, config.temperature)
    yield "out.target_term", target
    yield "out.non_target_term_weighted", others
    yield "out.nkd", target + others
    yield from task(case, terms_of_logits(case, nkd.NKD, config, logits), {"logits_s": logits})
