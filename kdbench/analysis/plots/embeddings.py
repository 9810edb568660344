"""Embed penultimate features in the plane (t-SNE), and keep the points in the folder of their network.

Legend: ``N`` test images that are shown, ``D`` features.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from kdbench.utils.files import write_atomic
from kdbench.utils.reading import Unreadable, opened
from kdbench.utils.text import one_line

EMBEDDING = "tsne.npz"
"""File in the folder of a network."""
NUM_CLASSES, PER_CLASS = 10, 100
"""The images shown: of the first classes that have some, so many of each, the first in the data set's order."""
PERPLEXITY = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Test images as points of a plane, of one network."""

    points: NDArray[np.float32]
    """``(N, 2)``."""
    labels: NDArray[np.int64]
    """``(N,)``."""
    num_classes: int
    """Of the whole test set."""
    weights: str
    """Hash of the weights that the features come from."""


def shown_images(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the places of the images that are embedded: the first images of the first classes, ascending."""
    classes = np.unique(labels)[:NUM_CLASSES]
    return np.sort(np.concatenate([np.flatnonzero(labels == each)[:PER_CLASS] for each in classes]))


def embed(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Embed features ``(N, D)`` in the plane, ``(N, 2)`` (van der Maaten and Hinton, JMLR 2008).

    Barnes-Hut t-SNE of scikit-learn with Euclidean distances, perplexity 30 (less for few images) and its other
    defaults, from the first two principal components; equal features give equal points on one machine.
    """
    from sklearn.manifold import TSNE  # noqa: PLC0415
    from threadpoolctl import threadpool_limits  # noqa: PLC0415

    perplexity = min(PERPLEXITY, (len(features) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=0)
    with threadpool_limits(1):  # the order of sums depends on threads
        points: NDArray[np.float32] = tsne.fit_transform(features.astype(np.float32)).astype(np.float32)
    return points


def write_embedding(folder: Path, embedding: Embedding) -> None:
    """Write an embedding into the folder of its network, atomically."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        points=embedding.points,
        labels=embedding.labels,
        num_classes=np.int64(embedding.num_classes),
        weights=np.array(embedding.weights),
    )
    write_atomic(folder / EMBEDDING, buffer.getbuffer())


def read_embedding(folder: Path, weights: str) -> Embedding | None:
    """Return the embedding in a folder; None without one, or if it is of other weights or damaged.

    Such a file is made again: it holds nothing that cannot be computed.
    """
    try:
        with opened(folder / EMBEDDING) as file:
            embedding = _read(file)
    except Unreadable:
        return None
    return embedding if embedding.weights == weights else None


def _read(file: BinaryIO) -> Embedding:
    """Read the arrays; nothing is unpickled.

    Raises
    ------
    Unreadable
        They are not those of an embedding.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            points, labels, num_classes, weights = (
                np.asarray(archive[name]) for name in ("points", "labels", "num_classes", "weights")
            )
    except (KeyError, ValueError, OSError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile) as error:
        raise Unreadable(f"is damaged ({one_line(error)})") from None
    fits = points.shape == (*labels.shape, 2) and labels.ndim == 1 and num_classes.ndim == weights.ndim == 0
    types = [array.dtype for array in (points, labels, num_classes)]
    if not fits or types != [np.float32, np.int64, np.int64]:
        raise Unreadable("is damaged (its arrays are others)")
    if not len(labels) or not np.isfinite(points).all() or len(np.unique(labels)) > NUM_CLASSES:
        raise Unreadable("is damaged (its values are out of range)")
    return Embedding(points=points, labels=labels, num_classes=int(num_classes), weights=str(weights))
