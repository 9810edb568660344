"""ImageNet with a flat folder of validation images, and Tiny ImageNet."""

from __future__ import annotations

import ctypes
import hashlib
import random
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from image_folder import write_folder, write_image
from scipy.io import loadmat, savemat

from kdbench.data.files import names as image_names
from kdbench.data.files.keys import ground_truth
from kdbench.data.files.listing import Listing
from kdbench.data.files.opening import open_image_files
from kdbench.errors import UserError


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def names(listing: Listing) -> list[str]:
    return [listing.name(index) for index in range(len(listing))]


def write_meta(path: Path, ids: Mapping[str, int]) -> None:
    """Write classes by their WordNet ids with their ILSVRC ids, and their parent."""
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train"]
    rows = [(number, name, "a word", "a gloss", 0, [], 0, 3) for name, number in ids.items()]
    rows.append((4, "n00000009", "their parent", "a gloss", 3, [1, 2, 3], 1, 0))
    synsets = np.array(rows, [(field, "O") for field in fields])[:, None]
    savemat(path, {"synsets": synsets}, do_compression=True)


@pytest.fixture
def imagenet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ImageNet with three classes whose ILSVRC ids are not in the order of their WordNet ids."""
    ids = {"n00000003": 1, "n00000001": 2, "n00000002": 3}
    root = write_folder(tmp_path / "imagenet", ids, val=0)
    for number, _ in enumerate([3, 1, 1, 2], 1):
        write_image(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    (root / "ILSVRC2012_validation_ground_truth.txt").write_text("3\n1\n1\n2\n")
    write_meta(root / "meta.mat", ids)
    monkeypatch.setattr(image_names, "NAMED", {"imagenet": (3, 9, 4)})
    return root


def test_a_flat_folder_of_imagenets_validation_images_is_labelled_by_the_devkit(imagenet: Path) -> None:
    files = open_image_files("imagenet", str(imagenet))
    assert (files.name, files.class_names) == ("imagenet", ("n00000001", "n00000002", "n00000003"))
    labels = {name[-6:-5]: int(label) for name, label in zip(names(files.test), files.test.labels, strict=True)}
    assert labels == {"1": 1, "2": 2, "3": 2, "4": 0}
    devkit = imagenet / "ILSVRC2012_devkit_t12/data"
    devkit.mkdir(parents=True)
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
        (imagenet / name).rename(devkit / name)
    assert open_image_files("imagenet", str(imagenet), anew=True).fingerprint == files.fingerprint
    (devkit / "meta.mat").unlink()
    with pytest.raises(UserError, match=r"put ILSVRC2012_validation_ground_truth\.txt and meta\.mat of"):
        open_image_files("imagenet", str(imagenet))


def test_the_devkit_is_read_as_torchvision_reads_it(imagenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision.datasets.imagenet as reference

    archive, folder = imagenet / "devkit.tar.gz", reference.ARCHIVE_META["devkit"][0].removesuffix(".tar.gz")
    with tarfile.open(archive, "w:gz") as file:
        for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt"):
            file.add(imagenet / name, f"{folder}/data/{name}")
    checksum = hashlib.md5(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(reference.ARCHIVE_META, "devkit", (f"{folder}.tar.gz", checksum))
    reference.parse_devkit_archive(imagenet, archive.name)
    _, wordnet_ids = reference.load_meta_file(imagenet)
    assert ground_truth(imagenet, ["d", "c", "b", "a"]) == dict(zip("abcd", wordnet_ids, strict=True))


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n", "has 2 lines for the 4 images"),
        ("ILSVRC2012_validation_ground_truth.txt", b"1\n2\n3\n4\n", "line 4: '4' is no id of a class"),
        ("ILSVRC2012_validation_ground_truth.txt", b"\xff", "is not UTF-8"),
        ("meta.mat", b"nothing of the kind", "cannot be read as the meta.mat"),
        ("val/list.txt", b"", r"val/list\.txt is no image"),
        ("train/n00000001/more.JPEG", b"x", "10 training and 4 test images, but what is called imagenet has 3 classes"),
    ],
)
def test_what_is_not_imagenet_is_refused(name: str, content: bytes, text: str, imagenet: Path) -> None:
    (imagenet / name).write_bytes(content)
    with pytest.raises(UserError, match=text):
        open_image_files("imagenet", str(imagenet))


@pytest.fixture
def uncompressed(imagenet: Path) -> Path:
    """A meta.mat without checksums."""
    path = imagenet / "meta.mat"
    savemat(path, {"synsets": loadmat(path)["synsets"]})
    return path


def test_a_damaged_meta_mat_is_named(uncompressed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Cut off, or with bytes changed: the ids of an image, or one line, and never the end of this process."""
    content, draw = uncompressed.read_bytes(), random.Random(15)
    damaged = [content[: draw.randrange(len(content))] for _ in range(4)]
    for _ in range(14):
        changed = bytearray(content)
        for _ in range(draw.choice([1, 2, 5])):
            changed[draw.randrange(len(changed))] = draw.choice([0, 255, draw.randrange(256)])
        damaged.append(bytes(changed))
    lines: list[str] = []
    for data in damaged:
        uncompressed.write_bytes(data)
        try:
            labels = ground_truth(uncompressed.parent, ["a", "b", "c", "d"])
        except UserError as error:
            lines.append(str(error))
        else:
            assert all(re.fullmatch(r"n\d{8}", label) for label in labels.values())
    assert 6 < len(lines) < 18
    assert all(str(uncompressed) in line and "\n" not in line for line in lines)
    assert capfd.readouterr() == ("", "")


def test_a_crash_of_the_reader_is_one_line(
    uncompressed: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: ctypes.string_at(0))
    with pytest.raises(UserError) as error:
        ground_truth(uncompressed.parent, ["a"])
    assert str(error.value) == (
        f"{uncompressed} cannot be read as the meta.mat of ImageNet's development kit (its reader crashes): unpack it "
        "again"
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ({"n0000000x": 1, "n00000001": 2, "n00000002": 3}, "'n0000000x' is no WordNet id"),
        ({"n00000003": 1, "n00000001": 1, "n00000002": 3}, "an id twice"),
    ],
)
def test_ids_that_are_none_are_damage(ids: dict[str, int], text: str, imagenet: Path) -> None:
    write_meta(imagenet / "meta.mat", ids)
    with pytest.raises(UserError, match=text):
        ground_truth(imagenet, ["a"])


def test_other_classes_than_those_of_the_training_images_are_named_with_their_file(imagenet: Path) -> None:
    write_meta(imagenet / "meta.mat", {"n00000003": 1, "n00000001": 2, "n00000007": 3})
    with pytest.raises(
        UserError, match=r"val \(with the classes in \./meta\.mat\) has no class n00000002, which train has"
    ):
        open_image_files("imagenet", str(imagenet))


def test_classes_of_imagenet_are_wordnet_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_folder(tmp_path / "data")
    with pytest.raises(UserError, match="has 1,000 classes, 1,281,167 training and 50,000 test images; 'cat' is no"):
        open_image_files("imagenet", str(root))
    monkeypatch.setattr(image_names, "NAMED", {"imagenet": (3, 9, 6)})
    with pytest.raises(UserError, match="'cat' is no WordNet id: complete it, or type folder:DIR"):
        open_image_files("imagenet", str(root))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "tiny-imagenet-200"
    for name in ("n00000001", "n00000002"):
        for number in range(2):
            write_image(root / "train" / name / "images" / f"{name}_{number}.JPEG", number)
        (root / "train" / name / f"{name}_boxes.txt").write_text("boxes")
    for number in range(2):
        write_image(root / "val/images" / f"val_{number}.JPEG", number)
    boxes = "\t0\t0\t1\t1\n"
    (root / "val/val_annotations.txt").write_text(f"val_0.JPEG\tn00000002{boxes}val_1.JPEG\tn00000001{boxes}")
    monkeypatch.setattr(image_names, "NAMED", {"tinyimagenet": (2, 4, 2)})
    return root


def test_tiny_imagenets_layout(tiny: Path) -> None:
    files = open_image_files("tinyimagenet", str(tiny))
    assert (files.name, files.class_names) == ("tinyimagenet", ("n00000001", "n00000002"))
    assert names(files.test) == ["val/images/val_1.JPEG", "val/images/val_0.JPEG"]
    assert files.train.name(3) == "train/n00000002/images/n00000002_1.JPEG"


@pytest.mark.parametrize(
    ("annotations", "text"),
    [
        ("val_0.JPEG\tn00000002\n", r"val_annotations\.txt has no val_1\.JPEG"),
        ("val_0.JPEG\tn1\nval_1.JPEG\tn1\nval_2.JPEG\tn1\n", r"val/images has no val_2\.JPEG"),
        ("val_0.JPEG\tn1\nval_0.JPEG\tn1\n", r"line 2: val_0\.JPEG occurs twice"),
        ("val_0.JPEG n1\n", "line 1: .* is no image and class"),
        (
            "val_0.JPEG\tn00000002\nval_1.JPEG\tn00000002\n",
            r"val \(with the classes in val/val_annotations\.txt\) has no class n00000001, which train has",
        ),
    ],
)
def test_annotations_that_do_not_fit_are_refused(annotations: str, text: str, tiny: Path) -> None:
    (tiny / "val/val_annotations.txt").write_text(annotations)
    with pytest.raises(UserError, match=text):
        open_image_files("tinyimagenet", str(tiny))
