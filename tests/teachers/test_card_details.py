"""Cards hold what loading a teacher needs: the rules and the input it was made with, and the hash of its own code."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from own_files import write_network
from trained_runs import TrainedRuns

import kdbench
from kdbench.analysis.records import read_records
from kdbench.engine.code import changed_code, texts_of
from kdbench.engine.described import described
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment import own_folders
from kdbench.experiment.folder import WEIGHTS
from kdbench.teachers.cards import CARD, TeacherCard, card_folder, list_teachers, read_card
from kdbench.teachers.load import TeacherMismatch

PROTOCOL = "digits-demo-v1"
OTHER = "cifar100-crd-v1"


def opened(npz: Path, runs: Path, protocol: str = PROTOCOL) -> Session:
    return Session.open(protocol, data=f"npz:{npz}", epochs=1, runs=runs, device="cpu")


def copied(teacher: Path, to: Path, *without: str) -> Path:
    """Copy a teacher's folder, and leave fields out of its card, as earlier versions did."""
    shutil.copytree(teacher, to)
    card = json.loads((to / CARD).read_text())
    (to / CARD).write_text(json.dumps({key: value for key, value in card.items() if key not in without}))
    return to


@pytest.mark.parametrize("place", ["parent/folder/teacher", f"{OTHER}/teachers/teacher"])
def test_a_copied_teacher_has_the_rules_it_was_made_under(
    trained_runs: TrainedRuns, tmp_path: Path, place: str
) -> None:
    folder = copied(trained_runs.teacher, tmp_path / place)
    ours, theirs = described(folder), described(trained_runs.teacher)
    assert (ours.input, ours.protocol.rules, ours.protocol.name) == (theirs.input, theirs.protocol.rules, PROTOCOL)
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    nets = kdbench.load(folder), kdbench.load(trained_runs.teacher)
    assert torch.equal(*(net(net.preprocess(images)) for net in nets))


def test_a_card_of_an_earlier_version_takes_the_rules_of_its_place(trained_runs: TrainedRuns, tmp_path: Path) -> None:
    fields = "source", "rules", "input"
    there = copied(trained_runs.teacher, tmp_path / PROTOCOL / "teachers" / "teacher", *fields)
    assert read_card(there / CARD).rules is None
    net = kdbench.load(there, image_size=(16, 16))
    assert torch.equal(net.mean, kdbench.load(trained_runs.teacher).mean)
    elsewhere = copied(trained_runs.teacher, tmp_path / "parent" / "teacher", *fields)
    with pytest.raises(UserError, match="does not hold the rules under which its teacher was made") as caught:
        kdbench.load(elsewhere)
    assert "put it back into RUNS/PROTOCOL/teachers" in str(caught.value)
    assert "unknown protocol" not in str(caught.value)


@pytest.mark.parametrize("values", [{"rules": [1]}, {"source": 5}, {"input": {"size": [8]}}, {"rules": {"name": "a"}}])
def test_damaged_details_are_named(trained_runs: TrainedRuns, tmp_path: Path, values: dict[str, object]) -> None:
    folder = copied(trained_runs.teacher, tmp_path / "teacher")
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | values))
    with pytest.raises(UserError, match=r"teacher\.json"):
        kdbench.load(folder)


def test_a_teacher_below_another_protocol_does_not_teach(trained_runs: TrainedRuns, tmp_path: Path) -> None:
    (card,) = list_teachers(trained_runs.runs, PROTOCOL)
    runs = tmp_path / "runs"
    copied(trained_runs.teacher, card_folder(runs, OTHER, card))
    session = opened(trained_runs.npz, runs, OTHER)
    with pytest.raises(TeacherMismatch, match=rf"{card.spec} was made for other .*, under {PROTOCOL}, than {OTHER}"):
        session.teachers.live(card)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(own_folders.OWN, str(tmp_path / "own"))
    write_network(tmp_path / "own")
    return tmp_path / "own"


def test_a_teacher_whose_code_changed_does_not_teach(own: Path, tiny_npz: Path, tmp_path: Path) -> None:
    """Also where the change is one that the accuracy does not show."""
    runs = tmp_path / "runs"
    card = opened(tiny_npz, runs).train_teacher("mine")
    assert card.source is not None
    assert card.source.startswith("file mine.py sha256:")
    weights = shutil.copy(card_folder(runs, PROTOCOL, card) / WEIGHTS, tmp_path / "mine.safetensors")
    imported = opened(tiny_npz, tmp_path / "others").import_teacher(weights, "mine")
    assert (imported.source, imported.rules) == (card.source, card.rules)
    write_network(own, forward="x = 2 * x; x = x / 2")
    for folder, each in ((runs, card), (tmp_path / "others", imported)):
        session = opened(tiny_npz, folder)
        with pytest.raises(TeacherMismatch, match=r"mine\.py has changed since mine@\w+ became a teacher: put it back"):
            session.teachers.live(each)
        old = dataclasses.replace(each, source=None)
        assert session.teachers.live(old).teacher.card is old  # a card of an earlier version says nothing of code
    with pytest.raises(TeacherMismatch, match="raise its VERSION"):
        opened(tiny_npz, tmp_path / "others").import_teacher(weights, "mine")
    shutil.copytree(card_folder(runs, PROTOCOL, card), tmp_path / "alone")
    with pytest.raises(UserError, match=r"mine\.py has changed since .*alone was trained"):
        kdbench.load(tmp_path / "alone")
    write_network(own)
    assert opened(tiny_npz, runs).teachers.live(card).teacher.card == card


def test_importing_again_completes_a_card_of_an_earlier_version(own: Path, tiny_npz: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    trained = opened(tiny_npz, runs).train_teacher("mine")
    weights = shutil.copy(card_folder(runs, PROTOCOL, trained) / WEIGHTS, tmp_path / "mine.safetensors")
    runs = tmp_path / "others"
    card = opened(tiny_npz, runs).import_teacher(weights, "mine")
    path = card_folder(runs, PROTOCOL, card) / CARD
    old = {k: v for k, v in json.loads(path.read_text()).items() if k not in {"source", "rules", "input"}}
    path.write_text(json.dumps(old))
    assert read_card(path) == dataclasses.replace(card, source=None, rules=None, input=None)
    assert opened(tiny_npz, runs).import_teacher(weights, "mine") == card == read_card(path)


def test_records_hold_the_code_of_an_ensembles_members(own: Path, tiny_npz: Path, tmp_path: Path) -> None:
    session = opened(tiny_npz, tmp_path / "runs")
    cards: list[TeacherCard] = [session.train_teacher(name) for name in ("mine", "resnet8")]
    cell = session.cell(method="kd", student="resnet8", teacher="+".join(card.spec for card in cards), seed=1)
    record = session.run(cell, cache="off")
    mine, other = record["teacher"]["members"]
    assert (mine["network"], mine["version"], mine["source"]) == ("mine", 1, cards[0].source)
    assert not {"version", "source"} & other.keys()
    assert changed_code(cell, texts_of(record)) == []
    frame = read_records(tmp_path / "runs").frame
    assert mine["source"].endswith(frame.set_index("cell")["teacher_code"][cell.id])
    assert frame.set_index("cell")["teacher_code"][cell.id]
    write_network(own, forward="x = 2 * x")
    assert [source.name for source in changed_code(cell, texts_of(record))] == ["mine"]
