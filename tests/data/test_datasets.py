"""Data sets: loading, checking, cutting down and writing."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from kdbench.data.datasets import DATASETS, Dataset, from_arrays, load_dataset, save_npz, subset
from kdbench.errors import UserError

RNG = np.random.default_rng(0)


def small_arrays() -> dict[str, Any]:
    """12 training and 6 test images of 4 x 5 pixels, in 3 classes."""
    return {
        "train_images": np.arange(12 * 4 * 5 * 3, dtype=np.uint8).reshape(12, 4, 5, 3),
        "train_labels": np.array([0, 1, 2, 2, 1, 0, 0, 0, 1, 1, 2, 2]),
        "test_images": np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3) + 1,
        "test_labels": np.array([2, 2, 1, 1, 0, 0]),
    }


def write_npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "small.npz"
    np.savez_compressed(path, **arrays)
    return path


def message(call: Callable[[], object]) -> str:
    """The one line that a user sees."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    return text


# ---- the embedded digits


def test_digits_are_split_evenly_and_always_in_the_same_way(tmp_path: Path) -> None:
    digits = load_dataset("digits", tmp_path)
    assert (digits.name, digits.num_classes) == ("digits", 10)
    assert digits.class_names == tuple("0123456789")
    assert digits.train_images.shape == (1297, 8, 8, 3)
    assert digits.test_images.shape == (500, 8, 8, 3)
    assert digits.train_images.dtype == torch.uint8
    assert digits.test_labels.dtype == torch.int64
    assert torch.bincount(digits.test_labels).tolist() == [50] * 10
    assert digits.train_images.max() == 255
    assert torch.equal(digits.train_images[..., 0], digits.train_images[..., 2])
    assert digits.fingerprint == "2a4b63cb01576035dc7d2b48201842e0cf0bf2879d9032fbf490b6481bd2da62"
    assert load_dataset("Digits", tmp_path / "absent").fingerprint == digits.fingerprint


def test_digits_need_no_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert load_dataset("digits", tmp_path).num_classes == 10


# ---- file sets in torchvision's layouts


def dump(path: Path, content: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> np.ndarray:
    """Files of CIFAR-10 or CIFAR-100 with 2 images per class and file; the images of the first file."""
    num_classes, key = (10, "labels") if name == "CIFAR10" else (100, "fine_labels")
    cls = getattr(torchvision.datasets, name)
    root = folder / cls.base_folder
    labels = list(range(num_classes)) * 2
    images, sums = [], {}
    for file_name, _ in cls.train_list + cls.test_list:
        images.append(RNG.integers(256, size=(len(labels), 3, 32, 32), dtype=np.uint8))
        sums[file_name] = dump(root / file_name, {"data": images[-1].reshape(-1, 3072), key: labels})
    names = [f"class {i}" for i in range(num_classes)]
    meta_sum = dump(root / cls.meta["filename"], {cls.meta["key"]: names})
    monkeypatch.setattr(cls, "train_list", [[file, sums[file]] for file, _ in cls.train_list])
    monkeypatch.setattr(cls, "test_list", [[file, sums[file]] for file, _ in cls.test_list])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": meta_sum})
    return images[0].transpose(0, 2, 3, 1)


@pytest.mark.parametrize(("name", "num_classes"), [("CIFAR10", 10), ("CIFAR100", 100)])
def test_cifar_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, num_classes: int) -> None:
    images = write_cifar(tmp_path, monkeypatch, name)
    dataset = load_dataset(name, tmp_path)
    assert (dataset.name, dataset.num_classes) == (name.lower(), num_classes)
    assert torch.equal(dataset.train_images[: len(images)], torch.from_numpy(images))
    assert dataset.train_labels[: num_classes * 2].tolist() == list(range(num_classes)) * 2
    assert dataset.train_images.is_contiguous()
    assert dataset.class_names is not None
    assert dataset.class_names[9] == "class 9"


def test_old_pickles_do_not_warn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, "CIFAR10")
    load = pickle.load

    def load_and_warn(*args: Any, **options: Any) -> Any:
        warnings.warn("dtype(): align should be a Boolean", np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        return load(*args, **options)

    monkeypatch.setattr(pickle, "load", load_and_warn)
    assert load_dataset("cifar10", tmp_path).num_classes == 10


def test_damaged_cifar_counts_as_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cifar(tmp_path, monkeypatch, "CIFAR100")
    (tmp_path / "cifar-100-python" / "test").write_bytes(b"half a file")
    text = message(lambda: load_dataset("cifar100", tmp_path))
    assert text.startswith(f"CIFAR100 was not found, or not all of it, in {tmp_path}: type --download, or --data DIR")


def write_fashion_mnist(folder: Path) -> np.ndarray:
    images = RNG.integers(256, size=(20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    for split in ("train", "t10k"):
        raw = folder / "FashionMNIST" / "raw"
        dump(raw / f"{split}-images-idx3-ubyte", struct.pack(">IIII", 0x803, 20, 28, 28) + images.tobytes())
        dump(raw / f"{split}-labels-idx1-ubyte", struct.pack(">II", 0x801, 20) + labels.tobytes())
    return images


def test_fashion_mnist_is_read_and_grey_becomes_colour(tmp_path: Path) -> None:
    images = write_fashion_mnist(tmp_path)
    dataset = load_dataset("Fashion-MNIST", tmp_path)
    assert dataset.name == "fashion_mnist"
    assert dataset.train_images.shape == (20, 28, 28, 3)
    assert all(np.array_equal(dataset.test_images[..., channel].numpy(), images) for channel in range(3))
    assert dataset.class_names is not None
    assert dataset.class_names[0] == "T-shirt/top"


@pytest.mark.parametrize("content", [b"", b"xxxx", struct.pack(">IIII", 0x803, 20, 28, 28) + b"\0" * 100])
def test_damaged_fashion_mnist_says_so(tmp_path: Path, content: bytes) -> None:
    write_fashion_mnist(tmp_path)
    dump(tmp_path / "FashionMNIST" / "raw" / "train-images-idx3-ubyte", content)
    text = message(lambda: load_dataset("fashion_mnist", tmp_path))
    assert re.match(rf"FashionMNIST in {tmp_path} is damaged \(.+\): delete it and type --download", text)


def test_svhn_is_read_and_its_class_10_is_the_digit_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = RNG.integers(256, size=(32, 32, 3, 20), dtype=np.uint8)
    labels = (np.arange(20) % 10 + 1).reshape(-1, 1)
    split_list = dict(torchvision.datasets.SVHN.split_list)
    for split in ("train", "test"):
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, {"X": images, "y": labels})
        split_list[split] = ["", path.name, hashlib.md5(path.read_bytes()).hexdigest()]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", split_list)
    dataset = load_dataset("SVHN", tmp_path)
    assert np.array_equal(dataset.train_images.numpy(), images.transpose(3, 0, 1, 2))
    assert dataset.train_labels.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9, 0] * 2
    assert dataset.class_names is None


def test_stl10_is_read_with_its_labelled_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = torchvision.datasets.STL10
    root = tmp_path / cls.base_folder
    images = RNG.integers(256, size=(10, 3, 96, 96), dtype=np.uint8)
    labels = np.arange(1, 11, dtype=np.uint8)
    sums = {name: dump(root / f"{name}_X.bin", images.tobytes()) for name in ("train", "test", "unlabeled")}
    label_sum = dump(root / "train_y.bin", labels.tobytes())
    dump(root / "test_y.bin", labels.tobytes())
    dump(root / "class_names.txt", "\n".join(f"class {i}" for i in range(10)).encode())
    train = [["train_X.bin", sums["train"]], ["train_y.bin", label_sum], ["unlabeled_X.bin", sums["unlabeled"]]]
    monkeypatch.setattr(cls, "train_list", train)
    monkeypatch.setattr(cls, "test_list", [["test_X.bin", sums["test"]], ["test_y.bin", label_sum]])
    dataset = load_dataset("stl-10", tmp_path)
    # The files hold columns before rows.
    assert np.array_equal(dataset.train_images.numpy(), images.transpose(0, 3, 2, 1))
    assert dataset.test_labels.tolist() == list(range(10))
    assert dataset.class_names is not None
    assert len(dataset.class_names) == 10


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
def test_a_missing_data_set_says_where_it_was_looked_for(tmp_path: Path, name: str) -> None:
    text = message(lambda: load_dataset(name, tmp_path / "data"))
    assert f"was not found, or not all of it, in {tmp_path / 'data'}: type --download, or --data DIR" in text


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"digits"}))
@pytest.mark.parametrize("error", [URLError("no route\nto host"), RuntimeError("File not found or corrupted.")])
def test_a_failing_download_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: Exception
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    for module in ("cifar", "mnist", "stl10"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", fail)
    monkeypatch.setattr("torchvision.datasets.svhn.download_url", fail)
    text = message(lambda: load_dataset(name, tmp_path, download=True))
    assert re.match(rf"downloading \w+ to {tmp_path} failed \(.+\): check the network, or type --data DIR", text)


# ---- names


@pytest.mark.parametrize("name", ["fashion_mnist", "FashionMNIST", "Fashion-MNIST", "fashion mnist"])
def test_usual_spellings_are_understood(tmp_path: Path, name: str) -> None:
    assert "FashionMNIST was not found" in message(lambda: load_dataset(name, tmp_path))


@pytest.mark.parametrize(
    ("name", "guess"), [("cifar1000", "did you mean cifar100? "), ("imagenet", ""), ("", ""), ("npy:x", "")]
)
def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, name: str, guess: str) -> None:
    known = "digits, cifar10, cifar100, fashion_mnist, svhn, stl10 and npz:FILE"
    assert message(lambda: load_dataset(name, tmp_path)) == f"unknown data set {name!r}: {guess}there are {known}"


# ---- npz files


def test_an_npz_is_found_from_the_current_folder_and_from_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_npz(tmp_path, **small_arrays())
    absolute = load_dataset(f"npz:{path}", Path("elsewhere"))
    assert (absolute.name, absolute.num_classes, absolute.class_names) == ("npz:small", 3, None)
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


# ---- checks


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
        "train_labels has no class 0, but there are 4 classes, 0 to 3: give each class at least one image",
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


def test_missing_arrays_are_named() -> None:
    arrays = small_arrays()
    del arrays["test_images"], arrays["test_labels"]
    text = message(lambda: from_arrays("mine", arrays))
    assert text == "mine has no test_images, test_labels: name the arrays so; it holds train_images, train_labels"
    assert message(lambda: from_arrays("mine", {})).endswith("found nothing")


# ---- fingerprints, subsets, writing


def small() -> Dataset:
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
