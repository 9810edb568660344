"""DKD: its relation to KD, its warm-up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from random_outputs import (
    random_logits,
    seeds,
    temperatures,
)
from stub_nets import stub_net, stub_setup
from torch.nn import functional

from kdbench.functional import warmup_factor
from kdbench.methods import (
    dkd,
    kd,
)

pytestmark = pytest.mark.once


@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_dkd_with_the_teachers_doubt_as_beta_is_kd(seed: int, temperature: float) -> None:
    """Equation 7 of the paper: KD = TCKD + (1 - p_teacher(target)) * NCKD, image by image."""
    student, teacher, targets = random_logits(seed, rows=1)
    doubt = 1 - functional.softmax(teacher / temperature, dim=1)[0, targets[0]]
    parts = (
        dkd.tckd_loss(student, teacher, targets, temperature),
        dkd.nckd_loss(student, teacher, targets, temperature),
    )
    torch.testing.assert_close(parts[0] + doubt * parts[1], kd.kl_per_image(student, teacher, temperature)[0])


def test_dkd_refuses_two_classes() -> None:
    net = stub_net(num_classes=2)
    with pytest.raises(ValueError, match="at least 3 classes"):
        dkd.DKD(dkd.DKD.Config(), stub_setup(net, net))


def test_dkd_warms_up_over_a_fraction_of_training() -> None:
    factors = [warmup_factor(epoch / 240, 20 / 240) for epoch in (1, 5, 20, 21, 240)]
    assert factors == pytest.approx([0.05, 0.25, 1, 1, 1])
    assert warmup_factor(1 / 30, 20 / 240) == pytest.approx(0.4)
    assert warmup_factor(1 / 240, 0.0) == 1
