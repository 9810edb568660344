"""GDKD."""

from __future__ import annotations

import torch
from parity_files import Case

from kdbench.functional import warmup_factor
from kdbench.methods import gdkd
from parity._wiring import Values, logit_sides, task, terms_of_logits

DIRECTIONS: tuple[gdkd.Direction, ...] = ("forward", "reverse", "mean")


def computed(case: Case) -> Values:
    student, teacher, _ = logit_sides(case)
    assert not case.value("hp.worst")
    config = gdkd.GDKD.Config(
        ce_weight=case.value("hp.ce_weight"),
        mass_weight=case.value("hp.w0"),
        top_weight=case.value("hp.w1"),
        rest_weight=case.value("hp.w2"),
        top_k=int(case.value("hp.top_k")),
        temperature=case.value("hp.T"),
        warmup=case.value("hp.warmup_epochs") / 240,
        direction=DIRECTIONS[int(case.value("hp.kl_type"))],
    )
    top, rest = groups = gdkd.split_top(student, teacher, config.top_k)
    yield "out.top_mask", (teacher >= top[1].min(dim=1, keepdim=True).values).double()
    both = torch.cat([top[1], rest[1]], dim=1)
    assert torch.equal(both.sort(dim=1).values, teacher.sort(dim=1).values)
    yield "out.high", gdkd.mass_loss(groups, config.temperature)
    yield "out.low_top", gdkd.inner_loss(*top, config.temperature, config.direction)
    yield "out.low_other", gdkd.inner_loss(*rest, config.temperature, config.direction)
    yield "out.warmup_factor", warmup_factor(case.value("hp.epoch") / 240, config.warmup)
    terms = terms_of_logits(case, gdkd.GDKD, config, student, epoch=int(case.value("hp.epoch")))
    yield from task(case, terms, {"logits_s": student})
