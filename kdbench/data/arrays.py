"""A data set as named NumPy arrays, and the checks that they pass before training.

Each function returns the array in its final form, or raises ``UserError`` that names the array by ``what``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from kdbench.errors import UserError

Arrays = Mapping[str, npt.NDArray[Any]]
"""The four arrays of `ARRAY_NAMES`, and ``class_names`` where there are any."""
ARRAY_NAMES: Final = ("train_images", "train_labels", "test_images", "test_labels")
_MAX_LISTED = 12
"""Names of arrays that a message lists."""


def require_arrays(what: str, names: Collection[str], wanted: Iterable[str] = ARRAY_NAMES) -> None:
    """Raise ``UserError`` that lists the names unless all that are wanted are there."""
    if missing := [name for name in wanted if name not in names]:
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


def check_classes(what: str, labels: npt.NDArray[np.int64], num_classes: int) -> None:
    """Raise ``UserError`` unless the labels are in [0, num_classes) and every class occurs."""
    classes = f"there are {num_classes} classes, 0 to {num_classes - 1}"
    present = np.unique(labels)
    low, high = present[0], present[-1]
    if low < 0 or high >= num_classes:
        raise UserError(f"{what} goes from {low} to {high}, but {classes}: number them from 0 without gaps")
    if len(present) < num_classes:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        empty = gaps[0] if len(gaps) else len(present)
        raise UserError(f"{what} has no class {empty}, but {classes}: give each class at least one image")


def _and_nan(array: npt.NDArray[Any]) -> str:
    return " and holds NaN" if array.dtype.kind == "f" and np.isnan(array).any() else ""
