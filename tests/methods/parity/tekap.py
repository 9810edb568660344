"""TeKAP; the noise of the step is an input."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest
import torch
from parity_files import Case

from kdbench.methods import tekap
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    logits, teacher, _ = logit_sides(case)
    noise = torch.stack(list(case.group("in.noise.").values()))
    kd_weight, share = case.value("hp.kd_weight"), case.value("hp.augmented_weight")
    config = tekap.TeKAP.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=kd_weight,
        perturbed_weight=kd_weight * share,
        noise_share=case.value("hp.noise_weight"),
        temperature=case.value("hp.T"),
    )
    assert dataclasses.asdict(config) == pytest.approx(dataclasses.asdict(tekap.TeKAP.Config()))
    assert 1 - config.noise_share == pytest.approx(case.value("hp.teacher_weight"))
    each = tekap.divergences(logits, teacher, noise, config.noise_share, config.temperature)
    yield "out.tekap", each[0] + share * each[1:].sum()
    with mock.patch.object(tekap, "draw_noise", return_value=noise):
        yield from task(case, terms_of_logits(case, tekap.TeKAP, config, logits), {"logits_s": logits})
