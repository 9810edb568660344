"""A folder of runs with networks of each kind, trained for an epoch on a few images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdbench.engine.session import Session


@dataclass(frozen=True)
class TrainedRuns:
    """Folders of finished cells by name, and of a teacher."""

    runs: Path
    npz: Path
    cells: dict[str, Path]
    teacher: Path


CELLS = {
    "kd": ("kd", "resnet8", "resnet20"),
    "simkd": ("simkd", "resnet8", "resnet20"),
    "vit": ("ce", "timm:test_vit", None),
    "torchvision": ("ce", "torchvision:resnet18", None),
}


def make_runs(folder: Path, npz: Path) -> TrainedRuns:
    runs = folder / "runs"
    session = Session.open("digits-demo-v1", runs=runs, data=f"npz:{npz}", epochs=1, device="cpu")
    session.train_teacher("resnet20")
    cells = [session.cell(method=m, student=s, teacher=t, seed=1) for m, s, t in CELLS.values()]
    for cell in cells:
        session.run(cell, cache="off")
    (teacher,) = runs.glob("*/teachers/*")
    return TrainedRuns(runs, npz, {name: cell.folder(runs) for name, cell in zip(CELLS, cells, strict=True)}, teacher)
