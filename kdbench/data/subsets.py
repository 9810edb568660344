"""Parts of data sets, and files of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdbench.data.arrays import ARRAY_NAMES
from kdbench.data.datasets import ArrayDataset
from kdbench.data.npz import write_npz
from kdbench.errors import UserError


def subset(dataset: ArrayDataset, train_per_class: int | None, test_per_class: int | None) -> ArrayDataset:
    """Return the first so many images of each class, or all images for None, kept in the order of the data set.

    Raises
    ------
    UserError
        When a class has fewer images, or a count is not positive.
    """
    parts: dict[str, Tensor] = {}
    for split, count in (("train", train_per_class), ("test", test_per_class)):
        if count is None:
            continue
        labels: Tensor = getattr(dataset, f"{split}_labels")
        fewest, smallest = map(int, torch.bincount(labels, minlength=dataset.num_classes).min(0))
        if not 1 <= count <= fewest:
            raise UserError(
                f"{dataset.name} has no {count} {split} images per class: give 1 to {fewest}, all that class "
                f"{smallest} has, or all for every image"
            )
        firsts = [torch.nonzero(labels == number).flatten()[:count] for number in range(dataset.num_classes)]
        keep = torch.cat(firsts).sort().values
        parts |= {f"{split}_images": getattr(dataset, f"{split}_images")[keep], f"{split}_labels": labels[keep]}
    counts = "+".join("all" if count is None else str(count) for count in (train_per_class, test_per_class))
    name = f"{dataset.name}[{counts}]"
    return replace(dataset, name=name, renumbering=None, **parts)  # type: ignore[arg-type]


def save_npz(dataset: ArrayDataset, path: Path) -> None:
    """Write a data set as a file for ``npz:FILE``; see :func:`kdbench.data.npz.write_npz`."""
    arrays = {name: getattr(dataset, name).numpy() for name in ARRAY_NAMES}
    if dataset.class_names is not None:
        arrays["class_names"] = np.array(dataset.class_names)
    write_npz(path, arrays)
