"""The step: the same as a plain loop, nothing that waits for the device, state in place."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import METHODS, Seen, make_run, steps
from recorded_graph import RecordedGraph, record
from torch import Tensor
from torch.nn import functional

import kdbench
from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import load_dataset
from kdbench.data.views import order
from kdbench.engine.graphs import StepGraphs
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import quietly
from kdbench.engine.run import Run
from kdbench.experiment.folder import WEIGHTS
from kdbench.experiment.protocol import load_protocol
from kdbench.experiment.registry import load_method
from kdbench.method import PLAIN, ViewPlan
from kdbench.methods.kd import KD
from kdbench.models.build import build_net
from kdbench.models.weights import read_weights
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.demand import Visits, Wanted
from kdbench.teachers.sources import NetworkSource
from kdbench.utils.device import Span
from kdbench.utils.signals import Stop

pytestmark = pytest.mark.once


def reads_cache(method: str) -> bool:
    """Whether a cache keeps all that a method reads of its teacher; the others would be trained from the live one."""
    kind = load_method(method)
    config = kind.Config(**METHODS[method])
    reads = kind.all_reads(config).teacher
    return bool(reads) and Wanted(1, kind.views(config), reads, range(1)).cacheable


SOURCES = [*((method, "live") for method in METHODS), *((method, "cache") for method in METHODS if reads_cache(method))]


def test_a_first_step_that_overflows_changes_nothing(tiny_npz: Path, tmp_path: Path) -> None:
    """The step is left out, weights and momentum stay, and the next one starts from there."""
    run = make_run(tiny_npz, tmp_path, "kd", precision="fp16")
    run.step_update.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    before = [parameter.clone() for parameter in run.parameters]
    steps(run, 1)
    assert run.step_update.scaler.get_scale() < 2.0**60
    for parameter, old in zip(run.parameters, before, strict=True):
        assert torch.equal(parameter, old)
        assert not run.optimizer.state[parameter]["momentum_buffer"].any()


@pytest.mark.numerical
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("method", ["ce", "kd"])
def test_training_is_the_plain_loop(method: str, tiny_npz: Path, tmp_path: Path) -> None:
    """Against a loop written as in a textbook: shuffled batches, SGD, cross entropy, KL."""
    run = make_run(tiny_npz, tmp_path, method, learning_rate=0.01)
    seen = Seen()
    with run.observed(seen):
        steps(run, 3)
    values = [list(terms.values()) for terms in seen.terms]
    assert len(values) == 3

    dataset, protocol = run.data.dataset, run.cell.protocol
    net = build_net(run.cell.student, protocol, dataset, seed=1, purpose="student").train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    ids, permutation = run.data.images.numbering.draw(1, 1, 42, PLAIN)[0], order(1, 1, 42)
    for step, index in enumerate(permutation.split(16)):
        images = torch.stack([_view(dataset.train_images[i], int(ids[i])) for i in index])
        logits = net.logits(images)
        ce = functional.cross_entropy(logits, dataset.train_labels[index])
        losses = [ce]
        if run.source:
            with torch.no_grad():
                taught = run.source.teacher.net.logits(images)
            kl = functional.kl_div((logits / 4).log_softmax(1), (taught / 4).softmax(1), reduction="batchmean")
            losses = [0.1 * ce, 0.9 * 16 * kl]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        assert values[step] == pytest.approx([loss.item() for loss in losses], rel=2**-23)  # rounded to float32
    for ours, theirs in zip(run.student.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def _view(image: Tensor, view: int) -> Tensor:
    """One view of an image ``(H, W, 3)`` with a border of one pixel, in [0, 1], channels first."""
    flip, (dy, dx) = view // 36, divmod(view % 9, 3)
    pixels = image.permute(2, 0, 1).float() / 255
    padded = functional.pad(pixels.flip(2) if flip else pixels, (1, 1, 1, 1))
    return padded[:, dy : dy + 16, dx : dx + 16]


def test_images_of_a_plan_are_the_first_of_a_longer_one(tiny_npz: Path) -> None:
    dataset, protocol = load_dataset(f"npz:{tiny_npz}", Path()), load_protocol("digits-demo-v1")
    batches = Batches(DeviceData(dataset, protocol, torch.device("cpu")), protocol, 3)
    half, all_turns = ViewPlan((0, 2)), ViewPlan((0, 1, 2, 3))
    for plan in (PLAIN, half, all_turns):
        batches.add(plan)
    assert all_turns.begins_with(PLAIN)
    assert half.begins_with(PLAIN)
    assert not all_turns.begins_with(half)
    assert not PLAIN.begins_with(half)
    batches.begin(2)
    (group,) = batches.groups(0)
    made = {p: batches.images(group, p) for p in (PLAIN, half, all_turns)}
    assert torch.equal(made[all_turns][:42], made[PLAIN])
    assert torch.equal(made[half][:42], made[PLAIN])
    pairs = batches.visits(range(1), half)
    index, view = batches.data.images.numbering.split(pairs)
    assert torch.equal(batches.data.images.augment(index, view), made[half])


def test_a_span_is_the_time_inside() -> None:
    with Span(torch.device("cpu")) as span:
        pass
    assert 0 <= span.seconds() < 10


@pytest.mark.numerical
@pytest.mark.usefixtures("float64")
@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_a_compiled_student_trains_as_any_other(tiny_npz: Path, tmp_path: Path) -> None:
    records, weights = [], []
    for compiled in (False, True):
        options: dict[str, Any] = {"data": f"npz:{tiny_npz}", "epochs": 2, "runs": tmp_path / str(compiled)}
        session = kdbench.Session.open("digits-demo-v1", **options, device="cpu", compile=compiled)
        cell = session.cell(method="ce", student="resnet8", seed=1)
        records.append(session.run(cell))
        weights.append(read_weights(cell.folder(session.runs) / WEIGHTS))
    assert records[1]["cell"] == records[0]["cell"]
    assert records[1]["loss"]["ce"] == pytest.approx(records[0]["loss"]["ce"], rel=1e-6)  # rounded to float32
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-9, atol=1e-12)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(kdbench.UserError, match="C\\+\\+ compiler, and no-such-compiler was not found"):
        kdbench.Session.open("digits-demo-v1", runs=tmp_path, device="cpu", compile=True)


@pytest.mark.numerical
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("method", "kind"), SOURCES)
def test_replayed_steps_are_the_steps(
    method: str, kind: str, tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs of ten steps of four images and one of two: nine steps of each epoch are replayed."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    states = []
    for replayed in (False, True):
        run = make_run(tiny_npz, tmp_path / str(replayed), method, batch_size=4, learning_rate=1e-3)
        if kind == "cache":
            assert isinstance(run.source, NetworkSource)
            source = NetworkSource(run.source.live, cache_of(run, tmp_path))
            run.feed = dataclasses.replace(run.feed, source=source)
        outcomes = Outcomes([run.cell])
        lockstep = Lockstep([run], run.batches, outcomes, run.options)
        if replayed:
            lockstep.graphs = StepGraphs(lockstep.shared, outcomes)
        RecordedGraph.replays = 0
        seen = Seen()
        with run.observed(seen):
            lockstep.train(Stop(), quietly)
        assert isinstance(outcomes.list()[0], dict), outcomes.list()
        assert len(seen.terms) == len(run.cell.epochs) * 11, "replayed steps are seen as well"
        states.append({**run.student.state_dict(), **{f"method.{k}": v for k, v in run.method.state_dict().items()}})
    # Each epoch: nine replays of what is shared and of the run, and one of what is shared while recording.
    assert RecordedGraph.replays == len(run.cell.epochs) * (9 * 2 + 1)
    for name, value in states[0].items():
        # While it is recorded, a sum of gradients may be rounded in another order.
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12)


def test_a_run_that_cannot_be_recorded_fails_alone(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "CUDAGraph", RecordedGraph)
    monkeypatch.setattr(torch.cuda, "graph", record)
    loss = KD.loss

    def wait(self: KD, *parts: Any) -> dict[str, Tensor]:
        if runs[1].step:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return loss(self, *parts)

    monkeypatch.setattr(KD, "loss", wait)
    runs = [make_run(tiny_npz, tmp_path, method, batch_size=4) for method in ("ce", "kd")]
    runs[1].batches = runs[0].batches
    outcomes = Outcomes([run.cell for run in runs])
    lockstep = Lockstep(runs, runs[0].batches, outcomes, runs[0].options)
    lockstep.graphs = StepGraphs(lockstep.shared, outcomes)
    lockstep.train(Stop(), quietly)
    ce, kd = outcomes.list()
    assert isinstance(ce, dict)
    assert str(kd).endswith("(operation not permitted when stream is capturing): leave --compile out")


def cache_of(run: Run, runs: Path) -> TeacherCache:
    """A cache of all that a run will visit."""
    assert run.source
    live, protocol = run.source.live, run.cell.protocol
    visits = Visits(run.batches.num_images, run.data.images.numbering)
    visits.add(run.cell.seed, run.cell.epochs, run.feed.plan)
    cache = TeacherCache(runs, Identity.of(live.teacher.card, protocol, run.data.dataset))
    cache.build(visits.pairs(), ("logits", "penultimate"), lambda pairs: live.forward(run.data, pairs), batch=64)
    return cache
