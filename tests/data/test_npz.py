"""Data sets in npz files: reading, checking, writing."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_data import message, small_arrays, write_npz

from kdbench.data import npz
from kdbench.data.datasets import from_arrays, load_dataset


def test_an_npz_is_found_from_the_current_folder_and_from_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npz(tmp_path, **small_arrays())
    absolute = load_dataset(f"npz:{path}", Path("elsewhere"))
    assert (absolute.name, absolute.num_classes, absolute.class_names) == ("npz:small.npz", 3, None)
    assert load_dataset("NPZ:small.npz", tmp_path).fingerprint == absolute.fingerprint
    monkeypatch.chdir(tmp_path)
    assert load_dataset("npz:small.npz", Path("elsewhere")).fingerprint == absolute.fingerprint


def test_an_npz_may_be_grey_have_other_integers_and_class_names(tmp_path: Path) -> None:
    arrays = small_arrays()
    arrays["train_images"] = arrays["train_images"][..., 0]
    arrays["train_labels"] = arrays["train_labels"].astype(np.uint8)
    path = write_npz(tmp_path, **arrays, class_names=np.array(["a", "b", "ç"]), more=np.zeros(3))
    dataset = load_dataset(f"npz:{path}", tmp_path)
    assert dataset.class_names == ("a", "b", "ç")
    assert dataset.train_images.shape == (12, 4, 5, 3)
    assert dataset.train_labels.dtype == torch.int64


def test_images_for_validation_are_the_test_images_where_there_are_no_others(tmp_path: Path) -> None:
    arrays = small_arrays()
    expected = load_dataset(f"npz:{write_npz(tmp_path, **arrays)}", tmp_path)
    column = arrays["train_labels"][:, np.newaxis]
    parts = {"train_images": arrays["train_images"], "train_labels": column}
    validated = {name.replace("test", "val"): arrays[name] for name in ("test_images", "test_labels")}
    found = load_dataset(f"npz:{write_npz(tmp_path, **parts, **validated)}", tmp_path)
    assert (found.fingerprint, found.unused) == (expected.fingerprint, ())
    both = load_dataset(f"npz:{write_npz(tmp_path, **arrays, **validated)}", tmp_path)
    assert (both.fingerprint, both.unused) == (expected.fingerprint, ("val_images", "val_labels"))
    del validated["val_labels"]
    text = message(lambda: load_dataset(f"npz:{write_npz(tmp_path, **parts, **validated)}", tmp_path))
    assert "has no val_labels: name the arrays so" in text


def test_a_missing_npz_says_where_it_was_looked_for(tmp_path: Path) -> None:
    text = message(lambda: load_dataset("npz:absent.npz", tmp_path))
    expected = f"there is no file {Path.cwd()}/absent.npz or {tmp_path}/absent.npz: type npz:FILE with its path"
    assert text.startswith(expected)
    assert "there is no file" in message(lambda: load_dataset(f"npz:{tmp_path}", tmp_path))
    assert "there is no file" in message(lambda: load_dataset("npz:", tmp_path))


def damaged(name: str, path: Path) -> None:
    """Write something at the path that is not a readable .npz file."""
    content = path.read_bytes()
    if name == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif name == "flipped bytes":
        path.write_bytes(content[:100] + bytes(255 - byte for byte in content[100:200]) + content[200:])
    elif name == "a picture":
        path.write_bytes(b"\x89PNG" + b"x" * 100)
    elif name == "empty":
        path.write_bytes(b"")
    elif name == "pickled":
        path.write_bytes(pickle.dumps(small_arrays()))
    elif name == "npy":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif name == "objects":
        np.savez(path, **(small_arrays() | {"train_images": np.array([{}, {}], dtype=object)}))


@pytest.mark.parametrize("name", ["truncated", "flipped bytes", "a picture", "empty", "pickled", "npy", "objects"])
def test_a_damaged_npz_says_so(tmp_path: Path, name: str) -> None:
    path = write_npz(tmp_path, **small_arrays())
    damaged(name, path)
    text = message(lambda: load_dataset(f"npz:{path}", tmp_path))
    assert re.match(rf"{path} cannot be read \(.+\): write plain arrays with numpy.savez_compressed", text)
    assert ("Python objects" in text) == (name == "objects")


def test_a_zip_of_other_things_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", "not an array")
    text = message(lambda: load_dataset(f"npz:{path}", tmp_path))
    assert text.startswith(f"{path} has no train_labels, test_images, test_labels: name the arrays so")
    path = write_npz(tmp_path, **small_arrays())
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in (members | {"train_images.npy": b"not an array"}).items():
            archive.writestr(each, content)
    assert "train_images is |S12: give values" in message(lambda: load_dataset(f"npz:{path}", tmp_path))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_no_truncation_gets_through(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write_npz(tmp_path_factory.mktemp("npz"), **small_arrays())
    content = path.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    assert str(path) in message(lambda: load_dataset(f"npz:{path}", Path()))


def change(**changes: Any) -> dict[str, Any]:
    return small_arrays() | changes


IMAGES, LABELS = small_arrays()["train_images"], small_arrays()["train_labels"]
BAD = {
    "float images": (
        change(train_images=IMAGES / 255),
        "train_images is float64: give values from 0 to 255 as uint8",
    ),
    "NaN": (
        change(test_images=np.full((6, 4, 5, 3), np.nan, np.float32)),
        "test_images is float32 and holds NaN: ",
    ),
    "flat images": (
        change(train_images=IMAGES.reshape(12, -1)),
        r"train_images has the shape \(12, 60\): give \(N",
    ),
    "channels first": (
        change(train_images=IMAGES.transpose(0, 3, 1, 2)),
        r"has the shape \(12, 3, 4, 5\): give \(N",
    ),
    "no images": (change(train_images=IMAGES[:0], train_labels=LABELS[:0]), "give at least one image"),
    "no pixels": (change(train_images=IMAGES[:, :0]), "give at least one image of at least one pixel"),
    "lengths": (change(train_labels=LABELS[:11]), "train_labels has 11 entries for 12 images"),
    "float labels": (change(train_labels=LABELS * 1.0), "train_labels is float64: give class numbers as int64"),
    "NaN labels": (change(test_labels=np.full(6, np.nan)), "test_labels is float64 and holds NaN"),
    "text labels": (change(test_labels=np.array(list("abcabc"))), "test_labels is <U1: give class numbers"),
    "one-hot labels": (change(train_labels=np.eye(12, 3, dtype=int)), r"train_labels has the shape \(12, 3\)"),
    "negative label": (change(train_labels=LABELS - 1), "train_labels goes from -1 to 1, but there are 2 classes"),
    "labels from 1": (
        change(train_labels=LABELS + 1),
        "train_labels go from 1 to 3: number the classes from 0",
    ),
    "test label": (change(test_labels=LABELS[:6] + 1), "test_labels goes from 1 to 3, but there are 3 classes"),
    "huge label": (
        change(train_labels=LABELS * 10**12),
        "train_labels has no class 1, but there are 2000000000001",
    ),
    "train class": (change(train_labels=LABELS * 2), "train_labels has no class 1, but there are 5 classes"),
    "test class": (change(test_labels=np.array([0, 0, 0, 1, 1, 1])), "test_labels has no class 2"),
    "one class": (change(train_labels=LABELS * 0, test_labels=LABELS[:6] * 0), "has one class: give two or more"),
    "sizes": (
        change(test_images=np.zeros((6, 5, 4, 3), np.uint8)),
        "train_images are 4 x 5 pixels, but test_images 5 x 4: give both the same size",
    ),
    "few names": (
        change(class_names=np.array(["a", "b"])),
        "train_labels goes from 0 to 2, but there are 2 classes",
    ),
    "many names": (change(class_names=np.array(list("abcd"))), "train_labels has no class 3, but there are 4"),
    "numbers as names": (change(class_names=np.arange(3)), r"class_names is int64 of shape \(3,\): give one text"),
}


@pytest.mark.parametrize("name", BAD)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, name: str) -> None:
    arrays, expected = BAD[name]
    path = write_npz(tmp_path, **arrays)
    text = message(lambda: load_dataset(f"npz:{path}", tmp_path))
    assert text.startswith(f"{path}: ")
    assert re.search(expected, text), text


def test_labels_in_a_column_are_taken(tmp_path: Path) -> None:
    path = write_npz(tmp_path, **change(train_labels=LABELS[:, None]))
    assert load_dataset(f"npz:{path}", tmp_path).fingerprint == from_arrays("mine", small_arrays()).fingerprint


def test_arrays_that_nothing_reads_are_named(tmp_path: Path) -> None:
    path = write_npz(tmp_path, **small_arrays(), val_images=IMAGES, val_labels=LABELS)
    assert load_dataset(f"npz:{path}", tmp_path).unused == ("val_images", "val_labels")
    assert from_arrays("mine", small_arrays()).unused == ()


def test_arrays_of_other_names_are_listed_as_they_are(tmp_path: Path) -> None:
    keras = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y\x1b": LABELS}
    text = message(lambda: load_dataset(f"npz:{write_npz(tmp_path, **keras)}", tmp_path))
    assert text.endswith(": name the arrays so; it holds x_test, x_train, 'y\\x1b', y_train")
    many = {f"a{number:02}": np.zeros(1) for number in range(40)}
    text = message(lambda: load_dataset(f"npz:{write_npz(tmp_path, **many)}", tmp_path))
    assert text.endswith("it holds " + ", ".join(f"a{number:02}" for number in range(12)) + " and 28 more")


@pytest.mark.parametrize("file", ["~nobody-of-this-name/x.npz", "x" * 5000, "\0"])
def test_a_file_that_cannot_exist_is_refused_in_a_line(tmp_path: Path, file: str) -> None:
    assert "type npz:FILE with its path" in message(lambda: load_dataset(f"npz:{file}", tmp_path))


def with_header(path: Path, name: str, shape: tuple[int, ...]) -> None:
    """Let the header of one array of a file promise another shape."""
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w") as archive:
        for each, content in (members | {f"{name}.npy": header.getvalue()}).items():
            archive.writestr(each, content)


@pytest.mark.parametrize("shape", [(10**12, 4), (10**30,), (2**62, 2**62, 3)])
def test_a_header_that_promises_too_much_takes_no_memory(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_npz(tmp_path, **small_arrays())
    with_header(path, "test_images", shape)
    with at_most(10_000_000):
        text = message(lambda: load_dataset(f"npz:{path}", tmp_path))
    assert text.startswith(f"{path} cannot be read (test_images is said to take ")


def test_what_unpacks_to_more_than_there_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """40 MB of zeros in a file of 40 kB, where the process may have 60 MB."""
    images = np.zeros((1000, 115, 116, 3), np.uint8)
    path = write_npz(tmp_path, **change(train_images=images, train_labels=np.arange(1000) % 3))
    monkeypatch.setattr(npz, "_memory_limits", lambda: [10**12, 60_000_000])
    with at_most(10_000_000):
        text = message(lambda: load_dataset(f"npz:{path}", tmp_path))
    assert text == (
        f"{path} unpacks to 40.0 MB, and training on it takes about 3 times as much memory, but this process may have "
        "60.0 MB: give fewer or smaller images"
    )


@contextlib.contextmanager
def at_most(num_bytes: int) -> Iterator[None]:
    """Fail where Python and NumPy take more memory than this inside."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < num_bytes
    finally:
        tracemalloc.stop()


def test_memory_that_runs_out_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_out(*_: Any) -> None:
        raise MemoryError

    path = write_npz(tmp_path, **small_arrays())
    monkeypatch.setattr(np, "asarray", run_out)
    assert message(lambda: load_dataset(f"npz:{path}", tmp_path)).startswith(f"{path} does not fit into memory: ")


def test_missing_arrays_are_named() -> None:
    arrays = small_arrays()
    del arrays["test_images"], arrays["test_labels"]
    text = message(lambda: from_arrays("mine", arrays))
    assert text == "mine has no test_images, test_labels: name the arrays so; it holds train_images, train_labels"
    assert message(lambda: from_arrays("mine", {})).endswith("it holds nothing")
