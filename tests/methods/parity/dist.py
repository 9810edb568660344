"""DIST; the stored weight of the whole is a factor of both terms here."""

from __future__ import annotations

from parity_files import Case

from kdbench.methods import dist
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    logits, teacher, _ = logit_sides(case)
    beta, gamma, weight = (case.value(f"hp.{key}") for key in ("beta", "gamma", "kd_weight"))
    config = dist.DIST.Config(
        ce_weight=case.value("hp.ce_weight"),
        inter_weight=weight * beta,
        intra_weight=weight * gamma,
        temperature=case.value("hp.tau"),
        epsilon=case.value("hp.eps"),
    )
    inter, intra = dist.relation_losses(logits, teacher, config.temperature, config.epsilon)
    yield "out.inter", inter
    yield "out.intra", intra
    yield "out.dist", beta * inter + gamma * intra
    yield from task(case, terms_of_logits(case, dist.DIST, config, logits), {"logits_s": logits})
