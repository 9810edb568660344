"""Teachers that a protocol trains for epochs of their own: trained, found and planned as such."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import kdbench
from kdbench.errors import UserError
from kdbench.grid.estimate import GridEstimate
from kdbench.grid.file import read_grid
from kdbench.grid.grid import Grid
from kdbench.grid.states import survey
from kdbench.utils.scheduler import Scheduler

pytestmark = pytest.mark.once


def opened(npz: Path, runs: Path, teacher_epochs: int | None) -> kdbench.Session:
    """A session of two epochs; with ``teacher_epochs``, as if the protocol's file said so."""
    session = kdbench.Session.open("digits-demo-v1", data=f"npz:{npz}", epochs=2, runs=runs, device="cpu")
    return dataclasses.replace(session, protocol=dataclasses.replace(session.protocol, teacher_epochs=teacher_epochs))


def test_a_teacher_has_its_own_epochs_and_is_found_by_them(tiny_npz: Path, tmp_path: Path) -> None:
    session, plain = opened(tiny_npz, tmp_path, 1), opened(tiny_npz, tmp_path, None)
    card = session.train_teacher("resnet8")
    assert (card.epochs, card.origin) == (1, "trained here, seed 0, 1 epoch")
    baseline = session.cell(method="ce", student="resnet8", seed=0)
    assert baseline.id == plain.teacher_cell("resnet8").id != session.teacher_cell("resnet8").id
    assert session.teacher_cell("resnet8").protocol.epochs == 1
    student = session.cell(method="kd", student="resnet8", teacher="resnet8", seed=1)
    assert student.teacher == card.ref
    assert student.protocol.epochs == 2
    # Nothing of the teacher's epochs is in a student's identity but its teacher.
    assert student.id == plain.cell(method="kd", student="resnet8", teacher="resnet8", seed=1).id

    other = plain.train_teacher("resnet8")
    assert (other.epochs, other.ref == card.ref) == (2, False)
    assert session.cell(method="kd", student="resnet8", teacher="resnet8", seed=1).teacher == card.ref
    assert session.cell(method="kd", student="resnet8", teacher=other.spec, seed=1).teacher == other.ref
    assert plain.cell(method="kd", student="resnet8", teacher="resnet8", seed=1).teacher == other.ref
    plain.train_teacher("resnet8", seed=1)
    with pytest.raises(UserError, match="there are 2 teachers resnet8"):
        plain.cell(method="kd", student="resnet8", teacher="resnet8", seed=1)


def test_a_grid_plans_and_finds_them(tiny_npz: Path, tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    path.write_text(
        'protocol = "digits-demo-v1"\npairs = ["resnet8>resnet8"]\nmethods = ["ce", "kd"]\nseeds = [0, 1]\n'
    )
    session = opened(tiny_npz, tmp_path / "runs", 1)
    grid = Grid(read_grid(path), session)
    (cell,) = grid.to_train
    assert (cell.protocol.epochs, cell.id) == (1, session.teacher_cell("resnet8").id)
    # The baseline of seed 0 is longer: it is another cell, and its time another one.
    statuses = survey([*grid.cells, *grid.to_train], session.runs, Scheduler(), {}, {})
    variants = GridEstimate.of(grid, statuses).variants
    baselines = [variant for variant in variants if variant.cell.method == "ce"]
    assert sorted((variant.cell.protocol.epochs, len(variant.left)) for variant in baselines) == [(1, 1), (2, 2)]
    card = session.train_teacher("resnet8")
    again = Grid(read_grid(path), session)
    assert not again.to_train
    assert {found.card for found in again.teachers.values()} == {card}
    assert {cell.id for cell in again.cells} == {cell.id for cell in grid.cells}
