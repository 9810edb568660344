"""Image files in tar files."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_folder import age, write_folder, write_tars

from kdbench.data.files.listing import Changed
from kdbench.data.files.opening import open_image_files
from kdbench.data.files.tars import Tars
from kdbench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "folder")


@pytest.fixture
def tars(tmp_path: Path, folder: Path) -> Path:
    return write_tars(tmp_path / "tars", folder)


def nested(root: Path, folder: Path) -> Path:
    """A tar file of tar files, one for each class and with images alone in it, as ImageNet is published."""
    root.mkdir()
    for split in ("train", "val"):
        with tarfile.open(root / f"{split}.tar", "w") as archive:
            for label in sorted(path.name for path in (folder / split).iterdir()):
                buffer = io.BytesIO()
                with tarfile.open(fileobj=buffer, mode="w") as inner:
                    for path in sorted((folder / split / label).iterdir()):
                        inner.add(path, path.name)
                member = tarfile.TarInfo(f"{label}.tar")
                member.size = len(buffer.getvalue())
                archive.addfile(member, io.BytesIO(buffer.getvalue()))
    return root


@pytest.mark.parametrize("pack", [write_tars, nested])
def test_the_same_images_and_classes_as_timms_reader(
    pack: Callable[[Path, Path], Path], folder: Path, tmp_path: Path
) -> None:
    from timm.data.readers.reader_image_in_tar import ReaderImageInTar

    root = pack(tmp_path / "packed", folder)
    files = open_image_files("tar", str(root))
    assert (files.name, files.class_names) == ("tar:packed", ("cat", "dog9", "dog10"))
    assert (files.test.name(0), len(files.test)) == (f"val.tar/cat{'' if pack is write_tars else '.tar'}/cat_0.JPEG", 6)
    reader = ReaderImageInTar(str(root / "train.tar"), cache_tarinfo=False)
    assert {name: label for label, name in enumerate(files.class_names)} == reader.class_name_to_idx
    expected = [(file.read(), int(label)) for file, label in (reader[index] for index in range(len(reader)))]
    for child in reader.tar_state.children.values():
        child.tf.close()
    reader.tar_state.tf.close()
    images = [(files.train.read(index), int(files.train.labels[index])) for index in range(len(files.train))]
    assert sorted(images) == sorted(expected)
    assert len(images) == 9


def test_a_listing_reads_in_other_processes(tars: Path, folder: Path) -> None:
    listing = open_image_files("tar", str(tars)).train
    image = (folder / "train/dog9/dog9_1.JPEG").read_bytes()
    assert listing.read(4) == image
    assert pickle.loads(pickle.dumps(listing)).read(4) == image
    if (pid := os.fork()) == 0:
        os._exit(listing.read(4) != image)
    assert os.waitpid(pid, 0)[1] == 0
    assert listing.read(4) == image


def test_the_listing_is_kept_as_long_as_the_files_stay(tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    age(tars)
    first = open_image_files("tar", str(tars))
    assert first.kept_in == tars / ".kdbench-tar.npz"
    with monkeypatch.context() as patched:
        patched.delattr(Tars, "find")
        assert open_image_files("tar", str(tars)).fingerprint == first.fingerprint
    with tarfile.open(tars / "train.tar", "a") as archive:
        archive.add(tars.parent / "folder/val/cat/cat_0.JPEG", "cat/more.JPEG")
    assert len(open_image_files("tar", str(tars)).train) == 10


def test_a_file_that_became_shorter_is_named(tars: Path) -> None:
    listing = open_image_files("tar", str(tars)).train
    os.truncate(tars / "train.tar", 5000)
    with pytest.raises(Changed, match=r"train\.tar/dog10/dog10_2\.JPEG of tar:.* has 0 bytes"):
        listing.read(8)


def append(name: str, content: bytes = b"x", **fields: object) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        with tarfile.open(root / "train.tar", "a") as archive:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))

    return change


def cut(num_bytes: int) -> Callable[[Path], None]:
    return lambda root: os.truncate(root / "train.tar", num_bytes)


def header(root: Path) -> int:
    """Where the header of a member begins."""
    with tarfile.open(root / "train.tar") as archive:
        return archive.getmembers()[6].offset


def overwrite(root: Path) -> None:
    place = header(root)
    with (root / "train.tar").open("r+b") as file:
        file.seek(place)
        file.write(b"?" * 512)


def replace_by_folder(root: Path) -> None:
    (root / "train.tar").unlink()
    (root / "train.tar").mkdir()


def compress(root: Path) -> None:
    with tarfile.open(root / "train.tar", "w:gz") as archive:
        archive.add(root.parent / "folder/train", arcname=".")


MISTAKES: list[tuple[Callable[[Path], None], str]] = [
    (lambda root: (root / "train.tar").unlink(), r"there is no file .*train\.tar"),
    (lambda root: (root / "val.tar").unlink(), r"there is no file .*val\.tar"),
    (append("eel/a.JPEG"), r"val\.tar has no class eel, which train\.tar has"),
    (append("a.JPEG"), r"train\.tar/a\.JPEG is "),
    (append("cat/notes.txt"), r"train\.tar/cat/notes\.txt is no image by its extension"),
    (append("cat/link.JPEG", b"", type=tarfile.SYMTYPE, linkname="cat_0.JPEG"), r"cat/link\.JPEG is no image"),
    (append("cat/cat_0.JPEG"), r"has train\.tar/cat/cat_0\.JPEG twice"),
    (append("cat/none.JPEG", b""), r"train\.tar/cat/none\.JPEG is empty"),
    (append("../up/a.JPEG"), r"train\.tar has \.\./up/a\.JPEG, a path that leaves"),
    (append("cat/a\nb.JPEG"), r"has 'cat/a\\nb\.JPEG', a name with control"),
    (append("eel.tar", b"nothing"), r"train\.tar cannot be read as an uncompressed tar file"),
    (cut(5000), r"train\.tar cannot be read as an uncompressed tar file \(unexpected end of data"),
    (lambda root: cut(header(root))(root), r"\(it ends too early, or is damaged\): copy it again"),
    (cut(0), r"train\.tar cannot be read as an uncompressed tar file \(empty"),
    (overwrite, r"\(it ends too early, or is damaged\)"),
    (compress, r"train\.tar cannot be read as an uncompressed tar file"),
    (replace_by_folder, r"train\.tar cannot be read"),
]


@pytest.mark.parametrize(("change", "text"), MISTAKES)
def test_what_is_no_such_data_set_is_refused_by_name(change: Callable[[Path], None], text: str, tars: Path) -> None:
    change(tars)
    with pytest.raises(UserError, match=text):
        open_image_files("tar", str(tars))
