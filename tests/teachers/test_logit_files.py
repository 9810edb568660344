"""Files of logits as teachers: imported, checked against the data, and read in place of a network."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Typed

from kdbench.data.batches import Batches
from kdbench.data.datasets import load_dataset
from kdbench.engine.session import Session
from kdbench.errors import UserError
from kdbench.method import PLAIN
from kdbench.net import LOGITS

RNG = np.random.default_rng(0)
NUM_TRAIN, NUM_TEST, NUM_CLASSES = 42, 30, 3


def logits(num: int, dtype: Any = np.float32) -> Any:
    """Logits that are right for the tiny data set, whose labels go round."""
    return (4 * np.eye(NUM_CLASSES)[np.arange(num) % NUM_CLASSES] + RNG.normal(size=(num, NUM_CLASSES))).astype(dtype)


def opened(npz: Path, runs: Path, epochs: int = 2, **rules: Any) -> Session:
    session = Session.open("digits-demo-v1", data=f"npz:{npz}", epochs=epochs, runs=runs, device="cpu")
    return dataclasses.replace(session, protocol=session.protocol.override(**rules)) if rules else session


def cell(session: Session, method: str = "kd", teacher: str = "logits:clip") -> Any:
    return session.cell(method=method, student="resnet8", teacher=teacher, seed=1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_each_image_has_its_row_whatever_view_is_seen(dtype: Any, tiny_npz: Path, tmp_path: Path) -> None:
    session = opened(tiny_npz, tmp_path)
    train, test = np.asfortranarray(logits(NUM_TRAIN, dtype)), logits(NUM_TEST, dtype)
    np.savez(tmp_path / "clip.npz", train_logits=train, test_logits=test)
    card, trained = session.import_logits(tmp_path / "clip.npz")
    labels = session.dataset.train_labels.numpy()
    assert trained == pytest.approx(100 * (train.argmax(1) == labels).mean())
    assert card.accuracy == pytest.approx(100 * (test.argmax(1) == session.dataset.test_labels.numpy()).mean())
    source = session.teachers.source(card.ref, "live")
    batches = Batches(session.device_data, session.protocol, 1)
    batches.add(PLAIN)
    for epoch in (1, 2):
        batches.begin(epoch)
        reader = source.reader(batches, PLAIN, LOGITS)
        for group in (group for step in range(batches.steps) for group in batches.groups(step)):
            outputs = reader.outputs({}, reader.inputs(group))
            expected = torch.from_numpy(train.astype(np.float32))[group.index]
            assert torch.equal(outputs.logits.float(), expected)


def test_a_networks_own_logits_teach_as_the_network_does(tiny_npz: Path, tmp_path: Path) -> None:
    """Where nothing is augmented, so that the network says of each view what the file says of its image."""
    session = opened(tiny_npz, tmp_path, pad=0, flip=False)
    card = session.train_teacher("resnet14")
    net = session.teachers.live(card).teacher.net
    images = session.dataset.train_images.permute(0, 3, 1, 2).float() / 255  # type: ignore[attr-defined]
    with torch.no_grad():
        np.save(tmp_path / "net.npy", net.logits(images).numpy())
    session.import_logits(tmp_path / "net.npy")
    network, file = (session.run(cell(session, teacher=teacher)) for teacher in ("resnet14", "logits:net"))
    assert file["loss"]["kd"] == pytest.approx(network["loss"]["kd"], rel=1e-3)
    assert file["cost"]["teacher_outputs"] == "file"
    assert file["cost"]["teacher_forwards"] == 0
    assert "agreement" in network
    assert not {"agreement", "teacher_kl"} & file.keys()
    assert file["teacher"]["accuracy"] is None


def test_its_identity_is_that_of_the_training_logits(tiny_npz: Path, tmp_path: Path) -> None:
    session, train = opened(tiny_npz, tmp_path), logits(NUM_TRAIN)
    np.save(tmp_path / "clip.npy", train)
    first, _ = session.import_logits(tmp_path / "clip.npy")
    np.savez(tmp_path / "clip.npz", train_logits=train, test_logits=logits(NUM_TEST))
    second, _ = session.import_logits(tmp_path / "clip.npz", expected=100.0)
    assert first.ref == second.ref
    assert (first.accuracy, second.expected) == (None, 100.0)
    train[0] += 1
    np.save(tmp_path / "clip.npy", train)
    third, _ = session.import_logits(tmp_path / "clip.npy")
    assert third.id != first.id
    with pytest.raises(UserError, match="there are 2 teachers logits:clip"):
        cell(session)


FILES: list[tuple[str, Any, str]] = [
    ("missing.npy", None, "there is no file"),
    ("text.npy", b"not an array", "cannot be read"),
    ("empty.npz", b"", "cannot be read"),
    ("cut.npz", b"PK\x03\x04", "cannot be read"),
    ("objects.npy", np.array([{}, {}], dtype=object), "holds Python objects"),
    ("other.npz", {"logits": logits(NUM_TRAIN)}, "has no train_logits (it has 'logits')"),
    ("rows.npy", logits(NUM_TRAIN + 1), "has the shape (43, 3), and"),
    ("flat.npy", logits(NUM_TRAIN)[:, 0], "has the shape (42,), and"),
    ("whole.npy", logits(NUM_TRAIN).astype(np.int64), "holds int64, not floating-point numbers"),
    ("nan.npy", np.full((NUM_TRAIN, NUM_CLASSES), np.nan), "is not finite for 42 of 42 images"),
    ("far.npy", np.full((NUM_TRAIN, NUM_CLASSES), 1e300), "is not finite for 42 of 42 images"),
    ("test.npz", {"train_logits": logits(NUM_TRAIN), "test_logits": logits(5)}, "test_logits has the shape (5, 3)"),
    ("large.npz", {"train_logits": np.zeros((50_000, 3))}, "is larger than 42 x 3 numbers"),
    ("a b.npy", logits(NUM_TRAIN), "--name 'a b' must be letters"),
]


@pytest.mark.parametrize(("name", "content", "text"), FILES, ids=[name for name, _, _ in FILES])
def test_files_that_cannot_be_used(name: str, content: Any, text: str, tiny_npz: Path, tmp_path: Path) -> None:
    path = tmp_path / name
    if isinstance(content, dict):
        np.savez(path, **content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content, allow_pickle=True)
    with pytest.raises(UserError) as caught:
        opened(tiny_npz, tmp_path / "runs").import_logits(path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_file_is_imported_trained_with_and_named_below_tables(typed: Typed, tiny_npz: Path) -> None:
    words = ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}"]
    np.savez("clip.npz", train_logits=logits(NUM_TRAIN), test_logits=logits(NUM_TEST))
    code, _, err = typed("teacher", "import-logits", "clip.npz", *words, "--accuracy", "12")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "expected 12.00 %" in err
    code, out, err = typed("teacher", "import-logits", "clip.npz", *words)
    assert code == 0, err
    assert "% on its training images" in out
    assert "imported without an expected accuracy" in out
    assert "logits:clip@" in typed("teacher", "list")[1]
    code, _, err = typed("train", *words, "--teacher", "logits:clip.npz", "--student", "resnet8", "--method", "kd")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "type logits:clip; the file's ending is no part of its name" in err
    pair = ["--teacher", "logits:clip", "--student", "resnet8", "--epochs", "1"]
    code, out, err = typed("train", *words, *pair, "--method", "kd", "--method", "mlld", "--method", "crd")
    assert code == 2
    assert len(err.splitlines()) == 2
    assert "mlld shows its teacher 2 views of each image, and a file of logits has those of one" in err
    assert "crd reads penultimate features of its teacher, and a file of logits gives logits alone" in err
    assert "the teacher logits:clip" in out
    code, out, err = typed("table", "runs")
    assert code == 0, err
    assert "the teacher logits:clip: a file of logits of the images as they are: students are taught the same" in out
    assert "imported without an expected accuracy: the teacher logits:clip" in out
    (file,) = Path("runs").glob("*/teachers/*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-4] + b"1234")
    code, _, err = typed("train", *words, *pair, "--method", "kd", "--seed", "2")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "is not what its card describes: import it again" in err
    (card,) = Path("runs").glob("*/teachers/*/teacher.json")
    card.write_text(json.dumps(json.loads(card.read_text()) | {"network": "resnet8", "accuracy": None}))
    assert "is damaged" in typed("teacher", "list")[1]


def test_logits_without_those_of_the_test_images(typed: Typed, tiny_npz: Path) -> None:
    words = ["--protocol", "digits-demo-v1", "--data", f"npz:{tiny_npz}"]
    np.save("only.npy", logits(NUM_TRAIN))
    code, _, err = typed("teacher", "import-logits", "only.npy", *words, "--accuracy", "50")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--accuracy checks test_logits" in err
    code, out, err = typed("teacher", "import-logits", "only.npy", *words, "--name", "mine")
    assert code == 0, err
    assert "teacher logits:mine@" in out
    assert "accuracy unknown" in out
    pair = ["--teacher", "logits:mine", "--student", "resnet8", "--method", "kd", "--method", "ce", "--epochs", "1"]
    code, _, err = typed("train", *words, *pair)
    assert code == 0, err
    for command in (("table", "runs"), ("leaderboard", "runs"), ("compare", "runs"), ("report", "runs", "--out", "r")):
        code, out, err = typed(*command)
        assert code == 0, err
    assert "logits:mine (accuracy unknown, weights " in typed("table", "runs")[1]
    code, _, err = typed("merge", "runs", "--runs", "other")
    assert code == 0, err
    assert typed("train", *words, *pair, "--seed", "2", "--runs", "other")[0] == 0


def test_a_file_is_for_its_own_data(tiny_npz: Path, tmp_path: Path) -> None:
    session = opened(tiny_npz, tmp_path / "runs")
    np.save(tmp_path / "clip.npy", logits(NUM_TRAIN))
    card, _ = session.import_logits(tmp_path / "clip.npy")
    other = Session.open("digits-demo-v1", runs=tmp_path / "runs", device="cpu")
    with pytest.raises(UserError, match="import-logits FILE --protocol digits-demo-v1 --name clip"):
        cell(other)
    assert load_dataset(f"npz:{tiny_npz}", Path()).fingerprint.startswith(card.dataset.partition(":")[2])
