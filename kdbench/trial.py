"""A method on trial: cells of a few small steps on generated images, on networks of every kind, on the CPU."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.cell import Cell, TeacherRef
from kdbench.data.arrays import Arrays
from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import Dataset, from_arrays
from kdbench.errors import UserError
from kdbench.metrics import evaluate
from kdbench.net import Outputs
from kdbench.networks import build_net, predict, weights_hash
from kdbench.protocol import Protocol, load_protocol
from kdbench.registry import load_method, resolve_settings
from kdbench.run import Options, Run
from kdbench.teacher_source import LiveTeacher, TeacherSource
from kdbench.teachers import Teacher, TeacherCard, freeze
from kdbench.trainer import Lockstep, Outcomes

PAIRS = {
    "cifar": ("resnet20", "resnet8"),
    "timm": ("timm:test_resnet", "timm:test_efficientnet"),
    "vit>cnn": ("timm:test_vit", "MobileNetV2"),
}
"""Teacher and student: two networks for small images, two of timm's, and two that have little in common."""
CPU = torch.device("cpu")
NUM_STEPS = 3
"""Of an epoch on the small data set; the last one sees fewer images than the others."""


def tiny_arrays() -> Arrays:
    """42 training and 30 test images of 3 classes, 16 x 16, each class a stripe pattern under noise."""
    generator = np.random.default_rng(7)

    def images(labels: Any) -> Any:
        rows = np.arange(16)[:, None, None]
        waves = [127 + 90 * np.sin(rows * (c + 1) * np.pi / 4) * np.ones((1, 16, 3)) for c in range(3)]
        noise = generator.normal(0, 30, (len(labels), 16, 16, 3))
        return np.clip(np.stack([waves[c] for c in labels]) + noise, 0, 255).astype(np.uint8)

    train, test = np.arange(42) % 3, np.arange(30) % 3
    return {
        "train_images": images(train),
        "train_labels": train,
        "test_images": images(test),
        "test_labels": test,
    }


def tiny_protocol(dataset: Dataset, **changes: Any) -> Protocol:
    """The demo's protocol on a small data set, 2 epochs of 3 steps, the last of 10 images."""
    protocol = load_protocol("digits-demo-v1").override(dataset=f"npz:{dataset.fingerprint[:16]}", epochs=2)
    return dataclasses.replace(protocol, **{"batch_size": 16, "flip": True, **changes})


def make_cell(
    protocol: Protocol, method: str, teacher: str, student: str, seed: int = 1, settings: dict[str, Any] | None = None
) -> Cell:
    """A cell whose teacher is one of :func:`make_teacher`."""
    kind = load_method(method)
    return Cell(
        protocol=protocol,
        teacher=TeacherRef(teacher, "file:0") if kind.teacher_reads else None,
        student=student,
        method=method,
        method_version=kind.VERSION,
        settings=resolve_settings(method, dataset=protocol.dataset, teacher=teacher, student=student, chosen=settings),
        seed=seed,
    )


def make_teacher(network: str, protocol: Protocol, dataset: Dataset) -> Teacher:
    """An untrained teacher."""
    net = freeze(build_net(network, protocol, dataset, seed=0, purpose="teacher"))
    logits = predict(net, dataset.test_images)
    card = TeacherCard(
        network=network,
        id="file:0",
        dataset=protocol.dataset,
        weights=weights_hash(net.backbone.state_dict()),
        accuracy=evaluate(logits, dataset.test_labels)["top1"],
        expected=None,
        origin="untrained",
    )
    return Teacher(card, net, logits)


def make_source(network: str, protocol: Protocol, dataset: Dataset) -> TeacherSource:
    """A live, untrained teacher."""
    return TeacherSource(LiveTeacher(make_teacher(network, protocol, dataset), protocol.precision, CPU), None)


def steps(run: Run, num: int) -> None:
    """Do so many steps of the first epoch; what goes wrong is raised."""
    outcomes = Outcomes([run.cell])
    lockstep = Lockstep([run], run.batches, outcomes, run.options)
    run.batches.begin(1)
    run.begin_epoch()
    for _ in range(num):
        lockstep.tick(run.step, [run])
        if outcomes.has(run.cell):
            (error,) = outcomes.list()
            assert isinstance(error, Exception)
            raise error


def remembered(run: Run) -> str:
    """Hash of everything that is trained or remembered."""
    return weights_hash(
        {f"student.{k}": v for k, v in run.student.state_dict().items()}
        | {f"method.{k}": v for k, v in run.method.state_dict().items()}
    )


def trained(run: Run) -> dict[str, nn.Parameter]:
    """What is trained, by name."""
    modules = {"student": run.student, "method": run.method}
    found = {f"{m}.{name}": p for m, module in modules.items() for name, p in module.named_parameters()}
    return {name: parameter for name, parameter in found.items() if parameter.requires_grad}


def places(run: Run) -> dict[str, int]:
    """Where in memory everything lies that is trained or remembered."""
    modules = {"student": run.student, "method": run.method}
    return {f"{m}.{k}": v.data_ptr() for m, module in modules.items() for k, v in module.state_dict().items()}


class Refused(Exception):
    """The method says that it cannot work on these networks, or on this batch."""


@final
@dataclass
class Epoch:
    """What was seen in an epoch of one run."""

    run: Run
    student: str
    """Hash of the student's first weights."""
    places: tuple[dict[str, int], dict[str, int]]
    """After the first step and after the last."""
    teacher: tuple[str, str]
    """Hashes of the teacher's weights before and after; empty without a teacher."""
    terms: list[dict[str, Any]] = field(default_factory=list)
    """Of each step."""
    remembered: list[str] = field(default_factory=list)
    """After each step."""
    reached: set[str] = field(default_factory=set)
    """Parameters that got a gradient in some step."""
    endless: set[str] = field(default_factory=set)
    """Those whose gradient was not finite."""
    seen: list[tuple[list[int], Tensor]] = field(default_factory=list)
    """Image numbers and plain views of each step."""
    changed: set[str] = field(default_factory=set)
    """What the method was given and changed."""
    asked: bool = False
    """Whether the method ran the teacher itself."""


@final
class Trial:
    """One method on one pair. What several checks look at is done once.

    Parameters
    ----------
    pair
        A key of ``PAIRS``.
    folder
        For states.
    """

    def __init__(self, method: str, pair: str, folder: Path, settings: dict[str, Any] | None = None) -> None:
        self.method, self.pair, self.folder, self.settings = method, pair, folder, settings or {}
        self.dataset = from_arrays("generated", tiny_arrays())
        self._epoch: Epoch | Exception | None = None

    def run(self, seed: int = 1, **changes: Any) -> Run:
        """Build a run at its beginning, under a protocol with some changes.

        Raises
        ------
        Refused
            The method refuses the pair.
        """
        protocol = tiny_protocol(self.dataset, **changes)
        teacher, student = PAIRS[self.pair]
        cell = make_cell(protocol, self.method, teacher, student, seed, self.settings)
        source = make_source(teacher, protocol, self.dataset) if cell.teacher else None
        batches = Batches(DeviceData(self.dataset, protocol, CPU), protocol, seed)
        try:
            return Run(cell, batches, source, Options(runs=self.folder, device=CPU))
        except UserError as error:
            raise Refused(str(error.__context__ or error)) from None

    @property
    def epoch(self) -> Epoch:
        """One whole epoch, watched. What goes wrong in it is raised whenever it is asked for."""
        if self._epoch is None:
            try:
                self._epoch = _watch(self.run())
            except Exception as error:
                self._epoch = error
        if isinstance(self._epoch, Exception):
            raise self._epoch
        return self._epoch

    @cached_property
    def halves(self) -> tuple[Run, Run, str]:
        """Two runs of the same cell: one saved after a step, one that goes on from there; what the second was then."""
        first = self.run()
        steps(first, 1)
        first.drain()
        first.save()
        second = self.run()
        second.resume()
        return first, second, remembered(second)

    @cached_property
    def ended(self) -> str:
        """What is trained and remembered at the end of an epoch that was interrupted after its first step."""
        _, second, _ = self.halves
        steps(second, NUM_STEPS - 1)
        return remembered(second)

    @cached_property
    def elsewhere(self) -> str:
        """What is trained and remembered after the first step in another process."""
        return first_steps_elsewhere([(self.method, self.pair, self.settings)])[0]


def _watch(run: Run) -> Epoch:
    frozen = run.source.teacher.net if run.source else None
    live = run.source.live.net if run.source else None
    inside = False

    def weights() -> str:
        return "".join(weights_hash(net.state_dict()) for net in (frozen, live) if net)

    epoch = Epoch(run, weights_hash(run.student.state_dict()), ({}, {}), (weights(), ""))

    def update(images: Tensor, index: Tensor, teacher: Outputs) -> Tensor:
        nonlocal inside
        given = {"its images": images, "its image numbers": index, "the labels": run.data.labels, **_parts(teacher)}
        before = {name: tensor.clone() for name, tensor in given.items()}
        epoch.seen.append((index.tolist(), images[: len(index)].clone()))
        inside = True
        values = original(images, index, teacher)
        inside = False
        epoch.changed |= {name for name, tensor in given.items() if not torch.equal(tensor, before[name])}
        epoch.terms.append(dict(zip(run.terms, values.tolist(), strict=True)))
        return values

    def note_asking(*_: Any) -> None:
        epoch.asked |= inside

    original, run.update = run.update, update  # type: ignore[method-assign]
    if frozen:
        frozen.register_forward_pre_hook(note_asking)
    for step in range(NUM_STEPS):
        steps(run, 1)
        for name, parameter in trained(run).items():
            if parameter.grad is not None:
                epoch.reached.add(name)
                epoch.endless |= set() if parameter.grad.isfinite().all() else {name}
        epoch.remembered.append(remembered(run))
        if step == 0:
            epoch.places = places(run), {}
    run.update = original  # type: ignore[method-assign]
    epoch.places = epoch.places[0], places(run)
    epoch.teacher = epoch.teacher[0], weights()
    return epoch


def _parts(outputs: Outputs) -> dict[str, Tensor]:
    """The tensors that a teacher gives."""
    found = {}
    for name, part in outputs.parts().items():
        for number, tensor in enumerate(part if isinstance(part, tuple) else (part,)):
            found[f"the teacher's {name}" + (f" {number}" if isinstance(part, tuple) else "")] = tensor
    return found


def first_steps_elsewhere(cells: Sequence[tuple[str, str, dict[str, Any]]]) -> list[str]:
    """Do the first step of methods on pairs with settings in another process; return what each then remembers.

    Raises
    ------
    RuntimeError
        The process ended with an error.
    """
    # Sets of texts have another order there.
    chance = {"PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    done = subprocess.run(  # noqa: S603 - this module
        [sys.executable, "-m", "kdbench.trial", json.dumps([torch.get_num_threads(), cells])],
        env=os.environ | chance,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _main(words: str) -> None:
    threads, cells = json.loads(words)
    torch.set_num_threads(threads)
    found = []
    for method, pair, settings in cells:
        run = Trial(method, pair, Path(os.devnull), settings).run()
        steps(run, 1)
        found.append(remembered(run))
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    _main(sys.argv[1])
