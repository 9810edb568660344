"""Read the data sets known by name: from scikit-learn's wheel, or from files in torchvision's layout."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdbench.data.arrays import ARRAY_NAMES, Arrays
from kdbench.errors import UserError
from kdbench.utils.streams import generator
from kdbench.utils.text import one_line


def digits() -> Arrays:
    """Return scikit-learn's 1,797 grey 8 x 8 digits as arrays, the values 0..16 scaled to 0..255.

    The 500 test images are 50 of each class, drawn once and for all; the other 1,297 are for training.
    """
    from sklearn.datasets import load_digits  # noqa: PLC0415 - slow, and only this data set needs it

    bunch = load_digits()
    images, labels = np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target
    is_test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        of_digit = np.flatnonzero(labels == digit)
        drawn = torch.randperm(len(of_digit), generator=generator(0, "digits", "test", digit))[:50]
        is_test[of_digit[drawn.numpy()]] = True
    return _arrays(images[~is_test], labels[~is_test], images[is_test], labels[is_test], map(str, range(10)))


def torchvision(class_name: str, folder: Path, *, download: bool) -> Arrays:
    """Return the training and test split of a torchvision data set as arrays.

    Parameters
    ----------
    class_name
        Of ``torchvision.datasets``: ``CIFAR10``, ``CIFAR100``, ``FashionMNIST``, ``SVHN`` or ``STL10``.
    folder
        Its ``root``.
    download
        Whether to fetch what is missing.

    Raises
    ------
    UserError
        For files that are missing or damaged, and for a failed download.
    """
    from torchvision import datasets  # noqa: PLC0415 - slow, and digits and npz: do without

    cls = getattr(datasets, class_name)
    names_split = class_name in {"SVHN", "STL10"}
    options: list[dict[str, Any]]
    options = [{"split": "train"}, {"split": "test"}] if names_split else [{"train": True}, {"train": False}]
    try:
        with warnings.catch_warnings():
            # The pickles of CIFAR spell an argument in a way that newer NumPy versions warn about.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            splits = [cls(folder, download=download, **option) for option in options]
    except _ERRORS as error:
        raise UserError(_remedy(class_name, folder.absolute(), download, error)) from None
    images = [np.asarray(split.data) for split in splits]
    if not names_split:
        names = splits[0].classes
        return _arrays(images[0], splits[0].targets, images[1], splits[1].targets, names)
    # SVHN and STL-10 keep their channels first, call targets labels, and need not have class names.
    images = [image.transpose(0, 2, 3, 1) for image in images]
    return _arrays(images[0], splits[0].labels, images[1], splits[1].labels, getattr(splits[0], "classes", None))


_ERRORS = (
    *(OSError, HTTPException, RuntimeError, ValueError),
    *(AssertionError, LookupError, EOFError, pickle.UnpicklingError),
)


def _remedy(class_name: str, folder: Path, download: bool, error: Exception) -> str:
    other = "--data DIR with a folder that has it"
    if download and isinstance(error, OSError | HTTPException | RuntimeError):
        return f"downloading {class_name} to {folder} failed ({one_line(error)}): check the network, or type {other}"
    if "not found" in str(error):
        return f"{class_name} was not found, or not all of it, in {folder}: type --download, or {other}"
    reason = one_line(error)
    return f"{class_name} in {folder} is damaged ({reason}): delete it and type --download, or type {other}"


def _arrays(
    train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, names: Iterable[str] | None
) -> Arrays:
    parts = (train_images, train_labels, test_images, test_labels)
    arrays = {key: np.asarray(part) for key, part in zip(ARRAY_NAMES, parts, strict=True)}
    return arrays if names is None else arrays | {"class_names": np.array(list(names))}
