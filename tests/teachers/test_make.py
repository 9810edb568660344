"""A finished cell becomes a teacher only with its own weights, and a good teacher is never replaced."""

from __future__ import annotations

import dataclasses
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

import kdbench
from kdbench.engine.display import Display
from kdbench.errors import UserError
from kdbench.experiment.folder import WEIGHTS
from kdbench.grid.worker import Worker, Workload
from kdbench.models.weights import read_weights, weights_hash
from kdbench.teachers.cards import CARD, TeacherCard, card_folder
from kdbench.teachers.make import register_trained
from kdbench.utils.scheduler import Scheduler

pytestmark = pytest.mark.once


@pytest.fixture
def session(tiny_npz: Path, tmp_path: Path) -> kdbench.Session:
    return kdbench.Session.open("digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path, device="cpu")


@pytest.fixture
def card(session: kdbench.Session) -> TeacherCard:
    return session.train_teacher("resnet8")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def grow(path: Path) -> None:
    os.truncate(path, 2**40)


DAMAGES = pytest.mark.parametrize("damage", [flip, empty, cut, grow, Path.unlink])


def files_of(session: kdbench.Session, card: TeacherCard) -> tuple[Path, Path]:
    """The weights of the cell, and those of the teacher."""
    cell = session.teacher_cell("resnet8")
    return cell.folder(session.runs) / WEIGHTS, card_folder(session.runs, session.protocol.name, card) / WEIGHTS


@DAMAGES
def test_a_good_teacher_is_left_alone(
    damage: Callable[[Path], None], session: kdbench.Session, card: TeacherCard
) -> None:
    ours, teachers = files_of(session, card)
    before = teachers.read_bytes()
    damage(ours)
    assert session.train_teacher("resnet8") == card
    assert teachers.read_bytes() == before


@DAMAGES
def test_a_damaged_teacher_is_made_again(
    damage: Callable[[Path], None], session: kdbench.Session, card: TeacherCard
) -> None:
    ours, teachers = files_of(session, card)
    damage(teachers)
    assert session.train_teacher("resnet8") == card
    assert weights_hash(read_weights(teachers)) == card.weights
    assert teachers.read_bytes() == ours.read_bytes()


@DAMAGES
def test_a_damaged_copy_becomes_no_teacher(
    damage: Callable[[Path], None], session: kdbench.Session, card: TeacherCard
) -> None:
    ours, teachers = files_of(session, card)
    for file in (teachers, teachers.parent / CARD):
        file.unlink()
    damage(ours)
    with pytest.raises(UserError, match=rf"{ours} is .*: delete {ours.parent} and type the same command"):
        session.train_teacher("resnet8")
    assert not teachers.exists()
    assert not (teachers.parent / CARD).exists()


def test_a_worker_of_a_grid_names_a_damaged_copy(session: kdbench.Session, card: TeacherCard, tiny_npz: Path) -> None:
    ours, teachers = files_of(session, card)
    for file in (teachers, teachers.parent / CARD):
        file.unlink()
    flip(ours)
    arguments = {"protocol": "digits-demo-v1", "data": f"npz:{tiny_npz}", "epochs": 1, "runs": session.runs}
    workload = Workload(session=arguments | {"device": "cpu"}, train=(session.teacher_cell("resnet8"),))
    with Display(Console(file=io.StringIO())) as display:
        report = Worker(workload, Scheduler(), display).run()
    assert len(report.failed) == 1
    assert f"{ours} is not what its record describes" in report.failed[0]
    assert not teachers.exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "[" * 100_000, '{"accuracy": NaN}'])
def test_a_damaged_card_is_written_again(content: str, session: kdbench.Session, card: TeacherCard) -> None:
    path = files_of(session, card)[1].parent / CARD
    path.write_text(content)
    assert session.train_teacher("resnet8") == card
    assert json.loads(path.read_bytes()) == dataclasses.asdict(card)


def test_a_teacher_of_other_weights_stays(session: kdbench.Session, card: TeacherCard) -> None:
    """Its cell was trained again, elsewhere, to other weights: those of the teacher have taught others."""
    cell = session.teacher_cell("resnet8")
    assert register_trained(session.runs, cell, session.run(cell) | {"weights": "0" * 64}) == card
