"""Cells cannot tell a cache from a live teacher."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import CPU, PAIRS, make_cell, make_source, tiny_protocol
from test_cache import BOTH, ROTATIONS
from torch import Tensor

import kdbench
from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import load_dataset
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import Progress, quietly
from kdbench.engine.run import Run
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE
from kdbench.net import Part
from kdbench.teachers import cache as teacher_cache
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.demand import Visits
from kdbench.teachers.outputs import LiveTeacher
from kdbench.teachers.sources import NetworkSource
from kdbench.utils import files
from kdbench.utils.signals import Stop

pytestmark = pytest.mark.once

Losses = dict[str, list[list[float]]]


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> Iterator[Losses]:
    """Loss terms of every step of every run, by cell and source."""
    found: Losses = {}
    count = Run.count

    def note(run: Run, values: Tensor, spans: Any) -> None:
        kind = run.source.kind if run.source else "none"
        found.setdefault(f"{run.cell.method} {kind}", []).append(values.tolist())
        count(run, values, spans)

    monkeypatch.setattr(Run, "count", note)
    return found


@pytest.mark.numerical
@pytest.mark.parametrize("precision", ["float64", "bf16"])
def test_cached_and_live_training_agree_step_by_step(
    precision: str, tiny_npz: Path, tmp_path: Path, losses: Losses, request: pytest.FixtureRequest
) -> None:
    if precision == "float64":
        request.getfixturevalue("float64")
        precision = "fp32"
    dataset = load_dataset(f"npz:{tiny_npz}", Path())
    protocol = tiny_protocol(dataset, precision=precision, learning_rate=0.01).override(epochs=4)
    teacher, student = PAIRS["cifar"]
    data = DeviceData(dataset, protocol, CPU)
    live = make_source(teacher, protocol, dataset)
    identity = Identity.of(live.teacher.card, protocol, dataset)
    visits = Visits(len(dataset.train_labels), data.images.numbering)
    visits.add(1, range(1, 5), ROTATIONS)
    cache = TeacherCache(tmp_path, identity)
    cache.build(visits.pairs(), BOTH, lambda pairs: live.live.forward(data, pairs), batch=64)
    for source in (live, NetworkSource(live.live, cache)):
        for method in ("kd", "dkd", "crd", "pckd"):
            cell = make_cell(protocol, method, teacher, student)
            options = Options(runs=tmp_path / source.kind, device=CPU)
            batches = Batches(data, protocol, 1)
            outcomes = Outcomes([cell])
            Lockstep([Run(cell, batches, source, options)], batches, outcomes, options).train(Stop(), quietly)
            assert isinstance(outcomes.list()[0], dict), outcomes.list()
    for method in ("kd", "dkd", "crd", "pckd"):
        ours, theirs = (torch.tensor(losses[f"{method} {kind}"]) for kind in ("cache", "live"))
        assert len(ours) == 12
        # Terms are rounded to float32. bfloat16 has 8 bits: another batch may round a value to its neighbour.
        rtol, atol = (2**-23, 1e-12) if precision == "fp32" else (0.1, 1e-5)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.fixture
def session(tiny_npz: Path, tmp_path: Path) -> kdbench.Session:
    opened = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=8, runs=tmp_path, device="cpu")
    opened.train_teacher("resnet8")
    return opened


def cells(
    session: kdbench.Session, *methods: str, seeds: tuple[int, ...] = (1,), student: str = "resnet8"
) -> list[Cell]:
    return [
        session.cell(method=method, student=student, teacher="resnet8", seed=seed)
        for seed in seeds
        for method in methods
    ]


def kinds(outcomes: list[Any]) -> list[str | None]:
    assert all(isinstance(outcome, dict) for outcome in outcomes), outcomes
    return [outcome["cost"]["teacher_outputs"] for outcome in outcomes]


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Views that the live teacher forwards, by call."""
    counted: list[int] = []
    outputs = LiveTeacher.outputs

    def note(live: LiveTeacher, images: Tensor, reads: frozenset[Part]) -> Any:
        counted.append(len(images))
        return outputs(live, images, reads)

    monkeypatch.setattr(LiveTeacher, "outputs", note)
    return counted


def test_modes(session: kdbench.Session, forwards: list[int]) -> None:
    """8 epochs visit about 5.5 of the 9 views of an image; the demo's protocol flips nothing."""
    assert kinds(session.run_all(cells(session, "ce", "kd", "reviewkd"), cache="off")) == [None, "live", "live"]
    assert sum(forwards) == 8 * 42
    forwards.clear()
    outcomes = session.run_all(cells(session, "dkd", "reviewkd", seeds=(2,)), cache="on")
    assert kinds(outcomes) == ["cache", "live"]
    asked = sum(forwards) - 8 * 42 - 2 * 64 - 32  # without reviewkd, the measured speed and the comparison
    assert asked in (6 * 64, 7 * 64, 8 * 64)  # an image has one place in a batch, and 5 to 8 views
    assert [o["cost"]["teacher_forwards"] for o in outcomes] == [0, 8 * 42]
    forwards.clear()
    assert kinds(session.run_all(cells(session, "kd", seeds=(2,)), cache="auto")) == ["cache"]
    assert sum(forwards) == 32  # nothing but the comparison with the live teacher


def test_auto_builds_where_that_saves_forwards(session: kdbench.Session, tiny_npz: Path, tmp_path: Path) -> None:
    short = kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path, device="cpu")
    cell = short.cell(method="kd", student="resnet8", teacher="resnet8", seed=1)
    assert kinds(short.run_all([cell])) == ["live"]  # one epoch visits nothing twice
    assert kinds(session.run_all(cells(session, "kd", "reviewkd"))) == ["live", "live"]  # it is forwarded anyway
    assert kinds(session.run_all(cells(session, "kd", seeds=(2, 3)))) == ["cache", "cache"]


@pytest.mark.parametrize("kind", ["live", "cache"])
def test_a_cell_that_was_begun_goes_on_as_it_began(kind: str, session: kdbench.Session, tmp_path: Path) -> None:
    quiet = dataclasses.replace(session, runs=tmp_path / "quiet")
    quiet.train_teacher("resnet8")
    (expected,) = quiet.run_all(cells(quiet, "kd"), cache="off" if kind == "live" else "on")
    (cell,) = cells(session, "kd")

    def stop_at_half(_: Cell) -> Callable[[Progress], None]:
        def observe(progress: Progress) -> None:
            if progress.fraction > 0.4:
                os.kill(os.getpid(), signal.SIGTERM)

        return observe

    with pytest.raises(Interrupted):
        session.run_all([cell], stop_at_half, cache="off" if kind == "live" else "on")
    assert f'teacher_outputs = "{kind}"' in (cell.folder(session.runs) / CONFIG).read_text()
    if kind == "live":
        assert kinds(session.run_all(cells(session, "dkd"), cache="on")) == ["cache"]
    else:
        shutil.rmtree(session.runs / teacher_cache.FOLDER)
    outcomes = session.run_all([cell], cache="auto")
    assert kinds(outcomes) == [kind]
    assert [outcome["weights"] for outcome in outcomes] == [expected["weights"]]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"teacher_outputs = [", b"[a]\n" * 2])
def test_a_begun_cell_resumes_without_its_configuration(content: bytes, session: kdbench.Session) -> None:
    (cell,) = cells(session, "kd")

    def stop(_: Cell) -> Callable[[Progress], None]:
        return lambda progress: os.kill(os.getpid(), signal.SIGTERM) if progress.fraction > 0.4 else None

    with pytest.raises(Interrupted):
        session.run_all([cell], stop)
    (cell.folder(session.runs) / CONFIG).write_bytes(content)
    assert kinds(session.run_all([cell])) in (["live"], ["cache"])


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), OSError("stale handle")])
def test_a_build_that_fails_in_any_way_fails_all_that_should_read_it(
    error: Exception, session: kdbench.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``--cache on`` no cell is trained from the live teacher, and the next try builds the cache."""
    session.train_teacher("resnet14")

    def broken(live: LiveTeacher, *_: Any) -> Any:
        raise error

    wanted = [
        *cells(session, "kd", "ce", "dkd", "reviewkd", seeds=(1, 2)),
        session.cell(method="kd", student="resnet8", teacher="resnet14", seed=1),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(LiveTeacher, "forward", broken)
        outcomes = session.run_all(wanted, cache="on")
        with pytest.raises(type(error), match=str(error)):
            session.build_caches(wanted, cache="on")
    failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [True, False, True, False] * 2 + [True]
    assert all(outcome is error for outcome in failed)
    reports = [json.loads((cell.folder(session.runs) / FAILURE).read_bytes())["traceback"] for cell in wanted[::2]]
    assert max(map(len, reports)) < 2 * min(map(len, reports)), "what is raised again does not grow"
    assert set(kinds(session.run_all(wanted, cache="on"))) == {None, "cache", "live"}


def test_a_cache_that_does_not_fit_stops_only_those_that_need_it(
    session: kdbench.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(session.runs)._replace(free=1000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    outcomes = session.run_all(cells(session, "ce", "kd", "reviewkd", "dkd"), cache="on")
    assert [isinstance(outcome, UserError) for outcome in outcomes] == [False, True, False, True]
    assert re.search(r"needs .* kB in .* 1\.0 kB are free", str(outcomes[1]))
    assert not list(session.runs.glob("**/failed.json")), "with more space the same command resumes"
    assert kinds(session.run_all(cells(session, "kd"), cache="auto")) == ["live"]
