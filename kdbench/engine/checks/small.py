"""Cells of a few small steps on generated images, for every method and networks of every kind, on the CPU."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from kdbench.data.arrays import Arrays
from kdbench.data.images import Dataset
from kdbench.engine.lockstep import Lockstep
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.experiment.registry import load_method, method_version
from kdbench.experiment.settings import resolve_settings
from kdbench.models.build import build_net
from kdbench.models.evaluate import evaluate, predict
from kdbench.models.weights import freeze, weights_hash
from kdbench.teachers.cards import TeacherCard
from kdbench.teachers.load import Teacher
from kdbench.teachers.outputs import LiveTeacher
from kdbench.teachers.sources import NetworkSource

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
    """Return the demo's protocol on a small data set, 2 epochs of 3 steps, the last of 10 images."""
    protocol = load_protocol("digits-demo-v1")
    small = {"dataset": f"npz:{dataset.fingerprint[:16]}", "epochs": 2, "batch_size": 16, "flip": True}
    return dataclasses.replace(protocol, rules=protocol.rules.replace(**{**small, **changes}))


def make_cell(
    protocol: Protocol, method: str, teacher: str, student: str, seed: int = 1, settings: dict[str, Any] | None = None
) -> Cell:
    """Return a cell whose teacher is one of :func:`make_teacher`."""
    kind = load_method(method)
    resolved = resolve_settings(method, dataset=protocol.dataset, teacher=teacher, student=student, chosen=settings)
    return Cell(
        protocol=protocol,
        teacher=TeacherRef(teacher, "file:0") if kind.READS.teacher else None,
        student=student,
        method=method,
        method_version=method_version(method, resolved.values()),
        settings=resolved,
        seed=seed,
    )


def make_teacher(network: str, protocol: Protocol, dataset: Dataset) -> Teacher:
    """Return an untrained teacher."""
    net = freeze(build_net(network, protocol, dataset, seed=0, purpose="teacher"))
    logits = predict(net, dataset.evaluation(CPU))
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


def make_source(network: str, protocol: Protocol, dataset: Dataset) -> NetworkSource:
    """Return a live, untrained teacher."""
    return NetworkSource(LiveTeacher(make_teacher(network, protocol, dataset), protocol.precision, CPU), None)


def begin(run: Run) -> Callable[[], None]:
    """Begin the epoch that a run is in; return what does a step of it, and raises what goes wrong."""
    outcomes = Outcomes([run.cell])
    lockstep = Lockstep([run], run.batches, outcomes, run.options)
    lockstep.begin_epoch([run])

    def step() -> None:
        lockstep.tick(run.step, [run])
        outcomes.check(run.cell)

    return step


def steps(run: Run, num: int) -> None:
    """Begin the epoch that a run is in, and do so many steps of it."""
    step = begin(run)
    for _ in range(num):
        step()
