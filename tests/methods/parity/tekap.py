"""TeKAP; the noise of the step is an input."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from parity_files import Case

from kdbench.methods import tekap
from parity._wiring import Values, logit_sides, task, terms_of_logits


def computed(case: Case) -> Values:
    logits, teacher, _ = logit_sides(case)
    noise = torch.stack(list(case.group("in.noise.").values()))
    config = tekap.TeKAP.Config(
        ce_weight=case.value("hp.ce_weight"),
        kd_weight=case.value("hp.kd_weight"),
        perturbed_weight=case.value("hp.augmented_weight"),
        num_perturbed=len(noise),
        noise_share=case.value("hp.noise_weight"),
        temperature=case.value("hp.T"),
    )
    assert config == tekap.TeKAP.Config()
    assert 1 - config.noise_share == pytest.approx(case.value("hp.teacher_weight"))
    weights = config.noise_share, config.perturbed_weight
    yield "out.tekap", tekap.tekap_loss(logits, teacher, noise, *weights, config.temperature)
    with mock.patch.object(tekap, "draw_noise", return_value=noise):
        yield from task(case, terms_of_logits(case, tekap.TeKAP, config, logits), {"logits_s": logits})
