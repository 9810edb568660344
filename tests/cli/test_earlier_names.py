"""Cells and teachers of earlier versions, whose networks have names that nothing new may have, are still found."""

from __future__ import annotations

import json
import signal
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cells import Typed

from kdbench.engine.session import Session
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.folder import STATE
from kdbench.teachers.cards import CARD, card_folder

TAGGED = "timm:test_resnet.r160_in1k"


@pytest.fixture
def session(tiny_npz: Path, tmp_path: Path) -> Session:
    return Session.open(
        "digits-demo-v1", data=f"npz:{tiny_npz}", epochs=1, runs=tmp_path / "runs", device="cpu", save_every=0.0
    )


def test_a_cell_that_was_begun_is_resumed(session: Session, small: list[str], typed: Typed) -> None:
    """As it was typed then; a cell that was not begun has the name that networks have now."""
    cell = replace(session.cell(method="ce", student="timm:test_resnet", seed=1), student=TAGGED)
    with pytest.raises(Interrupted):
        session.run(cell, lambda _: signal.raise_signal(signal.SIGTERM))
    assert (cell.folder(session.runs) / STATE).exists()
    words = ["train", *small, "--student", TAGGED, "--method", "ce"]
    code, _, err = typed(*words)
    assert code == 0, err
    record = json.loads((cell.folder(session.runs) / "record.json").read_bytes())
    assert record["cell"] == cell.id
    assert record["student"] == TAGGED
    assert not (cell.folder(session.runs) / STATE).exists()
    assert "already finished" in typed(*words)[1]
    code, _, err = typed(*words, "--seed", "2")
    assert code == 2
    assert "names pretrained weights" in err


def test_a_teacher_of_such_a_name_is_found(session: Session) -> None:
    for method in ("ce", "kd"):
        with pytest.raises(UserError, match="names pretrained weights"):
            session.cell(method=method, student="resnet8", teacher=TAGGED, seed=1)
    card = replace(session.train_teacher("timm:test_resnet"), network=TAGGED, id="cell:0123456789")
    folder = card_folder(session.runs, session.protocol.name, card)
    folder.mkdir()
    (folder / CARD).write_text(json.dumps(asdict(card)))
    teacher = session.cell(method="kd", student="resnet8", teacher=TAGGED, seed=1).teacher
    assert teacher == card.ref
    with pytest.raises(UserError, match="no teacher"):
        session.cell(method="kd", student="resnet8", teacher=f"{TAGGED}@ff", seed=1)
