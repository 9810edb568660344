"""The kept listing: when it is trusted, when it is made anew, and where it lies."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folder import age, write_folder, write_image

from kdbench.data.files.folders import Folders
from kdbench.data.files.listing import ImageFiles
from kdbench.data.files.names import Progress
from kdbench.data.files.opening import open_image_files

INDEX = ".kdbench-folder.npz"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/kdbench"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = write_folder(tmp_path / "data")
    age(root)
    return root


class Looks:
    """Counts how often folders are listed, and sizes are looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names = self.sizes = 0
        names, sizes = Folders._names, Folders._sizes

        def counted_names(source: Folders, progress: Progress) -> object:
            self.names += 1
            return names(source, progress)

        def counted_sizes(source: Folders, paths: list[str]) -> list[int]:
            self.sizes += len(paths)
            return sizes(source, paths)

        monkeypatch.setattr(Folders, "_names", counted_names)
        monkeypatch.setattr(Folders, "_sizes", counted_sizes)

    def open(self, root: Path) -> tuple[ImageFiles, int, int]:
        self.names = self.sizes = 0
        files = open_image_files("folder", str(root))
        return files, self.names, self.sizes


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def test_a_second_job_looks_at_no_file(root: Path, looks: Looks) -> None:
    first, *counts = looks.open(root)
    assert counts == [1, 15]
    assert first.kept_in == root / INDEX
    second, *counts = looks.open(root)
    assert counts == [0, 0]
    assert second.fingerprint == first.fingerprint
    assert second.class_names == first.class_names
    assert np.array_equal(second.train.sizes, first.train.sizes)
    assert np.array_equal(second.test.labels, first.test.labels)


def test_a_copy_has_its_names_compared_once_and_a_size_of_each_class(root: Path, tmp_path: Path, looks: Looks) -> None:
    first, *_ = looks.open(root)
    copy = Path(shutil.copytree(root, tmp_path / "copy", copy_function=shutil.copy))
    age(copy)
    again, *counts = looks.open(copy)
    assert counts == [1, 6]
    assert (again.fingerprint, again.kept_in) == (first.fingerprint, copy / INDEX)
    assert again.train.read(0) == first.train.read(0)
    assert looks.open(copy)[1:] == (0, 0)
    (copy / "train/cat/cat_0.JPEG").unlink()  # a copy that is not complete
    files, *counts = looks.open(copy)
    assert (len(files.train), counts) == (8, [1, 14])


def test_images_that_were_replaced_under_their_names_are_noticed(root: Path, looks: Looks) -> None:
    before, *_ = looks.open(root)
    for path in root.glob("*/cat/*.JPEG"):
        write_image(path.with_name("new"), 99)
        path.with_name("new").rename(path)
    after, *_ = looks.open(root)
    assert after.fingerprint != before.fingerprint
    assert after.train.read(0) == (root / "train/cat/cat_0.JPEG").read_bytes()


CHANGES: list[Callable[[Path], object]] = [
    lambda root: write_image(root / "train/cat/more.JPEG"),
    lambda root: (root / "val/cat/cat_1.JPEG").unlink(),
    lambda root: (root / "train/cat/cat_1.JPEG").rename(root / "train/cat/other.JPEG"),
    lambda root: [write_image(root / split / "eel/a.JPEG") for split in ("train", "val")],
    lambda root: [(root / split / "cat").rename(root / split / "cow") for split in ("train", "val")],
    lambda root: (root / "val").rename(root / "test"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_names_is_noticed(change: Callable[[Path], object], root: Path, looks: Looks) -> None:
    before, *_ = looks.open(root)
    change(root)
    after, names, sizes = looks.open(root)
    assert names == 1
    assert sizes >= len(after.train) + len(after.test)
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == open_image_files("folder", str(root), anew=True).fingerprint


def test_a_folder_that_may_change_unseen_is_not_trusted(root: Path, looks: Looks) -> None:
    """Two changes in one tick of the file system's clock leave the same time."""
    now = time.time()
    os.utime(root / "train/cat", (now, now))
    looks.open(root)
    (root / "train/cat/cat_0.JPEG").rename(root / "train/cat/cat_9.JPEG")
    os.utime(root / "train/cat", (now, now))
    files, names, _ = looks.open(root)
    assert names == 1
    assert files.train.name(2) == "train/cat/cat_9.JPEG"


def damaged(content: bytes) -> dict[str, bytes]:
    middle = len(content) // 2
    return {
        "empty": b"",
        "the beginning of one": content[:middle],
        "text": b"nothing of the kind",
        "other bytes": content[:middle]
        + bytes(byte ^ 0xFF for byte in content[middle : middle + 200])
        + content[middle + 200 :],
    }


@pytest.mark.parametrize("name", damaged(b""))
def test_a_damaged_index_is_made_anew(name: str, root: Path, looks: Looks) -> None:
    first, *_ = looks.open(root)
    index = root / INDEX
    index.write_bytes(damaged(index.read_bytes())[name])
    again, *counts = looks.open(root)
    assert counts == [1, 15]
    assert again.fingerprint == first.fingerprint
    assert looks.open(root)[1:] == (0, 0)


@pytest.mark.parametrize(
    ("array", "value"),
    [
        ("version", np.array(99)),
        ("train_names", np.array([object()], object)),
        ("train_names", np.frombuffer(b"../../etc/passwd\n" * 9, np.uint8)),
        ("train_names", np.frombuffer(b"/etc/passwd\n" * 9, np.uint8)),
        ("train_names", np.frombuffer(b"a\n" * 8, np.uint8)),
        ("train_names", np.frombuffer(b"\xff\n" * 9, np.uint8)),
        ("train_labels", np.repeat(np.arange(3), 3) + 1),
        ("train_labels", np.zeros(9, np.int64)),
        ("train_labels", np.zeros(9)),
        ("train_sizes", np.full(9, -1)),
        ("train_sizes", np.full((9, 1), 9)),
        ("train_offsets", np.zeros(3, np.int64)),
        ("stamps", np.zeros(2, np.int64)),
        ("class_names", np.frombuffer(b"cat\ndog\n", np.uint8)),
    ],
)
def test_an_index_that_holds_something_else_is_made_anew(
    array: str, value: np.ndarray, root: Path, looks: Looks
) -> None:
    first, *_ = looks.open(root)
    with np.load(root / INDEX) as archive:
        arrays = {name: archive[name] for name in archive.files}
    np.savez(root / INDEX, **(arrays | {array: value}))
    again, *counts = looks.open(root)
    assert counts == [1, 15]
    assert again.fingerprint == first.fingerprint


def test_a_pipe_in_the_place_of_an_index_is_not_waited_for(root: Path, looks: Looks) -> None:
    os.mkfifo(root / INDEX)
    assert looks.open(root)[1:] == (1, 15)
    assert looks.open(root)[1:] == (0, 0)


def test_where_the_folder_cannot_be_written_the_users_cache_keeps_the_index(
    root: Path, cache: Path, looks: Looks
) -> None:
    (root / INDEX / "full").mkdir(parents=True)  # no file can take this place
    files, *_ = looks.open(root)
    assert files.kept_in is not None
    assert files.kept_in.parent == cache
    assert looks.open(root)[1:] == (0, 0)
    assert looks.open(Path(os.path.relpath(root)))[1:] == (0, 0)


def test_where_nothing_can_be_written_the_data_are_used_all_the_same(
    root: Path, looks: Looks, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / INDEX / "full").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    for _ in range(2):
        files, *counts = looks.open(root)
        assert files.kept_in is None
        assert counts == [1, 15]


def test_long_work_reports_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    lines: list[str] = []
    progress = Progress(lines.append, "listing folder:x")
    for done in range(0, 300_000, 1000):
        now = done / 1000
        progress(done, 300_000)
    assert lines[0] == "listing folder:x: 5,000 of 300,000 files"
    assert 6 <= len(lines) <= 9
