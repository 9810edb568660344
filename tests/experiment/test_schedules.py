"""Schedules against torch's own, step by step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR

from kdbench.experiment.rule_groups import ScheduleRules

STEPS = 7
EPOCHS = 12


def torch_rates(make: Any) -> list[float]:
    """Learning rates of a scheduler that is moved after each step, from 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler: LRScheduler = make(optimizer)
    rates = []
    for _ in range(EPOCHS * STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def our_rates(**changes: Any) -> list[float]:
    schedule = ScheduleRules(epochs=EPOCHS, batch_size=1, **changes)
    places = itertools.product(range(1, EPOCHS + 1), range(STEPS))
    return [schedule.factor(epoch, step, STEPS) for epoch, step in places]


WARM = 0.25
RISING = 21


def rising(optimizer: torch.optim.Optimizer) -> LinearLR:
    return LinearLR(optimizer, start_factor=1 / RISING, total_iters=RISING - 1)


def test_a_step_schedule_is_torchs() -> None:
    ends = [6 * STEPS, 9 * STEPS]
    expected = torch_rates(lambda optimizer: MultiStepLR(optimizer, ends, gamma=0.2))
    assert our_rates(milestones=(0.5, 0.75), decay=0.2) == pytest.approx(expected)
    assert len(set(expected)) == 3


def test_a_cosine_is_torchs() -> None:
    expected = torch_rates(lambda optimizer: CosineAnnealingLR(optimizer, T_max=EPOCHS * STEPS))
    assert our_rates(name="cosine") == pytest.approx(expected)


def test_a_warm_up_is_torchs() -> None:
    def cosine(optimizer: torch.optim.Optimizer) -> LRScheduler:
        after = CosineAnnealingLR(optimizer, T_max=EPOCHS * STEPS - RISING)
        return SequentialLR(optimizer, [rising(optimizer), after], milestones=[RISING])

    ours = our_rates(name="cosine", warmup=WARM)
    assert ours == pytest.approx(torch_rates(cosine))
    assert ours[0] == pytest.approx(1 / RISING)
    assert ours[RISING - 1] == ours[RISING] == 1.0

    def step(optimizer: torch.optim.Optimizer) -> LRScheduler:
        after = MultiStepLR(optimizer, [6 * STEPS - RISING], gamma=0.1)
        return SequentialLR(optimizer, [rising(optimizer), after], milestones=[RISING])

    assert our_rates(milestones=(0.5,), warmup=WARM) == pytest.approx(torch_rates(step))


def test_a_shorter_training_has_the_same_shape() -> None:
    """In fractions of training, whatever epochs and steps there are."""
    long = ScheduleRules(name="cosine", epochs=100, batch_size=1, warmup=0.1)
    short = ScheduleRules(name="cosine", epochs=10, batch_size=1, warmup=0.1)
    for epoch in range(1, 11):
        assert short.factor(epoch, 0, 10) == pytest.approx(long.factor(10 * (epoch - 1) + 1, 0, 10), abs=0.1)
        assert short.factor(epoch, 0, 100) == pytest.approx(long.factor(10 * (epoch - 1) + 1, 0, 10), abs=0.01)
