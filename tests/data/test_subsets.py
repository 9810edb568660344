"""Fingerprints, subsets and written data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import message, small_arrays

from kdbench.data.datasets import ArrayDataset, from_arrays, load_dataset
from kdbench.data.subsets import save_npz, subset


def small() -> ArrayDataset:
    return from_arrays("small", small_arrays() | {"class_names": np.array(["a", "b", "c"])})


def test_a_fingerprint_tells_contents_and_shapes_apart() -> None:
    changed = small_arrays()
    changed["test_images"][5, 3, 4, 2] ^= 1
    swapped = small_arrays()
    swapped["train_labels"][[0, 1]] = swapped["train_labels"][[1, 0]]
    reshaped = {key: x.reshape(len(x), 5, 4, 3) if x.ndim == 4 else x for key, x in small_arrays().items()}
    prints = {from_arrays("small", each).fingerprint for each in (small_arrays(), changed, swapped, reshaped)}
    assert len(prints) == 4
    assert small().fingerprint in prints
    assert re.fullmatch("[0-9a-f]{64}", small().fingerprint)


def test_a_subset_is_the_first_of_each_class_in_file_order() -> None:
    cut = subset(small(), 2, 1)
    assert cut.name == "small[2+1]"
    assert cut.train_labels.tolist() == [0, 1, 2, 2, 1, 0]
    assert torch.equal(cut.train_images, small().train_images[:6])
    assert cut.test_labels.tolist() == [2, 1, 0]
    assert torch.equal(cut.test_images, small().test_images[[0, 2, 4]])
    assert cut.class_names == ("a", "b", "c")
    assert cut.fingerprint != small().fingerprint
    assert subset(small(), 4, 2).fingerprint == small().fingerprint


def test_all_images_are_kept_where_classes_are_unequal() -> None:
    unequal = small_arrays()
    unequal["train_labels"] = np.array([0, 1, 2, 2, 2, 2, 2, 2, 1, 1, 2, 2])
    dataset = from_arrays("unequal", unequal)
    whole = subset(dataset, None, None)
    assert (whole.name, whole.fingerprint) == ("unequal[all+all]", dataset.fingerprint)
    assert subset(dataset, None, 1).train_labels.tolist() == unequal["train_labels"].tolist()


@settings(deadline=None)
@given(st.data())
def test_a_subset_of_a_subset_is_the_smaller_subset(data: st.DataObject) -> None:
    train, test = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2))
    once = subset(small(), data.draw(st.integers(1, train)), 1)
    count = len(once.train_labels) // 3
    assert subset(subset(small(), train, test), count, 1).fingerprint == once.fingerprint
    assert torch.bincount(once.train_labels).tolist() == [count] * 3


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ((5, 1), "small has no 5 train images per class: give 1 to 4, all that class 0 has"),
        ((1, 3), "small has no 3 test images per class: give 1 to 2, all that class 0 has"),
        ((0, 1), "small has no 0 train images per class: give 1 to 4"),
        ((1, -1), "small has no -1 test images per class: give 1 to 2"),
    ],
)
def test_a_subset_needs_enough_images(counts: tuple[int, int], expected: str) -> None:
    assert message(lambda: subset(small(), *counts)).startswith(expected)


@pytest.mark.parametrize("name", ["small.npz", "no-suffix"])
def test_a_written_data_set_is_read_back(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"something older")
    save_npz(small(), path)
    assert [each.name for each in tmp_path.iterdir()] == [name]
    again = load_dataset(f"npz:{path}", tmp_path)
    assert again.fingerprint == small().fingerprint
    assert again.class_names == ("a", "b", "c")
    first = path.read_bytes()
    save_npz(again, path)
    assert path.read_bytes() == first


def test_class_names_are_optional_in_a_written_file(tmp_path: Path) -> None:
    save_npz(from_arrays("plain", small_arrays()), tmp_path / "plain.npz")
    assert load_dataset("npz:plain.npz", tmp_path).class_names is None


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.npz"
    save_npz(small(), path)
    before = path.read_bytes()

    def half(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez_compressed", half)
    with pytest.raises(KeyboardInterrupt):
        save_npz(subset(small(), 1, 1), path)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.npz", tmp_path):
        text = message(lambda: save_npz(small(), path))  # noqa: B023
        assert re.match(rf"cannot write {path}: .+: give another path", text)
