"""Every method, and cells of a few small steps with it; see :mod:`kdbench.engine.checks.small`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.data.datasets import load_dataset
from kdbench.engine.checks import small
from kdbench.engine.checks.small import CPU, PAIRS, make_source, make_teacher, steps, tiny_protocol
from kdbench.engine.evaluation import evaluate_runs
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.run import Run
from kdbench.engine.step import StepObserver
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.protocol import Protocol
from kdbench.method import Batch
from kdbench.net import Outputs
from kdbench.utils.ranks import ALONE, Ranks

__all__ = ["CPU", "PAIRS", "make_source", "make_teacher", "steps", "tiny_protocol"]

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
    "tekap": {},
    "itrd": {},
    "mgd": {},
    "ttm": {},
    "wttm": {},
    "wsld": {},
    "tfkd": {},
    "tfreg": {},
    "rld": {},
    "gdkd": {"top_k": 2},
    "abkd": {},
    "ofa": {},
    "semckd": {},
    "diffkd": {},
    "catkd": {},
    "sdkd": {},
    "sddkd": {},
    "sdnkd": {},
    "crld": {},
    "wkdf": {},
    "wkdl": {},
    "wkd": {},
    "fcfd": {},
    "dot": {},
    "deepkd": {},
}
# Settings with which a method does not depend on the order of a batch, where that is not its default.
UNORDERED: dict[str, dict[str, Any]] = {
    "cc": {"form": "kernel"},
    "sskd": {"ss_ratio": 1.0},
    "tekap": {"noise_share": 0.0},
    "mgd": {"mask_ratio": 0.0},
    "semckd": {"semckd_weight": 0.0},
    "diffkd": {"feature_weight": 0.0, "logit_weight": 0.0},
}
# What a method says of a pair, or in a check, that it cannot work on; other tests of it on that pair are skipped.
REFUSED = {
    ("reviewkd", "one image"): "batch of one image",
    ("srrl", "one image"): "batch of one image",
    ("itrd", "one image"): "batch of one image",
    ("semckd", "one image"): "batch of one image",
    ("diffkd", "one image"): "batch of one image",
    ("kdsvd", "timm"): "equally many channels",
    ("kdsvd", "vit>cnn"): "at least 2 stages",
    ("fitnet", "vit>cnn"): "compares stage 2 of both networks",
    ("ofd", "timm"): "batch norm before the last ReLU",
    ("ofd", "vit>cnn"): "batch norm before the last ReLU",
    ("simkd", "vit>cnn"): "tokens, not a feature map",
    ("fcfd", "timm"): "runs networks from a stage on",
    ("fcfd", "vit>cnn"): "at least 2 stages",
    ("wkdf", "timm"): "cells of one position",
    ("wkdf", "vit>cnn"): "cells of one position",
    ("wkd", "timm"): "cells of one position",
    ("wkd", "vit>cnn"): "cells of one position",
    ("catkd", "vit>cnn"): "tokens, not a feature map",
    ("sdkd", "vit>cnn"): "tokens, not a feature map",
    ("sddkd", "vit>cnn"): "tokens, not a feature map",
    ("sdnkd", "vit>cnn"): "tokens, not a feature map",
    ("ab", "timm"): "maps before the last ReLU",
    ("ab", "vit>cnn"): "maps before the last ReLU",
    ("fsp", "timm"): "equally many channels",
    ("fsp", "vit>cnn"): "equally many channels",
}


class Seen(StepObserver):
    """The images and the loss terms of each step."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []
        self.terms: list[dict[str, float]] = []

    def begins(self, batch: Batch, teacher: Outputs) -> None:
        self.images.append(batch.images.clone())

    def ends(self, names: tuple[str, ...], values: Tensor) -> None:
        self.terms.append(dict(zip(names, values.tolist(), strict=True)))


Typed = Callable[..., tuple[int, str, str]]
"""Types a command; returns exit code, standard output and standard error."""


def make_cell(protocol: Protocol, method: str, teacher: str, student: str, seed: int = 1) -> Cell:
    return small.make_cell(protocol, method, teacher, student, seed, METHODS[method])


def make_run(
    npz: Path, runs: Path, method: str, pair: str = "cifar", seed: int = 1, *, ranks: Ranks = ALONE, **changes: Any
) -> Run:
    dataset = load_dataset(f"npz:{npz}", Path())
    protocol = tiny_protocol(dataset, **changes)
    teacher, student = PAIRS[pair]
    cell = make_cell(protocol, method, teacher, student, seed)
    source = make_source(teacher, protocol, dataset) if cell.teacher else None
    batches = Batches(DeviceData(dataset, protocol, CPU), protocol, seed, ranks)
    options = Options(runs=runs, device=CPU, ranks=ranks)
    if (method, pair) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[method, pair]) as refused:
            Run(cell, batches, source, options)
        pytest.skip(str(refused.value))
    return Run(cell, batches, source, options)


def share_teachers(runs: Path, teacher_runs: Path) -> None:
    """Give a folder of runs the teachers of the demo's first protocol that another one has."""
    teachers = runs / "digits-demo-v1" / "teachers"
    if not teachers.exists():
        teachers.parent.mkdir(parents=True)
        teachers.symlink_to(teacher_runs / "digits-demo-v1" / "teachers")


def end_epoch(run: Run) -> None:
    """Evaluate a run, if its epoch is the protocol's, and move to the next epoch."""
    outcomes = Outcomes([run.cell])
    measured = [] if run.phase.pretraining else [run]
    ranks = run.options.ranks
    run.end_epoch(evaluate_runs(measured, run.data.evaluation, outcomes, ranks).get(run.cell.id, {}))
