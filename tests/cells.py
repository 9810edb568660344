"""Cells of a few small steps, for every method and for networks of every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.cell import Cell, TeacherRef
from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import Dataset, load_dataset
from kdbench.errors import UserError
from kdbench.metrics import evaluate
from kdbench.networks import build_net, predict, weights_hash
from kdbench.protocol import Protocol, load_protocol
from kdbench.registry import load_method, resolve_settings
from kdbench.run import Options, Run
from kdbench.teacher_source import LiveTeacher, TeacherSource
from kdbench.teachers import Teacher, TeacherCard, freeze
from kdbench.trainer import Lockstep, Outcomes

# One row a method: its name, and settings that make it small.
METHODS: dict[str, dict[str, Any]] = {
    "ce": {},
    "kd": {},
    "dkd": {},
    "crd": {"num_negatives": 20, "feat_dim": 16},
    "reviewkd": {"max_mid_channels": 16},
    "pckd": {},
    "at": {},
    "sp": {},
    "pkt": {},
    "rkd": {},
    "nst": {},
    "cc": {"feat_dim": 16},
    "kdsvd": {},
    "fitnet": {},
    "dist": {},
    "nkd": {},
    "vid": {},
    "ofd": {},
    "srrl": {},
    "ickd": {},
    "ab": {},
    "fsp": {},
    "ft": {},
    "sskd": {},
    "ctkd": {},
    "mlld": {},
    "simkd": {},
}
PAIRS = {
    "cifar": ("resnet20", "resnet8"),
    "timm": ("timm:test_resnet", "timm:test_efficientnet"),
    "vit>cnn": ("timm:test_vit", "MobileNetV2"),
}
# What a method says of a pair that it cannot work on; tests of it on that pair are skipped.
REFUSED = {
    ("kdsvd", "timm"): "equally many channels",
    ("kdsvd", "vit>cnn"): "at least 2 stages",
    ("fitnet", "vit>cnn"): "compares stage 2 of both networks",
    ("simkd", "vit>cnn"): "layers between the two",
    ("ofd", "timm"): "batch norm before the last ReLU",
    ("ofd", "vit>cnn"): "batch norm before the last ReLU",
    ("ab", "timm"): "maps before the last ReLU",
    ("ab", "vit>cnn"): "maps before the last ReLU",
    ("fsp", "timm"): "equally many channels",
    ("fsp", "vit>cnn"): "equally many channels",
}
CPU = torch.device("cpu")

Typed = Callable[..., tuple[int, str, str]]
"""Types a command; returns exit code, standard output and standard error."""


def tiny_protocol(dataset: Dataset, **changes: Any) -> Protocol:
    """The demo's protocol on a small data set, 2 epochs of 3 steps, the last of 10 images."""
    protocol = load_protocol("digits-demo-v1").override(dataset=f"npz:{dataset.fingerprint[:16]}", epochs=2)
    return dataclasses.replace(protocol, **{"batch_size": 16, "flip": True, **changes})


def make_cell(protocol: Protocol, method: str, teacher: str, student: str, seed: int = 1) -> Cell:
    kind = load_method(method)
    return Cell(
        protocol=protocol,
        teacher=TeacherRef(teacher, "file:0") if kind.teacher_reads else None,
        student=student,
        method=method,
        method_version=kind.VERSION,
        settings=resolve_settings(
            method, dataset=protocol.dataset, teacher=teacher, student=student, chosen=METHODS[method]
        ),
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


def make_run(npz: Path, runs: Path, method: str, pair: str = "cifar", seed: int = 1, **changes: Any) -> Run:
    dataset = load_dataset(f"npz:{npz}", Path())
    protocol = tiny_protocol(dataset, **changes)
    teacher, student = PAIRS[pair]
    cell = make_cell(protocol, method, teacher, student, seed)
    source = make_source(teacher, protocol, dataset) if cell.teacher else None
    batches, options = Batches(DeviceData(dataset, protocol, CPU), protocol, seed), Options(runs=runs, device=CPU)
    if (method, pair) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[method, pair]) as refused:
            Run(cell, batches, source, options)
        pytest.skip(str(refused.value))
    return Run(cell, batches, source, options)


def steps(run: Run, num: int) -> None:
    """Do so many steps of the epoch that a run is in; what goes wrong is raised."""
    outcomes = Outcomes([run.cell])
    lockstep = Lockstep([run], run.batches, outcomes, run.options)
    run.batches.begin(run.epoch)
    run.begin_epoch()
    lockstep.open_readers([run])
    for _ in range(num):
        lockstep.tick(run.step, [run])
        if outcomes.has(run.cell):
            (error,) = outcomes.list()
            assert isinstance(error, Exception)
            raise error
