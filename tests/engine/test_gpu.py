"""On a GPU: recorded steps, cells as branches, resuming and lower precisions; skipped where there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, share_teachers
from torch import Tensor

import kdbench
from kdbench.engine import lockstep
from kdbench.engine.progress import Progress
from kdbench.errors import Interrupted
from kdbench.experiment.cell import Cell
from kdbench.methods.dkd import DKD
from kdbench.methods.kd import KD

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
recorded_or_not = pytest.mark.parametrize("recorded", [False, True])
COMPARED = ("kd", "crd", "reviewkd", "dkd", "pckd")
DRAWS = {"crd"}
"""Methods that draw on the device: a GPU's numbers are not those of a CPU."""
Opened = Callable[..., kdbench.Session]


@pytest.fixture(scope="module")
def teacher_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("teachers")
    kdbench.Session.open("digits-demo-v1", runs=runs, device="cpu", epochs=1).train_teacher("resnet14")
    return runs


@pytest.fixture
def new(teacher_runs: Path, tmp_path: Path) -> Opened:
    """Open a session in a folder of its own that has the teacher."""

    def opened(name: str, device: str = "cuda", **options: Any) -> kdbench.Session:
        share_teachers(tmp_path / name, teacher_runs)
        return kdbench.Session.open("digits-demo-v1", runs=tmp_path / name, device=device, **{"epochs": 2, **options})

    return opened


def cells_of(session: kdbench.Session, methods: Sequence[str]) -> list[Cell]:
    return [
        session.cell(method=method, student="resnet8", teacher="resnet14", seed=1, settings=METHODS[method])
        for method in methods
    ]


def trained(session: kdbench.Session, *methods: str, key: str = "weights") -> dict[str, Any]:
    """Train cells in lockstep; return something of each record."""
    outcomes = session.run_all(cells_of(session, methods), cache="off")
    failed = [outcome for outcome in outcomes if not isinstance(outcome, dict)]
    assert not failed
    return {method: outcome[key] for method, outcome in zip(methods, outcomes, strict=True)}  # type: ignore[index]


@pytest.mark.parametrize("method", METHODS)
def test_recorded_steps_are_the_steps_to_the_bit(method: str, new: Opened) -> None:
    usual, recorded = (trained(new(str(compiled), compile=compiled), method) for compiled in (False, True))
    assert recorded == usual


@recorded_or_not
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_as_if_it_had_not_been(
    method: str, recorded: bool, new: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockstep, "_OBSERVE_EVERY", 0.0)
    expected = trained(new("quiet", compile=recorded), method)
    session = new("stopped", compile=recorded)
    (cell,) = cells_of(session, [method])
    stops = [0.3, 0.7]

    def observe(progress: Progress) -> None:
        if stops and progress.fraction >= stops[0]:
            stops.pop(0)
            os.kill(os.getpid(), signal.SIGTERM)

    for left in (1, 0):
        with pytest.raises(Interrupted):
            session.run(cell, observe, cache="off")
        assert len(stops) == left
    assert trained(session, method) == expected


def test_cells_that_are_branches_end_as_they_do_alone(new: Opened) -> None:
    alone = [trained(new("alone"), method) for method in METHODS]
    assert trained(new("together", compile=True), *METHODS) == {k: v for each in alone for k, v in each.items()}


def test_runs_that_draw_from_the_one_generator_take_turns(new: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """As students with dropout do; a GPU has one generator of PyTorch's own."""
    for kind in (KD, DKD):

        def loss(self: Any, *parts: Any, usual: Any = kind.loss) -> dict[str, Tensor]:
            return {name: value * torch.rand_like(value) for name, value in usual(self, *parts).items()}

        monkeypatch.setattr(kind, "loss", loss)
    methods = ("ce", "dkd", "at", "kd")
    alone = [trained(new("alone"), method) for method in methods]
    assert trained(new("together", compile=True), *methods) == {k: v for each in alone for k, v in each.items()}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", COMPARED)
def test_lower_precisions_are_recorded_to_the_bit(method: str, precision: str, new: Opened) -> None:
    usual, recorded = (
        trained(new(str(compiled), compile=compiled, precision=precision), method) for compiled in (False, True)
    )
    assert recorded == usual


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", sorted(METHODS.keys() - DRAWS))
def test_a_gpu_trains_as_a_cpu_does(method: str, new: Opened) -> None:
    cpu, gpu = (trained(new(device, device, epochs=1), method, key="loss")[method] for device in ("cpu", "cuda"))
    assert gpu == pytest.approx(cpu, rel=1e-6)
