"""The predictions for the test images that a cell's last evaluation leaves, in a file beside its record.

The file is an ``.npz`` archive of plain arrays, which any program reads. Legend: ``N`` test images in the order of the
data set, ``K`` classes.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdbench.errors import UserError
from kdbench.experiment.folder import PREDICTIONS, RECORD
from kdbench.utils.files import sha256_of, write_atomic
from kdbench.utils.reading import Missing, Unreadable, opened, read_object
from kdbench.utils.text import one_line


@dataclass(frozen=True, slots=True, kw_only=True)
class Predictions:
    """What a student says about each test image after its last epoch."""

    labels: NDArray[np.int64]
    """``(N,)``, the true classes."""
    predicted: NDArray[np.int64]
    """``(N,)``, the classes of the largest logits before they were rounded."""
    logits: NDArray[np.float16]
    """``(N, K)``, rounded to half precision; what is beyond its range is its largest value."""

    @property
    def num_classes(self) -> int:
        """``K``."""
        return int(self.logits.shape[1])

    def confusion(self) -> NDArray[np.int64]:
        """Count images by their true and their predicted class: rows are true, ``(K, K)``."""
        size = self.num_classes
        return np.bincount(self.labels * size + self.predicted, minlength=size**2).reshape(size, size)


def size_of(num_images: int, num_classes: int) -> int:
    """Return the size of a file of predictions, but for some hundred bytes of heads."""
    return num_images * (2 * num_classes + 16)


def write_predictions(folder: Path, predictions: Predictions, *, permit: Callable[[], None] = lambda: None) -> str:
    """Write the predictions of a cell, atomically; equal ones give equal bytes.

    Returns
    -------
    str
        SHA-256 of the file, 64 hexadecimal digits, for the cell's record.

    Raises
    ------
    UserError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez(buffer, labels=predictions.labels, predicted=predictions.predicted, logits=predictions.logits)
    content = buffer.getbuffer()
    write_atomic(folder / PREDICTIONS, content, permit=permit)
    return hashlib.sha256(content).hexdigest()


def read_predictions(folder: Path) -> Predictions | None:
    """Return the predictions in a cell's folder, or None where it has no such file.

    Where the folder has a record, the file must be the one that it was written with.

    Raises
    ------
    UserError
        The file is damaged, or not the one of the record.
    """
    path, record = folder / PREDICTIONS, read_object(folder / RECORD)
    try:
        with opened(path) as file:
            if not zipfile.is_zipfile(file):  # first: to hash a file of any size takes long
                raise Unreadable("is damaged (not an .npz file, or only the beginning of one)")
            if record and sha256_of(path) != record.get("predictions"):
                raise Unreadable("is not the one that the record beside it was written with")
            return _read(file)
    except Missing:
        return None
    except Unreadable as error:
        raise UserError(f"{path} {error}: delete it to do without it") from None


def _read(file: BinaryIO) -> Predictions:
    """Read the arrays; nothing is unpickled.

    Raises
    ------
    Unreadable
        They are not those of predictions.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.zip.infolist()):
                raise ValueError("its arrays are compressed")  # they could unpack to any size
            labels, predicted, logits = (np.asarray(archive[name]) for name in ("labels", "predicted", "logits"))
    except (KeyError, ValueError, OSError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        raise Unreadable(f"is damaged ({one_line(error)})") from None
    if [array.dtype for array in (labels, predicted, logits)] != [np.int64, np.int64, np.float16]:
        raise Unreadable("is damaged (its arrays have other types)")
    if logits.ndim != 2 or not logits.size or labels.shape != logits.shape[:1] or predicted.shape != labels.shape:
        raise Unreadable("is damaged (the shapes of its arrays do not match)")
    if min(labels.min(), predicted.min()) < 0 or max(labels.max(), predicted.max()) >= logits.shape[1]:
        raise Unreadable("is damaged (a class is out of range)")
    if not np.isfinite(logits).all():
        raise Unreadable("is damaged (a logit is not finite)")
    return Predictions(labels=labels, predicted=predicted, logits=logits)
