"""Image files in folders: what is listed in which order, and what is refused."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_folder import CLASSES, write_folder

from kdbench.data.files import names as image_names
from kdbench.data.files.listing import Changed, Listing
from kdbench.data.files.opening import image_word, open_image_files
from kdbench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "data")


def names(listing: Listing) -> list[str]:
    return [listing.name(index) for index in range(len(listing))]


def test_images_are_listed_by_class_and_path(root: Path) -> None:
    files = open_image_files("folder", str(root))
    assert (files.name, files.num_classes) == ("folder:data", 3)
    assert files.class_names == ("cat", "dog9", "dog10")  # numbers by value
    expected = [f"val/{name}/{name}_{number}.JPEG" for name in files.class_names for number in range(2)]
    assert names(files.test) == expected
    assert files.test.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert files.train.labels.dtype == files.train.sizes.dtype == np.int64
    for index, name in enumerate(names(files.train)):
        assert files.train.read(index) == (root / name).read_bytes()
        assert files.train.sizes[index] == (root / name).stat().st_size


def test_the_same_images_and_classes_as_timms_reader(root: Path) -> None:
    from timm.data.readers.reader_image_folder import ReaderImageFolder

    files, reader = open_image_files("folder", str(root)), ReaderImageFolder(str(root / "train"))
    assert {name: label for label, name in enumerate(files.class_names)} == reader.class_to_idx
    assert dict(zip(names(files.train), files.train.labels.tolist(), strict=True)) == {
        os.path.relpath(path, root): label for path, label in reader.samples
    }


def test_extensions_are_those_of_torchvision_and_timm() -> None:
    from timm.data.readers.img_extensions import IMG_EXTENSIONS as TIMMS
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert set(image_names.EXTENSIONS) == set(IMG_EXTENSIONS)
    assert set(image_names.EXTENSIONS) > set(TIMMS)
    assert image_names.is_image("a.JpEg")
    assert not image_names.is_image("jpeg")


def test_a_listing_is_arrays_and_can_be_pickled(root: Path) -> None:
    listing = open_image_files("folder", str(root)).train
    copy = pickle.loads(pickle.dumps(listing))
    assert names(copy) == names(listing)
    assert copy.read(3) == listing.read(3)
    parts = [value for value in vars(listing).values() if isinstance(value, list | tuple | dict)]
    assert parts == []


def test_the_fingerprint_is_that_of_names_sizes_and_labels(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fingerprint(folder: Path) -> str:
        return open_image_files("folder", str(folder), anew=True).fingerprint

    first = fingerprint(root)
    moved = Path(shutil.copytree(root, tmp_path / "elsewhere"))
    assert fingerprint(moved) == first
    scandir = os.scandir

    class Reversed:
        def __init__(self, path: Path) -> None:
            with scandir(path) as entries:
                self.entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list[os.DirEntry[str]]:
            return self.entries

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert fingerprint(root) == first
    monkeypatch.undo()
    seen = {first}
    with (moved / "val/cat/cat_0.JPEG").open("ab") as file:
        file.write(b"x")
    seen.add(fingerprint(moved))
    (moved / "train/cat/cat_0.JPEG").rename(moved / "train/cat/cat_7.JPEG")
    seen.add(fingerprint(moved))
    (moved / "train/cat/cat_7.JPEG").rename(moved / "train/dog9/cat_7.JPEG")
    seen.add(fingerprint(moved))
    for split in ("train", "val"):
        (moved / split / "cat").rename(moved / split / "cow")
    seen.add(fingerprint(moved))
    assert len(seen) == 5


def test_an_image_that_changed_or_went_is_named(root: Path) -> None:
    listing = open_image_files("folder", str(root)).train
    with (root / listing.name(1)).open("ab") as file:
        file.write(b"x")
    size = int(listing.sizes[1])
    with pytest.raises(Changed, match=rf"cat_1\.JPEG of folder:.* has {size + 1} bytes, but {size} when .*data index"):
        listing.read(1)
    (root / listing.name(2)).unlink()
    with pytest.raises(FileNotFoundError):
        listing.read(2)


def test_what_desktops_leave_behind_is_ignored(root: Path) -> None:
    before = open_image_files("folder", str(root)).fingerprint
    for path in ("train/.DS_Store", "train/cat/._a.JPEG", "val/cat/Thumbs.db", "val/desktop.ini"):
        (root / path).write_bytes(b"x")
    (root / "train/.ipynb_checkpoints").mkdir()
    assert open_image_files("folder", str(root), anew=True).fingerprint == before


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def add(path: str, content: bytes = b"x") -> Callable[[Path], None]:
    def write(root: Path) -> None:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)

    return write


def add_undecodable(root: Path) -> None:
    Path(os.fsdecode(os.fsencode(root / "train/cat") + b"/\xff.jpg")).write_bytes(b"x")


def empty(root: Path) -> None:
    for path in (root / "val/dog9").iterdir():
        path.unlink()


def one_class(root: Path) -> None:
    for split in ("train", "val"):
        for name in CLASSES[1:]:
            shutil.rmtree(root / split / name)


MISTAKES: list[tuple[Callable[[Path], None], str]] = [
    (remove("train"), "has no folder train: .* it holds val"),
    (remove("val"), "has no folder val: "),
    (remove("val/dog9"), "val has no class dog9, which train has"),
    (remove("train/dog9"), "train has no class dog9, which val has"),
    (empty, "class dog9 has no image in val"),
    (one_class, "train has 1 class: give two or more"),
    (add("train/cat/notes.txt"), r"train/cat/notes\.txt is no image by its extension \(\.jpg, .*\): move"),
    (lambda root: [add(f"val/cat/{n}.txt")(root) for n in "ab"] and None, r"a\.txt is no image .*, and 1 file more: "),
    (add("train/list.csv"), r"train/list\.csv is no image"),
    (add("val/lost.jpg"), r"val/lost\.jpg is an image in no folder of a class: "),
    (add("train/cat/kittens/a.jpg"), "train/cat/kittens is a folder, where only images may be"),
    (add("train/cat/none.jpg", b""), r"train/cat/none\.jpg is empty"),
    (lambda root: (root / "train/cat/folder.jpg").mkdir(), r"train/cat/folder\.jpg is no file"),
    (lambda root: (root / "train/cat/gone.jpg").symlink_to("nowhere"), r"train/cat/gone\.jpg cannot be read: No such"),
    (lambda root: (root / "train/gone").symlink_to("nowhere"), "train/gone is a link to nothing"),
    (lambda root: (root / "train/loop").symlink_to("loop"), "train/loop cannot be read: Too many levels"),
    (lambda root: (root / "train/up").symlink_to(".."), "train/up/train is a folder"),
    (add("train/cat/a\nb.jpg"), r"train/cat has 'a\\nb\.jpg', a name with control characters"),
    (add_undecodable, r"train/cat has '\\udcff\.jpg', a name with control characters or not in UTF-8"),
    (add("train/a\x1b[31m/b.jpg"), r"train has 'a\\x1b\[31m', a name with control"),
]


@pytest.mark.parametrize(("change", "text"), MISTAKES)
def test_what_is_no_such_data_set_is_refused_by_name(change: Callable[[Path], None], text: str, root: Path) -> None:
    change(root)
    with pytest.raises(UserError, match=text):
        open_image_files("folder", str(root))
    assert not list(root.glob(".kdbench*"))


@pytest.mark.parametrize("kind", ["folder", "imagenet", "tinyimagenet", "tar"])
@pytest.mark.parametrize("path", ["nowhere", "file", "file/in", "loop", "x" * 300, "a\0b"])
def test_a_folder_that_is_none_is_one_line(kind: str, path: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UserError) as error:
        open_image_files(kind, f"{tmp_path}/{path}")  # type: ignore[arg-type]
    assert f"{kind}:{tmp_path}" in str(error.value)


def test_the_test_images_may_have_another_name_that_stands_alone(root: Path) -> None:
    (root / "val").rename(root / "validation")
    assert open_image_files("folder", str(root)).test.name(0).startswith("validation/cat/")
    shutil.copytree(root / "validation", root / "test")
    with pytest.raises(UserError, match="has the folders validation and test: name that of the test images val"):
        open_image_files("folder", str(root))
    (root / "validation").rename(root / "val")
    assert open_image_files("folder", str(root)).test.name(0).startswith("val/cat/")


def test_folders_of_classes_and_images_may_be_links(root: Path, tmp_path: Path) -> None:
    before = open_image_files("folder", str(root))
    (root / "train/cat").rename(tmp_path / "cats")
    (root / "train/cat").symlink_to(tmp_path / "cats")
    (tmp_path / "cats/cat_0.JPEG").rename(tmp_path / "moved")
    (tmp_path / "cats/cat_0.JPEG").symlink_to(tmp_path / "moved")
    after = open_image_files("folder", str(root), anew=True)
    assert (after.fingerprint, after.train.read(0)) == (before.fingerprint, before.train.read(0))


def test_variables_are_expanded_where_the_data_are_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", str(root.parent))
    monkeypatch.setenv("HOME", str(root.parent))
    for path in ("$SCRATCH/data", "${SCRATCH}/data", "~/data"):
        assert len(open_image_files("folder", path).train) == 9
    monkeypatch.setenv("EMPTY", "")
    for path, name in (("$NOT_SET/data", r"\$NOT_SET"), ("/a/${EMPTY}/data", r"\$\{EMPTY\}")):
        with pytest.raises(UserError, match=f"the environment variable {name} in .* is not set"):
            open_image_files("folder", path)


def test_a_word_is_split_into_kind_and_path() -> None:
    assert image_word("folder:a:b") == ("folder", "a:b")
    assert image_word("ImageNet:$TMPDIR/x") == ("imagenet", "$TMPDIR/x")
    for word in ("data", "npz:file", "folder", "C:/folder:x", ""):
        assert image_word(word) is None
    with pytest.raises(UserError, match="'tar: ' names no data: type tar:DIR"):
        image_word("tar: ")
