"""Optimisers, schedules, clipping and label smoothing of a protocol, in training: against a loop by hand in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, end_epoch, make_run, steps
from recorded_graph import RecordedGraph, record
from torch import nn
from torch.nn import functional

from kdbench.data.views import order
from kdbench.engine.graphs import StepGraphs
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.optim import clip_gradients
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import quietly
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.experiment.rule_groups import OptimizerRules
from kdbench.functional import cross_entropy
from kdbench.method import PLAIN
from kdbench.models.build import build_net
from kdbench.utils.signals import Stop

pytestmark = pytest.mark.once

ADAMW = {"optimizer": "AdamW", "betas": (0.9, 0.95), "momentum": None, "nesterov": None, "learning_rate": 2e-3}
COSINE = {"schedule": "cosine", "milestones": None, "warmup": 1 / 3}
# Two epochs of three steps: the learning rate rises for two of them and then falls.
RECIPE = {**ADAMW, **COSINE, "weight_decay": 0.05, "label_smoothing": 0.1, "gradient_clip": 1.0}
SGD_COSINE = {**COSINE, "gradient_clip": 0.5}


def train_epoch(run: Run) -> None:
    steps(run, run.batches.steps - run.step)
    run.flush_losses()
    end_epoch(run)


def in_float64(run: Run) -> Run:
    """Let a run compute in float64, with an optimiser of these parameters."""
    run.module.double()
    run.skip_pretraining()
    return run


def test_training_is_the_plain_loop(tiny_npz: Path, tmp_path: Path) -> None:
    """AdamW, warm-up, cosine, label smoothing, clipping and weight decay, written out."""
    run = in_float64(make_run(tiny_npz, tmp_path, "ce", **RECIPE))
    for _ in range(2):
        train_epoch(run)

    dataset = run.data.dataset
    net = build_net("resnet8", run.cell.protocol, dataset, seed=1, purpose="student").double().train()
    parameters = list(net.parameters())
    means, squares = ([torch.zeros_like(p) for p in parameters] for _ in range(2))
    norms = []
    for number in range(6):
        epoch, step = divmod(number, 3)
        index = order(1, epoch + 1, 42).split(16)[step]
        ids = run.data.images.numbering.draw(1, epoch + 1, 42, PLAIN)[:, index]
        logits = net.logits(run.data.images.augment(index, ids))
        targets = 0.9 * functional.one_hot(dataset.train_labels[index], 3) + 0.1 / 3
        loss = -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()
        gradients = torch.autograd.grad(loss, parameters)
        norms.append(torch.cat([g.flatten() for g in gradients]).norm().item())
        scale = min(1.0, 1.0 / (norms[-1] + 1e-6))
        rising = (number + 1) / 2 if number < 2 else 1.0
        rate = 2e-3 * rising * (1 + math.cos(math.pi * max(0, number - 2) / 4)) / 2
        with torch.no_grad():
            for p, g, mean, square in zip(parameters, gradients, means, squares, strict=True):
                p.mul_(1 - rate * 0.05)
                mean.mul_(0.9).add_(0.1 * scale * g)
                square.mul_(0.95).add_(0.05 * (scale * g) ** 2)
                fair_mean, fair_square = mean / (1 - 0.9 ** (number + 1)), square / (1 - 0.95 ** (number + 1))
                p.sub_(rate * fair_mean / (fair_square.sqrt() + 1e-8))
    assert max(norms) > 1.0  # or clipping was never tried
    for ours, theirs in zip(run.student.parameters(), parameters, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)
    # What is noted of an epoch is the learning rate of its last step.
    assert [row["lr"] for row in run.tally.history] == pytest.approx([2e-3, 2e-3 * (1 + math.cos(3 * math.pi / 4)) / 2])


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_run_resumes_exactly_from_any_step(precision: str, stop: int, tiny_npz: Path, tmp_path: Path) -> None:
    rules = {**RECIPE, "precision": precision}
    whole = make_run(tiny_npz, tmp_path / "whole", "kd", **rules)
    for _ in range(2):
        train_epoch(whole)
    first = make_run(tiny_npz, tmp_path, "kd", **rules)
    for _ in range(stop // 3):
        train_epoch(first)
    steps(first, stop % 3)
    first.flush_losses()
    save(first)
    second = make_run(tiny_npz, tmp_path, "kd", **rules)
    resume(second)
    assert (second.epoch, second.step) == (1 + stop // 3, stop % 3)
    while not second.done:
        train_epoch(second)
    for ours, theirs in zip(second.student.state_dict().values(), whole.student.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert second.tally.history == whole.tally.history


@pytest.mark.parametrize("rules", [RECIPE, SGD_COSINE], ids=["adamw", "sgd"])
def test_each_replayed_step_has_its_learning_rate(
    rules: dict[str, Any], tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of ten steps of four images and one of two: nine steps of each epoch are replayed."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    states = []
    for replayed in (False, True):
        run = in_float64(make_run(tiny_npz, tmp_path / str(replayed), "ce", batch_size=4, **rules))
        outcomes = Outcomes([run.cell])
        lockstep = Lockstep([run], run.batches, outcomes, run.options)
        if replayed:
            lockstep.graphs = StepGraphs(lockstep.shared, outcomes)
        RecordedGraph.replays = 0
        lockstep.train(Stop(), quietly)
        assert isinstance(outcomes.list()[0], dict), outcomes.list()
        states.append(run.student.state_dict())
    assert RecordedGraph.replays == 2 * (9 * 2 + 1)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-8)


def test_a_first_step_that_overflows_changes_nothing(tiny_npz: Path, tmp_path: Path) -> None:
    """With clipping too, which sees a norm that is not finite."""
    run = make_run(tiny_npz, tmp_path, "kd", **RECIPE, precision="fp16")
    run.step_update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [parameter.clone() for parameter in run.parameters]
    steps(run, 1)
    assert run.step_update.scaler.get_scale() < 2.0**60
    for parameter, old in zip(run.parameters, before, strict=True):
        assert torch.equal(parameter, old)
        state = run.optimizer.state[parameter]
        assert not any(state[name].any() for name in ("step", "exp_avg", "exp_avg_sq"))


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_gradients_are_clipped_as_they_are_without_the_scaler(scale: float) -> None:
    rules = OptimizerRules(learning_rate=0.1, weight_decay=0.0, momentum=0.9, nesterov=False, gradient_clip=2.0)
    parameter = nn.Parameter(torch.zeros(2, 2))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for norm, expected in ((8.0, 2.0), (1.0, 1.0)):
        parameter.grad = None
        scaler.scale((parameter * norm / 2).sum()).backward()
        clip_gradients(rules, [parameter], optimizer, scaler)
        assert parameter.grad is not None
        assert parameter.grad.norm().item() == pytest.approx(expected, rel=1e-5)
        scaler.step(optimizer)
        scaler.update()


def test_a_protocol_of_epochs_has_no_learning_rate_of_steps(tiny_npz: Path, tmp_path: Path) -> None:
    """Its optimiser has a number, as in the cells that were kept."""
    run = make_run(tiny_npz, tmp_path, "ce")
    steps(run, 1)
    assert [group["lr"] for group in run.optimizer.param_groups] == [0.05]
    assert type(run.optimizer.param_groups[0]["lr"]) is float


def test_pretraining_has_its_own_schedule(tiny_npz: Path, tmp_path: Path) -> None:
    """That of the method, whatever the protocol's is called."""
    run = make_run(tiny_npz, tmp_path, "sskd", **RECIPE)
    first, main = run.phases
    assert not first.learning_rate.schedule.per_step
    # Its one epoch is behind both of its milestones, by the protocol's decay.
    assert [first.learning_rate(1, step) for step in range(3)] == pytest.approx([0.05 * 0.1**2] * 3)
    assert main.learning_rate(1, 0) == pytest.approx(1e-3)


def test_smoothed_cross_entropy_is_that_of_smoothed_targets() -> None:
    logits, targets = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0])
    smoothed = 0.8 * functional.one_hot(targets, 4) + 0.2 / 4
    expected = -(smoothed * logits.log_softmax(dim=1)).sum(dim=1)
    torch.testing.assert_close(cross_entropy(logits, targets, 0.2), expected)


def first_terms(run: Run) -> dict[str, float]:
    """The terms of the loss in the first step of the protocol's epochs."""
    run.skip_pretraining()
    steps(run, 1)
    (terms,) = run.tally.read()
    return terms


@pytest.mark.parametrize("method", METHODS)
def test_smoothing_reaches_the_tasks_loss_alone(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    """Of every method: PCKD's preview, DKD's target and all other terms are of plain labels."""
    plain, smoothed = (
        first_terms(make_run(tiny_npz, tmp_path, method, label_smoothing=smoothing)) for smoothing in (0.0, 0.3)
    )
    changed = {name for name, value in plain.items() if smoothed[name] != value}
    assert changed == {"ce"} & plain.keys()
