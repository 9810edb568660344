"""``kdbench data index`` and ``kdbench data check``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from cells import Typed
from image_folder import write_folder

from kdbench.cli import data as command
from kdbench.data.files.opening import open_image_files


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
