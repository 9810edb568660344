"""Training that starts from given weights: what it is called, what it is, and what becomes of their normalisation."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from cells import Typed

import kdbench
from kdbench.data.datasets import load_dataset
from kdbench.engine.checks.small import CPU, make_cell, tiny_protocol
from kdbench.engine.inits import bring
from kdbench.errors import UserError
from kdbench.experiment.folder import WEIGHTS
from kdbench.grid.grid import Grid
from kdbench.models import build_backbone
from kdbench.models.starts import Start, build_student, read_start
from kdbench.models.weights import read_weights
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.cards import card_folder, read_card
from kdbench.teachers.load import load_teacher

pytestmark = pytest.mark.once

OWN = ((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))


def weights(path: Path, classes: int = 3, seed: int = 5) -> Path:
    torch.manual_seed(seed)
    torch.save({"state_dict": build_backbone("resnet8", classes, (16, 16)).state_dict()}, path)
    return path


@pytest.fixture
def session(tiny_npz: Path, tmp_path: Path) -> kdbench.Session:
    return kdbench.Session.open(
        "digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "runs", device="cpu"
    )


@pytest.fixture
def small(tiny_npz: Path) -> list[str]:
    return ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}", "--epochs", "1"]


def test_a_student_starts_from_them(session: kdbench.Session, tmp_path: Path) -> None:
    file = weights(tmp_path / "a.pth")
    init, other_classes = bring(session, "ResNet-8", file)
    assert other_classes is None
    cell = session.cell(method="ce", student="resnet8", seed=1, init=init)
    net = build_student(cell, session.runs, session.dataset)
    given = torch.load(file)["state_dict"]
    assert all(torch.equal(value, given[name]) for name, value in net.backbone.state_dict().items())
    plain = session.cell(method="ce", student="resnet8", seed=1)
    assert cell.id != plain.id
    assert cell.identity() == plain.identity() | {"student": f"resnet8@{init}"}
    record = session.run(cell)
    assert record["student"] == record["config"]["student"] == f"resnet8@{init}"
    assert record["weights"] != session.run(plain)["weights"]
    assert f"resnet8@{init}" in str(cell)


def test_what_the_file_is_called_does_not_count_and_what_it_holds_does(
    session: kdbench.Session, tmp_path: Path
) -> None:
    one, other = weights(tmp_path / "a.pth"), weights(tmp_path / "b.pth", seed=6)
    init = bring(session, "resnet8", one)[0]
    torch.save(torch.load(one)["state_dict"], tmp_path / "alone.pth")
    assert bring(session, "resnet8", tmp_path / "alone.pth")[0] == init
    assert bring(session, "resnet8", other)[0] != init
    assert len(list((session.runs / "init").iterdir())) == 2


def test_a_classifier_of_other_classes_is_drawn_afresh(session: kdbench.Session, tmp_path: Path) -> None:
    file = weights(tmp_path / "ten.pth", classes=10)
    init, other_classes = bring(session, "resnet8", file)
    assert other_classes == 10
    nets = [
        build_student(
            session.cell(method="ce", student="resnet8", seed=seed, init=start), session.runs, session.dataset
        )
        for seed, start in ((1, init), (2, init), (1, ""))
    ]
    given = torch.load(file)["state_dict"]
    assert torch.equal(nets[0].backbone.state_dict()["conv1.weight"], given["conv1.weight"])
    heads = [net.backbone.head().weight for net in nets]
    assert torch.equal(heads[0], heads[2])
    assert not torch.equal(heads[0], heads[1])


def test_kept_weights_that_were_changed_or_deleted_are_named(session: kdbench.Session, tmp_path: Path) -> None:
    init, _ = bring(session, "resnet8", weights(tmp_path / "a.pth"))
    (kept,) = (session.runs / "init").iterdir()
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(UserError, match=f"{kept} is damaged"):
        session.run(session.cell(method="ce", student="resnet8", seed=1, init=init))
    assert bring(session, "resnet8", tmp_path / "a.pth")[0] == init  # written again
    assert read_start(session.runs, "resnet8", init).origin == "a.pth"
    kept.unlink()
    with pytest.raises(UserError, match=f"{kept} is missing"):
        session.run(session.cell(method="ce", student="resnet8", seed=1, init=init))


def test_their_normalisation_goes_with_them_to_the_student_and_to_the_teacher(session: kdbench.Session) -> None:
    torch.manual_seed(3)
    state = build_backbone("resnet8", 3, (16, 16)).state_dict()
    plain = Start(network="resnet8", weights=state, normalisation=None, origin="here")
    start = dataclasses.replace(plain, normalisation=OWN)
    assert start.hash != plain.hash
    init = start.keep(session.runs)
    cell = session.teacher_cell("resnet8", init=init)
    net = build_student(cell, session.runs, session.dataset)
    assert net.mean.flatten().tolist() == pytest.approx(OWN[0])
    assert net.std.flatten().tolist() == pytest.approx(OWN[1])
    card = session.train_teacher("resnet8", init=init)
    assert card.normalisation == OWN
    assert card.origin == "trained here from here, seed 0, 1 epoch"
    path = card_folder(session.runs, session.protocol.name, card) / "teacher.json"
    assert read_card(path) == card
    teacher = load_teacher(session.runs, card, session.protocol, session.dataset, CPU)
    assert teacher.net.mean.flatten().tolist() == pytest.approx(OWN[0])
    identity = Identity.of(card, session.protocol, session.dataset)
    assert (identity.mean, identity.std) == OWN
    assert (
        identity.name
        != Identity.of(dataclasses.replace(card, mean=None, std=None), session.protocol, session.dataset).name
    )
    path.write_text(json.dumps(dataclasses.asdict(card) | {"std": [1, 2]}))
    with pytest.raises(UserError, match="one number a channel"):
        read_card(path)


def test_a_card_of_an_earlier_version_is_read_as_before(session: kdbench.Session) -> None:
    card = session.train_teacher("resnet8")
    path = card_folder(session.runs, session.protocol.name, card) / "teacher.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in values.items() if key not in {"mean", "std"}}))
    assert read_card(path) == card
    assert card.normalisation is None


def test_on_the_command_line(typed: Typed, small: list[str], tmp_path: Path) -> None:
    file = weights(tmp_path / "ten.pth", classes=10)
    code, out, err = typed("teacher", "train", *small, "--network", "resnet8", "--from", file)
    assert code == 0, err
    assert f"{file}: its classifier of 10 classes is replaced by a fresh one of 3" in out
    words = ["train", *small, "--teacher", "resnet8", "--student", "resnet8", "--method", "kd", "--init", file]
    code, out, err = typed(*words)
    assert code == 0, err
    (record,) = Path("runs").glob("**/kd/*/record.json")
    student = json.loads(record.read_text())["student"]
    assert re.fullmatch("resnet8@[0-9a-f]{16}", student)
    code, out, err = typed("table", "runs")
    assert code == 0, err
    assert student in out
    code, _, err = typed(*words, "--student", "vgg8")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--init gives the weights of one network" in err
    code, _, err = typed(*words[:-1], "nowhere.pth")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "there is no checkpoint nowhere.pth" in err
    code, _, err = typed("teacher", "import", file, *small[:4], "--network", "resnet8")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "it has 10 classes" in err
    assert "'kdbench teacher train --from' trains such weights for other classes" in err


def test_in_a_grid(tiny_npz: Path, tmp_path: Path) -> None:
    file, path = weights(tmp_path / "a.pth"), tmp_path / "small.toml"
    lines = f'protocol = "digits-demo-v1"\ndata = "npz:{tiny_npz}"\npairs = ["resnet14>resnet8"]\n'
    lines += 'methods = ["ce", "kd"]\nseeds = 1\nepochs = 1\n'
    path.write_text(f'{lines}init = {{ ResNet-8 = "{file}" }}\n')
    grid = Grid.open(path, runs=tmp_path / "runs", device="cpu")
    init = bring(grid.session, "resnet8", file)[0]
    assert [cell.student_label for cell in grid.cells] == [f"resnet8@{init}"] * 2
    assert [cell.student_label for cell in grid.to_train] == ["resnet14"]
    for value, message in (
        (f'{{ vgg8 = "{file}" }}', "unknown student 'vgg8': known are resnet8"),
        ('{ resnet8 = "nowhere.pth" }', "there is no checkpoint nowhere.pth"),
        ("{ resnet8 = 1 }", "must be a file, or the name of published weights"),
        (f'"{file}"', "must be a table of weights"),
    ):
        path.write_text(f"{lines}init = {value}\n")
        with pytest.raises(UserError, match=f"{path}: init.*: {message}") as caught:
            Grid.open(path, runs=tmp_path / "runs", device="cpu")
        assert "\n" not in str(caught.value)


def test_the_weights_of_a_finished_cell_are_a_file_like_any_other(session: kdbench.Session, tmp_path: Path) -> None:
    cell = session.cell(method="ce", student="resnet8", seed=1)
    session.run(cell)
    path = cell.folder(session.runs) / WEIGHTS
    init, _ = bring(session, "resnet8", path)
    kept = read_start(session.runs, "resnet8", init).weights
    assert all(torch.equal(value, kept[name]) for name, value in read_weights(path).items())


def test_ids_of_cells_with_fresh_weights_are_as_before(tiny_npz: Path) -> None:
    """The identity of such a cell names nothing new."""
    protocol = tiny_protocol(load_dataset(f"npz:{tiny_npz}", Path()))
    identity = make_cell(protocol, "ce", "resnet14", "resnet8").identity()
    assert identity.keys() == {"protocol", "teacher", "student", "method", "seed"}
    assert identity["student"] == "resnet8"
