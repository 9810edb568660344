"""Data sets: small labelled image collections that live in memory as uint8.

Legend: ``N`` images of a split, ``H`` x ``W`` pixels, ``K`` classes.
"""

from __future__ import annotations

import difflib
import hashlib
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from kdbench.data import sources
from kdbench.data.arrays import (
    ARRAY_NAMES,
    Arrays,
    Renumbering,
    array_names,
    check_classes,
    image_array,
    label_array,
    name_tuple,
    renumbered,
    renumbering_for,
    require_arrays,
)
from kdbench.data.images import Dataset, DataShape, Normalisation
from kdbench.data.npz import LABELS, NPZ, find_npz, npz_word, read_npz
from kdbench.data.resident import ResidentEvaluation, ResidentImages
from kdbench.data.statistics import count_values, moments, normalisation
from kdbench.data.views import Augmentation
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.utils.device import memory_format
from kdbench.utils.names import squeeze

DATASETS: Final[Mapping[str, Callable[[Path, bool], Arrays]]] = MappingProxyType(
    {
        "digits": lambda folder, download: sources.digits(),  # noqa: ARG005 - it is on every machine
        "cifar10": lambda folder, download: sources.torchvision("CIFAR10", folder, download=download),
        "cifar100": lambda folder, download: sources.torchvision("CIFAR100", folder, download=download),
        "fashion_mnist": lambda folder, download: sources.torchvision("FashionMNIST", folder, download=download),
        "svhn": lambda folder, download: sources.torchvision("SVHN", folder, download=download),
        "stl10": lambda folder, download: sources.torchvision("STL10", folder, download=download),
    }
)
"""The known data sets by name, ``(folder, download) -> arrays``."""
EMBEDDED: Final = frozenset({"digits"})
"""Those that come with a package that kdbench needs, and are read from no folder."""


SHAPES: Final[Mapping[str, DataShape]] = MappingProxyType(
    {
        "digits": DataShape(1297, (8, 8), 10),
        "cifar10": DataShape(50_000, (32, 32), 10),
        "cifar100": DataShape(50_000, (32, 32), 100),
        "fashion_mnist": DataShape(60_000, (28, 28), 10),
        "svhn": DataShape(73_257, (32, 32), 10),
        "stl10": DataShape(5_000, (96, 96), 10),
        "imagenet": DataShape(1_281_167, (224, 224), 1000),
        "tinyimagenet": DataShape(100_000, (64, 64), 200),
    }
)
"""Shapes of the data sets that are known by name."""


@final
@dataclass(frozen=True, eq=False)
class ArrayDataset(Dataset):
    """A data set in memory, on the CPU."""

    name: str
    train_images: Tensor
    """``(N, H, W, 3)``, uint8."""
    train_labels: Tensor
    test_images: Tensor
    """As high and wide as the training images, uint8."""
    test_labels: Tensor
    num_classes: int
    class_names: tuple[str, ...] | None = None
    unused: tuple[str, ...] = ()
    renumbering: Renumbering | None = None
    """The rule by which the labels of its file became these."""
    side: int | None = None
    """Side to which networks are given the images, in pixels; None where they are given as they are."""

    @property
    def shape(self) -> DataShape:
        """Shape of the training images, as networks are given them."""
        num_images, height, width, _ = self.train_images.shape
        return DataShape(num_images, (self.side, self.side) if self.side else (height, width), self.num_classes)

    def with_side(self, side: int) -> ArrayDataset:
        """Return the same images, to be resized to squares of another side."""
        height, width = self.train_images.shape[1:3]
        if height != width:
            raise UserError(
                f"images of {height} x {width} pixels cannot be resized to {side} x {side}: they are not square"
            )
        return replace(self, side=None if side == height else side)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the four arrays, types and shapes and a renumbering included: 64 hexadecimal digits."""
        digest = hashlib.sha256(f"labels {self.renumbering}\n".encode() if self.renumbering else b"")
        for name in ARRAY_NAMES:
            array = np.ascontiguousarray(getattr(self, name).numpy())
            digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
            digest.update(array.data)
        return digest.hexdigest()

    @cached_property
    def measured(self) -> Normalisation:
        """Mean and standard deviation of all pixels of the training images."""
        return normalisation(self.name, [moments(count_values(self.train_images.numpy()))])

    def training(self, protocol: Protocol, device: torch.device) -> ResidentImages:
        """Return the training images on the device.

        Raises
        ------
        UserError
            The protocol is for image files.
        """
        rules = protocol.rules.augmentation
        if rules.crop != "pad":
            raise UserError(
                f"protocol {protocol.name} crops and resizes image files, and {self.name} is an array: give --data "
                "folder:DIR, or choose a protocol for small images"
            )
        layout = memory_format(device, protocol.precision)
        return ResidentImages(self.train_images, Augmentation.of(rules), device, layout, self.side)

    def evaluation(self, device: torch.device) -> ResidentEvaluation:
        """Return the test images on the device."""
        return ResidentEvaluation(self.test_images, device, self.side)

    def unaugmented(self, index: Tensor, device: torch.device) -> ResidentEvaluation:
        """Return some of the training images on the device, as they are."""
        return ResidentEvaluation(self.train_images[index], device, self.side)


def load_dataset(name: str, folder: Path, *, download: bool = False) -> ArrayDataset:
    """Load a data set into memory.

    Parameters
    ----------
    name
        One of `DATASETS` in any usual spelling (``CIFAR-100``), or ``npz:FILE``, a path from the current folder or
        else from ``folder``; `from_arrays` says what the file holds. ``,labels=from1`` and ``,labels=sorted`` behind
        it number its labels from 0, see :func:`kdbench.data.arrays.renumbered`.
    folder
        Where data sets are kept, in torchvision's layout.
    download
        Whether to fetch what is missing from the data set's own site.

    Raises
    ------
    UserError
        For an unknown name, data that are missing or damaged, a failed download, arrays that do not fit.
    """
    if npz := npz_word(name):
        file, renumbering = npz
        path = find_npz(file, folder)
        arrays, unused = read_npz(path)
        dataset = from_arrays(
            f"{NPZ}{path.name}", arrays, where=str(path), word=f"{NPZ}{file}", renumbering=renumbering
        )
        return replace(dataset, unused=unused)
    key = dataset_name(name)
    return from_arrays(key, DATASETS[key](folder, download))


def dataset_name(name: str) -> str:
    """Return the registered spelling of a data set's name.

    Raises
    ------
    UserError
        There is none; the message lists the known ones.
    """
    names = {squeeze(each): each for each in DATASETS}
    key = squeeze(name)
    if key in names:
        return names[key]
    close = difflib.get_close_matches(key, names, n=1)
    guess = names[close[0]] if close else ""
    if name.lower().endswith(".npz"):
        guess = shlex.quote(NPZ + name)
    hint = f"did you mean {guess}? " if guess else ""
    raise UserError(f"unknown data set {name!r}: {hint}there are {', '.join(DATASETS)} and npz:FILE")


def from_arrays(
    name: str,
    arrays: Arrays,
    *,
    where: str | None = None,
    word: str = "",
    renumbering: Renumbering | None = None,
) -> ArrayDataset:
    """Check arrays and make a data set of them.

    Parameters
    ----------
    name
        Of the data set.
    arrays
        ``train_images`` and ``test_images``: uint8 ``(N, H, W, 3)``, or grey ``(N, H, W)``; ``train_labels`` and
        ``test_labels``: integers ``(N,)`` from 0, or ``(N, 1)``; optionally ``class_names``: texts ``(K,)``. Without
        ``test_images``, ``val_images`` and ``val_labels`` are taken for the test.
    where
        Begins every message; the name where not given.
    word
        What a user types for the data, for messages; empty where it takes no renumbering.
    renumbering
        Of the labels.

    Raises
    ------
    UserError
        For a missing array, a wrong type or shape, labels out of range, fewer than two classes, a class without an
        image in either set, or test images of another size than the training images.
    """
    where = where or name
    require_arrays(where, arrays)
    train_images = image_array(f"{where}: train_images", arrays["train_images"])
    train_labels = label_array(f"{where}: train_labels", arrays["train_labels"], len(train_images))
    _, _, test_name, test_labels_name = array_names(arrays)
    test_images = image_array(f"{where}: {test_name}", arrays[test_name])
    test_labels = label_array(f"{where}: {test_labels_name}", arrays[test_labels_name], len(test_images))
    (height, width), (test_height, test_width) = train_images.shape[1:3], test_images.shape[1:3]
    if (height, width) != (test_height, test_width):
        raise UserError(
            f"{where}: train_images are {height} x {width} pixels, but {test_name} {test_height} x {test_width}: "
            "give both the same size"
        )
    names = name_tuple(f"{where}: class_names", arrays["class_names"]) if "class_names" in arrays else None
    if renumbering:
        train_labels, test_labels, names = renumbered(where, renumbering, train_labels, test_labels, names)
        name = f"{name}{LABELS}{renumbering}"
    remedy = ""
    if word and not renumbering and (fitting := renumbering_for(train_labels)):
        rule, effect = fitting
        remedy = f", or type {shlex.quote(f'{word}{LABELS}{rule}')}, which {effect}"
    low, high = int(train_labels.min()), int(train_labels.max())
    if names is None and low > 0:
        raise UserError(f"{where}: train_labels go from {low} to {high}: number the classes from 0{remedy}")
    num_classes = high + 1 if names is None else len(names)
    check_classes(f"{where}: train_labels", train_labels, num_classes, remedy)
    check_classes(f"{where}: {test_labels_name}", test_labels, num_classes)
    if num_classes < 2:
        raise UserError(f"{where}: train_labels has one class: give two or more")
    return ArrayDataset(
        name=name,
        train_images=torch.from_numpy(train_images),
        train_labels=torch.from_numpy(train_labels),
        test_images=torch.from_numpy(test_images),
        test_labels=torch.from_numpy(test_labels),
        num_classes=num_classes,
        class_names=names,
        renumbering=renumbering,
    )
