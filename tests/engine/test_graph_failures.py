"""An error of what the runs of one feed share fails these alone, in CUDA graphs as without them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import make_run
from recorded_graph import RecordedGraph, record

from kdbench.engine.graphs import StepGraphs
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import quietly
from kdbench.engine.run import Run
from kdbench.teachers.outputs import LiveReader, LiveTeacher
from kdbench.utils.signals import Stop

pytestmark = pytest.mark.once


def trained(runs: list[Run]) -> list[Any]:
    """Train runs in lockstep with a stand-in for CUDA graphs; return the outcomes."""
    for run in runs[1:]:
        run.batches = runs[0].batches
    outcomes = Outcomes([run.cell for run in runs])
    lockstep = Lockstep(runs, runs[0].batches, outcomes, runs[0].options)
    lockstep.graphs = StepGraphs(lockstep.shared, outcomes)
    lockstep.train(Stop(), quietly)
    return outcomes.list()


def failing_from(step: int, runs: list[Run], original: Callable[..., Any]) -> Callable[..., Any]:
    def fail(*given: Any) -> Any:
        if runs and runs[0].step >= step:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(*given)

    return fail


@pytest.mark.parametrize(
    ("owner", "name", "step"),
    [(LiveTeacher, "outputs", 0), (LiveTeacher, "outputs", 1), (LiveReader, "inputs", 1), (LiveReader, "inputs", 4)],
    ids=["in the first step", "while it is recorded", "looked up to be recorded", "looked up to be replayed"],
)
def test_a_feed_that_fails_fails_alone(
    owner: type, name: str, step: int, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is done once by the others: they end as if they had been alone."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    (alone,) = trained([make_run(tiny_npz, tmp_path / "alone", "ce", batch_size=4, learning_rate=1e-3)])
    runs: list[Run] = []
    monkeypatch.setattr(owner, name, failing_from(step, runs, getattr(owner, name)))
    runs += [make_run(tiny_npz, tmp_path / "runs", method, batch_size=4, learning_rate=1e-3) for method in ("ce", "kd")]
    ce, kd = trained(runs)
    assert "out of memory (CUDA out of memory)" in str(kd)
    assert isinstance(ce, dict), ce
    assert ce["weights"] == alone["weights"]
    assert ce["loss"] == alone["loss"]


def test_graphs_of_earlier_runs_are_not_taken_for_those_that_failed_to_be_recorded(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cell goes by graphs, another joins and fails while both are recorded: the first one misses no step."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    (alone,) = trained([make_run(tiny_npz, tmp_path / "alone", "ce", batch_size=4, learning_rate=1e-3)])
    runs: list[Run] = []
    monkeypatch.setattr(LiveTeacher, "outputs", failing_from(6, runs, LiveTeacher.outputs))
    runs += [make_run(tiny_npz, tmp_path / "runs", method, batch_size=4, learning_rate=1e-3) for method in ("ce", "kd")]
    runs[1].step = 5  # as if it was resumed there
    ce, kd = trained(runs)
    assert "out of memory (CUDA out of memory)" in str(kd)
    assert isinstance(ce, dict), ce
    assert ce["weights"] == alone["weights"]
