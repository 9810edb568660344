"""DeepKD: its relation to KD and DKD, its mask, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from random_outputs import built, random_logits, seeds, temperatures
from stub_nets import stub_net, stub_setup

from kdbench.methods import deepkd, dkd, kd

pytestmark = pytest.mark.once


@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_with_the_doubt_of_each_image_the_terms_are_kd(seed: int, temperature: float) -> None:
    student, teacher, targets = random_logits(seed)
    doubt = deepkd.doubt_of(teacher, targets, temperature)
    inputs = (student, teacher, targets, temperature)
    whole = dkd.tckd_per_image(*inputs) + doubt * dkd.nckd_per_image(*inputs)
    torch.testing.assert_close(whole, kd.kl_per_image(student, teacher, temperature))


@given(seed=seeds, temperature=temperatures)
@settings(max_examples=20, deadline=None)
def test_a_mask_of_all_classes_is_none(seed: int, temperature: float) -> None:
    inputs = (*random_logits(seed), temperature)
    torch.testing.assert_close(deepkd.top_nckd_per_image(*inputs, 7), dkd.nckd_per_image(*inputs))


def test_the_mask_keeps_the_teachers_largest_classes_but_the_label() -> None:
    teacher, student = torch.tensor([[5.0, 4.0, 3.0, 2.0], [5.0, 4.0, 3.0, 2.0]]), torch.arange(8.0).view(2, 4) ** 2
    values = deepkd.top_nckd_per_image(student, teacher, torch.tensor([0, 3]), 1.0, 3)
    for value, image, classes in zip(values, range(2), ([1, 2], [0, 1, 2]), strict=True):
        torch.testing.assert_close(
            value, kd.kl_per_image(student[image, classes][None], teacher[image, classes][None], 1.0)[0]
        )


def test_the_task_has_the_targets_momentum_or_its_own() -> None:
    task, others, target = deepkd.DeepKD.term_groups(deepkd.DeepKD.Config(non_target_delta=0.05))
    assert (task.momentum, others.momentum, target.momentum) == (-0.075, 0.05, -0.075)
    assert deepkd.DeepKD.term_groups(deepkd.DeepKD.Config(task_momentum="task"))[0].momentum == 0.075


def test_a_mask_of_one_class_or_of_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match="top_k must be 0 or at least 2, not 1"):
        deepkd.DeepKD.Config(top_k=1)
    with pytest.raises(ValueError, match="top_k must be at most the number of classes, 10, not 11"):
        built(deepkd.DeepKD, top_k=11)
    net = stub_net()
    deepkd.DeepKD(deepkd.DeepKD.Config(top_k=10), stub_setup(net, net))
