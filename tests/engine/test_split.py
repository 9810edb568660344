"""Gradients that are kept apart by groups of terms: the optimiser, clipping, half precision and graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, make_run, steps
from recorded_graph import RecordedGraph, record
from torch import nn

from kdbench.engine.graphs import StepGraphs
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.optim import build_optimizer, clip_gradients
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import quietly
from kdbench.engine.run import Run
from kdbench.engine.run_state import resume, save
from kdbench.engine.split import SplitSGD
from kdbench.errors import UserError
from kdbench.experiment.registry import load_method
from kdbench.experiment.rule_groups import OptimizerRules
from kdbench.method import TermGroup
from kdbench.utils.signals import Stop

pytestmark = pytest.mark.once

SPLIT = ("dot", "deepkd")
ADAMW = {"optimizer": "AdamW", "betas": (0.9, 0.95), "momentum": None, "nesterov": None}


def learnt(run: Run) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in run.module.state_dict().items()}


def momenta(run: Run) -> list[torch.Tensor]:
    return [state["momentum_buffer"] for state in run.optimizer.state.values()]


@pytest.mark.parametrize("method", ["kd", "crd"])
def test_one_group_is_the_plain_loop_to_the_bit(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    """The gradient of the sum of all terms, and torch's own optimiser."""
    ours, plain = (make_run(tiny_npz, tmp_path / name, method, weight_decay=0.01) for name in ("ours", "plain"))
    assert type(ours.optimizer) is torch.optim.SGD
    steps(ours, 2)
    update = plain.step_update
    rules = plain.cell.protocol.rules.optimizer
    assert rules.momentum is not None
    sgd = torch.optim.SGD(
        plain.parameters, lr=rules.learning_rate, momentum=rules.momentum, weight_decay=0.01, fused=True
    )

    def add(group: Any, batch: Any, teacher: Any, observer: Any) -> None:
        terms, rows = plain.module(plain.phase, batch, teacher)
        sgd.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        update.terms, update._remembered = tuple(terms), [rows] if rows else []

    def apply() -> torch.Tensor:
        sgd.step()
        if update._remembered:
            plain.method.remember(update._remembered[0])
        return torch.zeros(len(update.terms))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(update, "add", add)
        patched.setattr(update, "apply", apply)
        steps(plain, 2)
    assert all(torch.equal(value, learnt(plain)[name]) for name, value in learnt(ours).items())


def dot_run(npz: Path, folder: Path, delta: float, **rules: Any) -> Run:
    """A run of KD in two groups; with a delta of 0 both have the protocol's momentum."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(METHODS, "dot", {"delta": delta})
        return make_run(npz, folder, "dot", **rules)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("clip", [None, 0.5])
def test_equal_momenta_are_one_momentum(clip: float | None, tiny_npz: Path, tmp_path: Path) -> None:
    """The sum of the updates is that of the sum of the gradients, clipped by the norm of the whole, in image groups."""
    rules = {"gradient_clip": clip, "group_size": 8, "weight_decay": 0.01}
    runs = [make_run(tiny_npz, tmp_path / "kd", "kd", **rules)]
    runs += [dot_run(tiny_npz, tmp_path / str(delta), delta, **rules) for delta in (0.0, 0.075)]
    assert isinstance(runs[1].optimizer, SplitSGD)
    for run in runs:
        steps(run, 3)
    for name, value in runs[0].student.state_dict().items():
        torch.testing.assert_close(runs[1].student.state_dict()[name], value, rtol=1e-6, atol=1e-9)
    last = [run.parameters[-1] for run in runs]
    assert not torch.allclose(last[0], last[2], rtol=1e-3), "another delta is another run"


@pytest.mark.parametrize("method", SPLIT)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_split_run_resumes_to_the_bit(method: str, precision: str, tiny_npz: Path, tmp_path: Path) -> None:
    whole, first, second = (
        make_run(tiny_npz, tmp_path / name, method, precision=precision, gradient_clip=1.0, group_size=8)
        for name in ("whole", "first", "first")
    )
    steps(whole, 3)
    steps(first, 2)
    first.flush_losses()
    save(first)
    resume(second)
    assert len(momenta(second)) == len(second.phase.groups) * len(second.parameters)
    assert all(torch.equal(*pair) for pair in zip(momenta(first), momenta(second), strict=True))
    steps(second, 1)
    assert all(torch.equal(value, learnt(second)[name]) for name, value in learnt(whole).items())


@pytest.mark.parametrize("clip", [None, 1.0])
def test_one_part_that_overflows_leaves_the_whole_step_out(clip: float | None, tiny_npz: Path, tmp_path: Path) -> None:
    """The verdict is one for all parts."""
    run = make_run(tiny_npz, tmp_path, "dot", precision="fp16", gradient_clip=clip)
    before = [parameter.clone() for parameter in run.parameters]
    assert isinstance(run.optimizer, SplitSGD)
    scaler, (task, others) = torch.amp.GradScaler("cpu", init_scale=16.0), run.optimizer.param_groups
    for tensors, value in ((task["params"], 1.0), (others["params"], torch.inf)):
        for tensor in tensors:
            tensor.grad = torch.full_like(tensor, value)
    scaler.scale(torch.ones(()))  # what begins with it
    clip_gradients(run.cell.protocol.rules.optimizer, run.parameters, run.optimizer, scaler)
    scaler.step(run.optimizer)
    scaler.update()
    assert scaler.get_scale() == 8.0
    assert all(torch.equal(*pair) for pair in zip(run.parameters, before, strict=True))
    assert not any(buffer.any() for buffer in momenta(run))


RULES = OptimizerRules(learning_rate=0.1, weight_decay=0.1, momentum=0.9, nesterov=False)
GROUPS = TermGroup(terms=frozenset({"a"})), TermGroup(terms=None, weight_decay="partial")


def test_the_scale_of_half_precision_changes_nothing() -> None:
    """Of parameters that all groups reach, and of one that a group alone does, weight decay among it."""
    ended = []
    for scale in (1.0, 1024.0):
        parameters = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))]
        optimizer = build_optimizer(RULES, parameters, 0.1, GROUPS)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(torch.ones(()))
        for _ in range(3):
            first, second = optimizer.param_groups
            for tensor, gradient in ((first["params"][0], 1.0), (second["params"][0], 2.0), (second["params"][1], 3.0)):
                tensor.grad = torch.full((2,), gradient * scale)
            scaler.step(optimizer)
            scaler.update()
        ended.append([parameter.tolist() for parameter in parameters])
    assert ended[0] == [pytest.approx(values) for values in ended[1]]


@pytest.mark.parametrize("method", SPLIT)
def test_a_split_step_is_replayed(method: str, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of ten are recorded with all passes; the momenta go on in a last step that is not."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    states = []
    for replayed in (False, True):
        run = make_run(tiny_npz, tmp_path / str(replayed), method, batch_size=10, epochs=1)
        run.module.double()
        run.skip_pretraining()
        outcomes = Outcomes([run.cell])
        lockstep = Lockstep([run], run.batches, outcomes, run.options)
        if replayed:
            lockstep.graphs = StepGraphs(lockstep.shared, outcomes)
        RecordedGraph.replays = 0
        lockstep.train(Stop(), quietly)
        assert isinstance(outcomes.list()[0], dict), outcomes.list()
        states.append({**run.student.state_dict(), **{f"{n}": b for n, b in enumerate(momenta(run))}})
    assert RecordedGraph.replays > 4
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("rules", "words"), [(ADAMW, "AdamW has no momentum"), ({"momentum": 0.95}, r"0\.95 \+0\.075 is none")]
)
def test_an_optimiser_without_such_momenta_is_refused(
    rules: dict[str, Any], words: str, tiny_npz: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=rf"dot .* cannot run: the method gives each group .*{words}") as refused:
        make_run(tiny_npz, tmp_path, "dot", **rules)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("terms", ["", "ce", "a"])
def test_groups_and_terms_that_do_not_meet_are_named(
    terms: str, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A term of no group, one of two groups, and a group of no term."""
    groups = tuple(TermGroup(terms=frozenset(each.split())) for each in ("ce", f"kd {terms}" if terms else "a"))
    monkeypatch.setattr(load_method("dot"), "term_groups", classmethod(lambda _cls, _config: groups))
    run = make_run(tiny_npz, tmp_path, "dot")
    with pytest.raises(UserError, match=r"the loss has the terms ce, kd, and its gradients .* apart by ce and"):
        steps(run, 1)
