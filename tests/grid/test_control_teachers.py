"""Teachers that are controls: stopped early, with random weights, the student's own network, or an ensemble of them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from kdbench.analysis.networks import named_alike
from kdbench.analysis.records import Records, read_records
from kdbench.analysis.selection import Filters, select
from kdbench.analysis.splitting import split
from kdbench.analysis.tables.layouts import paper
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.pairs import Pair, TeacherSpec, teacher_name
from kdbench.grid.file import read_grid
from kdbench.grid.grid import Grid
from kdbench.models.build import build_net
from kdbench.models.weights import read_weights
from kdbench.teachers.cards import card_folder
from kdbench.teachers.load import doubts

pytestmark = pytest.mark.once

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def opened(npz: Path, runs: Path) -> Session:
    return Session.open("digits-demo-v1", data=f"npz:{npz}", epochs=2, runs=runs, device="cpu")


@pytest.fixture(scope="module")
def session(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """With the teacher resnet8 of the protocol's two epochs, one of a single epoch, and one of random weights."""
    session = opened(tiny_npz, tmp_path_factory.mktemp("runs"))
    for epochs in (None, 1, 0):
        session.train_teacher("resnet8", epochs=epochs)
    return session


def student(session: Session, teacher: str) -> Cell:
    return session.cell(method="kd", student="resnet8", teacher=teacher, seed=1)


@pytest.mark.parametrize(
    ("text", "network", "digits", "epochs", "written"),
    [
        ("resnet8", "resnet8", "", "", "resnet8"),
        (" resnet8 : 030 ", "resnet8", "", "30", "resnet8:30"),
        ("resnet8:0@c3", "resnet8", "c3", "0", "resnet8:0@c3"),
        ("timm:resnet18:30", "timm:resnet18", "", "30", "timm:resnet18:30"),
        ("logits:30", "logits:30", "", "", "logits:30"),
        ("a:1+b@2", "a+b", "+2", "1+", "a:1+b@2"),
        ("resnet8:x", "resnet8:x", "", "", "resnet8:x"),
    ],
)
def test_epochs_are_read_behind_a_network(text: str, network: str, digits: str, epochs: str, written: str) -> None:
    spec = TeacherSpec.parse(text)
    assert (spec.network, spec.hash, spec.epochs) == (network, digits, epochs)
    assert str(spec) == written
    assert TeacherSpec.joined(spec.members) == spec == TeacherSpec.parse(written)
    assert Pair.parse(f"{text}>resnet20").networks == Pair.of(network, "resnet20")


def test_a_random_teacher_keeps_its_initial_weights_and_measures_batch_statistics(session: Session) -> None:
    cell = session.teacher_cell("resnet8", epochs=0)
    card = session.teachers.find(TeacherSpec.parse("resnet8:0"), "resnet8")
    assert (card.ref, card.epochs, card.origin) == (cell.as_teacher, 0, "random weights, seed 0")
    assert not doubts(card, session.protocol, session.dataset)  # it is meant to guess
    fresh = build_net("resnet8", session.protocol, session.dataset, seed=0, purpose="student").backbone.state_dict()
    stored = read_weights(card_folder(session.runs, session.protocol.name, card) / "model.safetensors")
    for name, value in fresh.items():
        assert torch.equal(stored[name], value) != name.endswith(STATISTICS), name
    logits = session.teachers.live(card).teacher.test_logits
    assert logits.isfinite().all()
    assert logits.std(0).mean() > 0.1 * logits.std()  # of other images, other logits


def test_a_teacher_without_epochs_is_the_protocols(session: Session) -> None:
    specs = {"resnet8": 2, "resnet8:2": 2, "resnet8:1": 1, "resnet8:0": 0}
    for spec, epochs in specs.items():
        ref = student(session, spec).teacher
        assert ref == session.teacher_cell("resnet8", epochs=epochs).as_teacher
    assert len({student(session, spec).id for spec in specs}) == 3


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ("resnet8:5", r"no teacher resnet8:5 .*: type 'kdbench teacher train .* --network resnet8 --epochs 5'"),
        ("resnet8:0@ffff", "no teacher resnet8:0@ffff in .*: there are resnet8@"),
        ("resnet8:0+resnet8:0", "names a teacher twice"),
        ("resnet8:one", "there is no network 'resnet8:one'"),
    ],
)
def test_what_does_not_exist_is_named(session: Session, teacher: str, text: str) -> None:
    with pytest.raises(UserError, match=text):
        student(session, teacher)


def test_random_weights_alone_are_not_the_protocols_teacher(tiny_npz: Path, tmp_path: Path) -> None:
    session = opened(tiny_npz, tmp_path)
    session.train_teacher("resnet8", epochs=0)
    with pytest.raises(UserError, match=r"no teacher resnet8 .* beside resnet8@\w+ \(.* %, random weights, seed 0\)"):
        student(session, "resnet8")
    with pytest.raises(UserError, match="--epochs 0 makes a teacher of random weights: leave --from out"):
        session.teacher_cell("resnet8", epochs=0, init="ab")
    with pytest.raises(UserError, match="--epochs must be"):
        session.teacher_cell("resnet8", epochs=-1)


def test_a_grid_trains_them_and_tables_name_them(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "g.toml"
    pairs = ["resnet8>resnet8", "resnet8:1>resnet8", "resnet8:0>resnet8", "resnet8:0+resnet14:1>resnet8"]
    path.write_text(
        f'protocol = "digits-demo-v1"\npairs = {json.dumps(pairs)}\nmethods = ["kd"]\nseeds = 1\nepochs = 2\n'
    )
    grid = Grid(read_grid(path), session)
    (cell,) = grid.to_train
    assert cell == session.teacher_cell("resnet14", epochs=1)
    assert {str(teacher.ref.name) for teacher in grid.teachers.values()} == {
        "resnet8",
        "resnet8:1",
        "resnet8:0",
        "resnet14:1",
    }
    assert [str(cell).split()[1] for cell in grid.cells] == [*pairs[:3], "resnet14:1+resnet8:0>resnet8"]
    session.train_teacher("resnet14", epochs=1)
    assert not Grid(read_grid(path), session).to_train
    records = [record for record in session.run_all(grid.cells, cache="off") if isinstance(record, dict)]
    names = ["resnet8", "resnet8:1", "resnet8:0", "resnet14:1+resnet8:0"]
    assert [teacher_name(record["teacher"]) for record in records] == names
    read = read_records(session.runs)
    (comparison,) = [each for each in split(read) if each.rules["epochs"] == 2 and each.pairs[0].teacher]
    assert {pair.teacher_label for pair in comparison.pairs} == set(names)
    notes = paper(comparison).notes
    assert "the teacher resnet8:1: resnet8 was trained for 1 epoch, in a schedule of that length" in notes
    assert "the teacher resnet8:0: resnet8 has random weights, and batch statistics measured with them" in notes
    for wanted, labels in (
        ("ResNet-8:0>resnet8", names[2:3]),
        ("resnet8>resnet8", names[:1]),
        ("resnet8+resnet14>resnet8", names[3:]),
        ("resnet8:0+resnet14>resnet8", names[3:]),
    ):
        (narrow,), _ = select([comparison], Filters(pairs=[wanted]))
        assert {pair.teacher_label for pair in narrow.pairs} == set(labels)
    with pytest.raises(UserError, match="unknown pair"):
        select([comparison], Filters(pairs=["resnet8:1+resnet14>resnet8"]))


def test_a_teacher_has_one_name_where_older_records_do_not_hold_its_epochs() -> None:
    ids, names = ["cell:1", "cell:1", "cell:2", ""], ["resnet8", "resnet8:1", "resnet8", ""]
    records = Records(frame=pd.DataFrame({"teacher_id": ids, "teacher": names}), unfinished=[], problems=[])
    assert list(named_alike(records).frame["teacher"]) == ["resnet8:1", "resnet8:1", "resnet8", ""]
