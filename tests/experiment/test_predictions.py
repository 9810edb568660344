"""The file of predictions: equal bytes for equal predictions, and nothing is read that is not them."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from kdbench.errors import UserError
from kdbench.experiment.predictions import Predictions, read_predictions, size_of, write_predictions

NUM_IMAGES, NUM_CLASSES = 90, 7


@pytest.fixture
def predictions() -> Predictions:
    draw = np.random.default_rng(5)
    logits = draw.normal(size=(NUM_IMAGES, NUM_CLASSES)).astype(np.float16)
    return Predictions(labels=draw.integers(NUM_CLASSES, size=NUM_IMAGES), predicted=logits.argmax(1), logits=logits)


@pytest.fixture
def file(predictions: Predictions, tmp_path: Path) -> Path:
    """The file of a cell that has a record."""
    (tmp_path / "record.json").write_text(json.dumps({"predictions": write_predictions(tmp_path, predictions)}))
    return tmp_path / "predictions.npz"


def test_what_is_written_is_read_and_any_program_reads_it(file: Path, predictions: Predictions) -> None:
    again = read_predictions(file.parent)
    assert again
    with np.load(file) as archive:
        assert sorted(archive.files) == ["labels", "logits", "predicted"]
        for name in archive.files:
            for array in (archive[name], getattr(again, name)):
                assert array.dtype == getattr(predictions, name).dtype
                np.testing.assert_array_equal(array, getattr(predictions, name))


def test_equal_predictions_give_equal_bytes(file: Path, predictions: Predictions, tmp_path: Path) -> None:
    digest = write_predictions(tmp_path / "again", predictions)
    assert (tmp_path / "again" / "predictions.npz").read_bytes() == file.read_bytes()
    assert digest == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_size_is_known_before(file: Path) -> None:
    assert 0 < file.stat().st_size - size_of(NUM_IMAGES, NUM_CLASSES) < 1500
    assert size_of(50_000, 1000) == 100_800_000


def test_the_confusion_matrix_is_that_of_scikit_learn(predictions: Predictions) -> None:
    expected = confusion_matrix(predictions.labels, predictions.predicted, labels=range(NUM_CLASSES))
    np.testing.assert_array_equal(predictions.confusion(), expected)


def test_without_a_file_there_are_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path) is None
    assert read_predictions(tmp_path / "nowhere") is None


def test_another_file_than_the_record_s_is_refused(file: Path, predictions: Predictions) -> None:
    changed = predictions.predicted.copy()
    changed[3] = (changed[3] + 1) % NUM_CLASSES
    write_predictions(file.parent, Predictions(labels=predictions.labels, predicted=changed, logits=predictions.logits))
    with pytest.raises(UserError, match=r"predictions.npz is not the one that the record beside it was written with"):
        read_predictions(file.parent)
    (file.parent / "record.json").write_text(json.dumps({"top1": 50.0}))
    with pytest.raises(UserError, match="is not the one"):
        read_predictions(file.parent)
    (file.parent / "record.json").unlink()
    assert read_predictions(file.parent)


def saved(change: Callable[[dict[str, Any]], Any], save: Callable[..., None] = np.savez) -> Callable[[Path], None]:
    """Write the arrays of a file again, with a change."""

    def write(path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        change(arrays)
        save(path, **arrays)

    return write


def longer(path: Path) -> None:
    """Say that an array is far longer than the file."""
    content = path.read_bytes()
    assert content.count(b"(90,)") == 2
    path.write_bytes(content.replace(b"(90,), }        ", b"(90000000000,), }"[:16]))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no archive": (lambda path: path.write_bytes(b"x" * 500), "not an .npz file"),
    "a beginning": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "only the beginning of one"),
    "a flipped byte": (lambda path: path.write_bytes(path.read_bytes().replace(b"(90, 7)", b"(91, 7)")), "damaged"),
    "far longer": (longer, "damaged"),
    "an array less": (saved(lambda arrays: arrays.pop("labels")), "damaged"),
    "objects": (saved(lambda arrays: arrays.update(labels=np.array([{}] * NUM_IMAGES))), "Object arrays"),
    "compressed": (saved(lambda _: None, np.savez_compressed), "its arrays are compressed"),
    "other types": (saved(lambda arrays: arrays.update(labels=arrays["labels"].astype(np.int32))), "other types"),
    "other shapes": (saved(lambda arrays: arrays.update(labels=arrays["labels"][1:])), "do not match"),
    "a class too many": (saved(lambda arrays: arrays["predicted"].fill(NUM_CLASSES)), "a class is out of range"),
    "a class below 0": (saved(lambda arrays: arrays["labels"].fill(-1)), "a class is out of range"),
    "no number": (saved(lambda arrays: arrays["logits"].fill(np.nan)), "a logit is not finite"),
    "no image": (saved(lambda arrays: arrays.update({k: v[:0] for k, v in arrays.items()})), "do not match"),
    "an empty archive": (lambda path: zipfile.ZipFile(path, "w").close(), "damaged"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder, not a file"),
    "a pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "is not a regular file"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_one_line_and_a_way_out(name: str, file: Path) -> None:
    (file.parent / "record.json").unlink()  # its hash alone would tell
    damage, words = DAMAGES[name]
    damage(file)
    with pytest.raises(UserError) as refused:
        read_predictions(file.parent)
    assert words in str(refused.value)
    assert str(refused.value).startswith(f"{file} ")
    assert str(refused.value).endswith(": delete it to do without it")
    assert "\n" not in str(refused.value)
