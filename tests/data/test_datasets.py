"""Data sets: loading, checking, cutting down and writing."""

from __future__ import annotations

import hashlib
import pickle
import re
import struct
import sys
import warnings
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torch
import torchvision.datasets
from small_data import RNG, message

from kdbench.data.datasets import DATASETS, load_dataset


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


@pytest.mark.parametrize("name", ["fashion_mnist", "FashionMNIST", "Fashion-MNIST", "fashion mnist"])
def test_usual_spellings_are_understood(tmp_path: Path, name: str) -> None:
    assert "FashionMNIST was not found" in message(lambda: load_dataset(name, tmp_path))


@pytest.mark.parametrize(
    ("name", "guess"), [("cifar1000", "did you mean cifar100? "), ("imagenet", ""), ("", ""), ("npy:x", "")]
)
def test_an_unknown_name_lists_the_known_ones(tmp_path: Path, name: str, guess: str) -> None:
    known = "digits, cifar10, cifar100, fashion_mnist, svhn, stl10 and npz:FILE"
    assert message(lambda: load_dataset(name, tmp_path)) == f"unknown data set {name!r}: {guess}there are {known}"
