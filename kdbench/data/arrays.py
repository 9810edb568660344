"""A data set as named NumPy arrays, and the checks that they pass before training.

Each function returns the array in its final form, or raises ``UserError`` that names the array by ``what``.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from kdbench.errors import UserError

Arrays = Mapping[str, npt.NDArray[Any]]
"""The four arrays of `ARRAY_NAMES`, or with ``val`` for ``test``, and ``class_names`` where there are any."""
ARRAY_NAMES: Final = ("train_images", "train_labels", "test_images", "test_labels")
Renumbering = Literal["from1", "sorted"]
"""How labels are numbered from 0: less 1, or by their place among all labels in ascending order."""
RENUMBERINGS: Final[tuple[Renumbering, ...]] = get_args(Renumbering)
_MAX_LISTED = 12
"""Names of arrays that a message lists."""


def array_names(names: Collection[str]) -> tuple[str, ...]:
    """Return the names of the four arrays, where these names exist: ``val_*`` if there are no ``test_images``."""
    validated = "val_images" in names and "test_images" not in names
    return tuple(name.replace("test", "val") for name in ARRAY_NAMES) if validated else ARRAY_NAMES


def require_arrays(what: str, names: Collection[str]) -> None:
    """Raise ``UserError`` that lists the names unless the four arrays are there."""
    if missing := [name for name in array_names(names) if name not in names]:
        present = listed(sorted(names)) or "nothing"
        raise UserError(f"{what} has no {', '.join(missing)}: name the arrays so; it holds {present}")


def listed(names: Sequence[str]) -> str:
    """Return names of arrays for a message: the first few, without control characters."""
    printable = [name if name.isprintable() else ascii(name) for name in names[:_MAX_LISTED]]
    return ", ".join(printable) + (f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else "")


def image_array(what: str, images: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return images as contiguous uint8 ``(N, H, W, 3)``; takes grey ones, ``(N, H, W)``, too."""
    if images.dtype != np.uint8:
        raise UserError(f"{what} is {images.dtype}{_and_nan(images)}: give values from 0 to 255 as uint8")
    if images.ndim == 3:
        images = np.repeat(images[..., np.newaxis], 3, axis=3)
    if images.ndim != 4 or images.shape[3] != 3:
        raise UserError(f"{what} has the shape {images.shape}: give (N, H, W, 3), or (N, H, W) for grey images")
    if images.size == 0:
        raise UserError(f"{what} has the shape {images.shape}: give at least one image of at least one pixel")
    return np.ascontiguousarray(images)


def label_array(what: str, labels: npt.NDArray[Any], num_images: int) -> npt.NDArray[np.int64]:
    """Return labels as int64 ``(N,)``; takes ``(N, 1)``, too."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dtype.kind not in "iu":
        raise UserError(f"{what} is {labels.dtype}{_and_nan(labels)}: give class numbers as int64")
    if labels.ndim != 1:
        raise UserError(f"{what} has the shape {labels.shape}: give (N,), one class number for each image")
    if len(labels) != num_images:
        raise UserError(f"{what} has {len(labels)} entries for {num_images} images: give one for each image")
    return labels.astype(np.int64)


def name_tuple(what: str, names: npt.NDArray[Any]) -> tuple[str, ...]:
    """Return class names, an array of texts ``(K,)``, as a tuple."""
    if names.dtype.kind != "U" or names.ndim != 1:
        raise UserError(f"{what} is {names.dtype} of shape {names.shape}: give one text for each class, (K,)")
    return tuple(names.tolist())


def renumbered(
    where: str,
    rule: Renumbering,
    train_labels: npt.NDArray[np.int64],
    test_labels: npt.NDArray[np.int64],
    names: tuple[str, ...] | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], tuple[str, ...]]:
    """Number labels from 0, and return those of training and test images, and the class names by the new numbers.

    Class names of ``from1`` are those of 1, 2, ...; of ``sorted``, as many as labels that occur, in their order, or one
    for each number from 0. Where there are no names, a class is called by its label of before.

    Raises
    ------
    UserError
        The labels or names do not fit the rule.
    """
    values = np.unique(train_labels)
    if len(strange := np.setdiff1d(test_labels, values)):
        raise UserError(f"{where}: {strange[0]} is the label of a test image, but of no training image: give both")
    if rule == "from1":
        if values[0] != 1:
            raise UserError(f"{where}: train_labels begins at {values[0]}, not at 1: leave out labels=from1")
        return train_labels - 1, test_labels - 1, names or tuple(map(str, range(1, values[-1] + 1)))
    if names and len(names) != len(values):
        if not 0 <= values[0] <= values[-1] < len(names):
            raise UserError(
                f"{where}: there are {len(names)} class_names for {len(values)} labels from {values[0]} to "
                f"{values[-1]}: give one for each label that occurs, or for each number from 0"
            )
        names = tuple(names[value] for value in values)
    train_labels, test_labels = (np.searchsorted(values, labels) for labels in (train_labels, test_labels))
    return train_labels, test_labels, names or tuple(map(str, values))


def renumbering_for(labels: npt.NDArray[np.int64]) -> tuple[Renumbering, str] | None:
    """Return the rule that numbers labels from 0 without gaps, and what it does; None where they are numbered so."""
    values = np.unique(labels)
    if np.array_equal(values, np.arange(1, len(values) + 1)):
        return "from1", "takes 1 from each label"
    gapless = np.array_equal(values, np.arange(len(values)))
    return None if gapless else ("sorted", "numbers the labels that occur in their order")


def check_classes(what: str, labels: npt.NDArray[np.int64], num_classes: int, remedy: str = "") -> None:
    """Raise ``UserError`` unless the labels are in [0, num_classes) and every class occurs; it ends with a remedy."""
    classes = f"there are {num_classes} classes, 0 to {num_classes - 1}"
    present = np.unique(labels)
    low, high = present[0], present[-1]
    if low < 0 or high >= num_classes:
        raise UserError(f"{what} goes from {low} to {high}, but {classes}: number them from 0 without gaps{remedy}")
    if len(present) < num_classes:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        empty = gaps[0] if len(gaps) else len(present)
        raise UserError(f"{what} has no class {empty}, but {classes}: give each class at least one image{remedy}")


def _and_nan(array: npt.NDArray[Any]) -> str:
    return " and holds NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
