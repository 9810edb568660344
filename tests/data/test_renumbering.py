"""Labels that do not begin at 0, or have gaps: what is said of them, and the named rules that number them anew."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import Typed
from small_data import message, small_arrays, write_npz

from kdbench.data.datasets import load_dataset
from kdbench.data.place import DataPlace

LETTERS = np.array(list("abc"))


def relabelled(**values: Any) -> dict[str, Any]:
    """The small data set with other labels in place of 0, 1 and 2, and other arrays."""
    labels = np.array(values.pop("labels"))
    arrays = small_arrays()
    return {name: labels[array] if "labels" in name else array for name, array in arrays.items()} | values


@pytest.mark.parametrize(
    ("arrays", "rule", "names"),
    [
        (relabelled(labels=[1, 2, 3]), "from1", ("1", "2", "3")),
        (relabelled(labels=[1, 2, 3], class_names=LETTERS), "from1", ("a", "b", "c")),
        (relabelled(labels=[1, 2, 3]), "sorted", ("1", "2", "3")),
        (relabelled(labels=[0, 2, 7]), "sorted", ("0", "2", "7")),
        (relabelled(labels=[-5, 2, 10**12]), "sorted", ("-5", "2", str(10**12))),
        (relabelled(labels=[4, 6, 9], class_names=LETTERS), "sorted", ("a", "b", "c")),
        (relabelled(labels=[0, 2, 4], class_names=np.array(list("abcde"))), "sorted", ("a", "c", "e")),
    ],
)
def test_labels_are_numbered_from_0_by_a_named_rule(
    arrays: dict[str, Any], rule: str, names: tuple[str, ...], tmp_path: Path
) -> None:
    plain = load_dataset(f"npz:{write_npz(tmp_path, **small_arrays())}", tmp_path)
    dataset = load_dataset(f"npz:{write_npz(tmp_path, **arrays)},labels={rule}", tmp_path)
    assert dataset.train_labels.equal(plain.train_labels)
    assert dataset.test_labels.equal(plain.test_labels)
    assert dataset.class_names == names
    assert dataset.name == f"npz:small.npz,labels={rule}"
    other = load_dataset(f"npz:{write_npz(tmp_path, **relabelled(labels=[1, 2, 3]))},labels=from1", tmp_path)
    assert len({plain.fingerprint, dataset.fingerprint, other.fingerprint}) == (2 if rule == "from1" else 3)


@pytest.mark.parametrize(
    ("arrays", "rule", "text"),
    [
        (relabelled(labels=[1, 2, 3]), "from1", "which takes 1 from each label"),
        (relabelled(labels=[1, 2, 3], class_names=LETTERS), "from1", "which takes 1 from each label"),
        (relabelled(labels=[2, 3, 4]), "sorted", "which numbers the labels that occur in their order"),
        (relabelled(labels=[0, 2, 3]), "sorted", "give each class at least one image, or type "),
        (relabelled(labels=[-1, 0, 1]), "sorted", "number them from 0 without gaps, or type "),
    ],
)
def test_the_error_says_what_to_type(
    arrays: dict[str, Any], rule: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path, **arrays).rename("my file.npz")
    error = message(lambda: load_dataset("npz:my file.npz", tmp_path))
    assert text in error
    _, _, command = error.partition("type ")
    word = shlex.split(command)[0].removesuffix(",")
    assert word == f"npz:my file.npz,labels={rule}"
    place = DataPlace.parse(word)
    assert place.word == word
    assert place.absolute("digits") == f"npz:{tmp_path}/my file.npz,labels={rule}"
    assert place.load("digits", download=False).num_classes == 3


@pytest.mark.parametrize(
    ("arrays", "rule", "text"),
    [
        (small_arrays(), "from1", "train_labels begins at 0, not at 1: leave out labels=from1"),
        (relabelled(labels=[1, 2, 4]), "from1", "train_labels has no class 2, but there are 4 classes"),
        (relabelled(labels=[1, 2, 3], test_labels=np.array([1, 2, 3, 0, 1, 2])), "from1", "0 is the label of a test"),
        (relabelled(labels=[1, 2, 3], class_names=LETTERS[:2]), "from1", "goes from 0 to 2, but there are 2 classes"),
        (relabelled(labels=[0, 2, 7], class_names=np.array(list("abcde"))), "sorted", "5 class_names for 3 labels"),
        (small_arrays(), "from2", "unknown rule 'from2' in 'npz:"),
        (small_arrays(), "", "labels= takes from1 or sorted"),
    ],
)
def test_a_rule_that_does_not_fit_is_an_error(arrays: dict[str, Any], rule: str, text: str, tmp_path: Path) -> None:
    path = write_npz(tmp_path, **arrays)
    assert text in message(lambda: load_dataset(f"npz:{path},labels={rule}", tmp_path))


def test_a_file_for_validation_is_named_by_its_own_arrays(tmp_path: Path) -> None:
    arrays = small_arrays()
    parts = {name.replace("test", "val"): array for name, array in arrays.items()}
    for changed, text in (
        ({"val_labels": parts["val_labels"] + 1}, "val_labels goes from 1 to 3"),
        ({"val_images": parts["val_images"] * 1.0}, "val_images is float64"),
        ({"val_images": parts["val_images"][:, :3]}, "but val_images 3 x 5"),
    ):
        path = write_npz(tmp_path, **parts | changed)
        assert text in message(lambda: load_dataset(f"npz:{path}", tmp_path))  # noqa: B023


def test_the_rule_is_shown_with_the_results(typed: Typed, tiny_npz: Path, tmp_path: Path) -> None:
    with np.load(tiny_npz) as archive:
        arrays = {name: archive[name] + ("labels" in name) for name in archive.files}
    np.savez(tmp_path / "pets.npz", **arrays)
    words = ["train", "--protocol", "digits-demo-v1", "--student", "resnet8", "--method", "ce", "--epochs", 1]
    code, _, err = typed(*words, "--data", "npz:pets.npz")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "type npz:pets.npz,labels=from1, which" in err
    code, _, err = typed(*words, "--data", "npz:pets.npz,labels=from1")
    assert (code, err) == (0, "")
    (path,) = Path("runs").rglob("record.json")
    record = json.loads(path.read_text())
    assert record["data_name"] == "npz:pets.npz,labels=from1"
    assert record["dataset"] == f"npz:{record['data_fingerprint'][:16]}"
    code, out, _ = typed("table", "runs")
    assert code == 0
    assert f"{record['dataset']} (pets.npz,labels=from1)" in out
    code, out, _ = typed("data", "subset", "npz:pets.npz,labels=from1", "part.npz", *("--train-per-class", 2), *(
        "--test-per-class", 1))  # fmt: skip
    assert code == 0
    assert load_dataset("npz:part.npz", Path()).fingerprint in out
