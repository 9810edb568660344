"""``kdbench data index``, ``kdbench data check`` and ``kdbench data list``."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from cells import Typed
from image_folder import write_folder

from kdbench.cli import data as command
from kdbench.data.datasets import load_dataset
from kdbench.data.files.opening import open_image_files
from kdbench.engine.checks.small import tiny_arrays


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("ROOT", str(tmp_path))
    return write_folder(tmp_path / "data")


def test_a_listing_is_made_and_kept(typed: Typed, root: Path) -> None:
    code, out, err = typed("data", "index", "folder:$ROOT/data")
    assert (code, err) == (0, "")
    files = open_image_files("folder", str(root))
    summary, fingerprint, kept, hint = out.splitlines()
    size = int(files.train.sizes.sum() + files.test.sizes.sum())
    assert summary == f"folder:$ROOT/data: 9 training and 6 test images of 3 classes, {size / 1000:.1f} kB"
    assert fingerprint == f"fingerprint {files.fingerprint}"
    assert kept == f"the listing is kept in {files.kept_in}"
    assert hint == "use the data with --data 'folder:$ROOT/data'"


def test_broken_images_are_named(typed: Typed, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert typed("data", "check", "folder:data")[0] == 0
    image = root / "train/cat/cat_0.JPEG"
    image.write_bytes(image.read_bytes()[:-100])
    assert typed("data", "index", "folder:data")[0] == 0
    (root / "val/cat/cat_1.JPEG").write_bytes(b"longer" * 1000)
    code, out, err = typed("data", "check", "folder:data")
    assert (code, err) == (1, "")
    first, second, _, fingerprint, last = out.splitlines()
    assert first.startswith("train/cat/cat_0.JPEG cannot be decoded: ")
    assert second.startswith("val/cat/cat_1.JPEG of folder:data has 6,000 bytes, but ")
    assert re.fullmatch("fingerprint [0-9a-f]{64}", fingerprint)
    assert last == "2 of 15 images cannot be used: copy them again, or remove them"
    monkeypatch.setattr(command, "_MOST_SHOWN", 1)
    code, out, _ = typed("data", "check", "folder:data")
    assert (code, out.splitlines()[0]) == (1, first)
    assert "2 of 15 images cannot be used; the first 1 are named: " in out
    assert "val/cat" not in out


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("data", "type folder:DIR, imagenet:DIR"),
        ("npz:x", "'npz:x' names no data set of image files"),
        ("folder:", "names no data: type folder:DIR"),
        ("folder:nowhere", "there is no folder "),
        ("folder:$NOT_SET", "the environment variable $NOT_SET"),
        ("imagenet:data", "what is called imagenet has 1,000 classes"),
        ("folder:a\x1b[31m", r"folder:a\x1b[31m: there is no folder"),
    ],
)
@pytest.mark.parametrize("name", ["index", "check"])
def test_a_mistake_is_one_line(name: str, word: str, text: str, typed: Typed, root: Path) -> None:
    code, _, err = typed("data", name, word)
    assert (code, len(err.splitlines())) == (2, 1)
    assert text in err


def test_the_images_of_a_folder_are_listed_in_their_order(typed: Typed, root: Path) -> None:
    code, out, err = typed("data", "list", "folder:data", "--split", "test")
    assert (code, err) == (0, "")
    header, *rows = [line.split("\t") for line in out.splitlines()]
    assert header == ["index", "label", "class", "file"]
    names = [(label, name) for label, name in enumerate(["cat", "dog9", "dog10"]) for _ in range(2)]
    assert [(int(label), name) for _, label, name, _ in rows] == names
    assert [row[0] for row in rows] == [str(index) for index in range(6)]
    for _, _, name, file in rows:
        assert file.startswith(f"val/{name}/")
        assert (root / file).is_file()


def test_arrays_are_listed_with_empty_columns_for_what_they_lack(typed: Typed, tmp_path: Path) -> None:
    arrays = tiny_arrays()
    np.savez(tmp_path / "bare.npz", **arrays)
    np.savez(tmp_path / "named.npz", **arrays, class_names=np.array(["a", "b\tb\n", "ç"]))
    for file, names in (("bare", ["", "", ""]), ("named", ["a", "b�b�", "ç"])):
        code, out, err = typed("data", "list", f"npz:{file}.npz")
        assert (code, err) == (0, "")
        rows = [f"{index}\t{label}\t{names[label]}\t" for index, label in enumerate(arrays["train_labels"])]
        assert out.split("\n") == ["index\tlabel\tclass\tfile", *rows, ""]


def test_a_data_set_is_listed_by_its_name(typed: Typed) -> None:
    code, out, err = typed("data", "list", "Digits", "--split", "test")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == 501
    labels = load_dataset("digits", Path()).test_labels
    assert [int(line.split("\t")[1]) for line in lines[1:]] == labels.tolist()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["nothing"], "unknown data set 'nothing'"),
        (["npz:x.npz", "--data", "."], "--data . is of no use with npz:x.npz"),
        (["npz:x.npz", "--download"], "--download is of no use with npz:FILE"),
        (["digits", "--data", "."], "digits comes with kdbench"),
        (["imagenet"], "data/imagenet"),
        (["cifar10"], "CIFAR10 was not found"),
    ],
)
def test_what_cannot_be_listed_is_one_line(words: list[str], text: str, typed: Typed) -> None:
    code, out, err = typed("data", "list", *words)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert text in err
