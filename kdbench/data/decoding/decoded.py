"""Image files of one size, decoded once into memory."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from kdbench.data.arrays import Arrays
from kdbench.data.datasets import ArrayDataset, from_arrays
from kdbench.data.decoding.decode import quietly, read_image
from kdbench.data.files.listing import ImageFiles, Listing
from kdbench.data.files.names import Progress, Report
from kdbench.data.npz import require_memory
from kdbench.errors import UserError
from kdbench.utils.resources import owned_cpus

_CHUNK = 64
"""Images that a thread decodes in one go."""


def decoded(files: ImageFiles, report: Report = lambda _: None) -> ArrayDataset:
    """Decode all images.

    Raises
    ------
    UserError
        An image cannot be used or has another size than the first one, or there is not memory for all of them.
    """
    with quietly():
        size = np.asarray(read_image(files.train, 0)).shape
    require_memory(files.name, (len(files.train) + len(files.test)) * math.prod(size))
    progress = Progress(report, f"decoding {files.name}")
    arrays: Arrays = {
        "train_images": _images(files.train, size, progress),
        "train_labels": files.train.labels,
        "test_images": _images(files.test, size, progress),
        "test_labels": files.test.labels,
        "class_names": np.array(files.class_names),
    }
    return from_arrays(files.name, arrays)


def _images(listing: Listing, size: tuple[int, ...], progress: Progress) -> npt.NDArray[np.uint8]:
    images = np.empty((len(listing), *size), np.uint8)

    def fill(chunk: range) -> int:
        for index in chunk:
            image = np.asarray(read_image(listing, index))
            if image.shape != size:
                (height, width), (first_height, first_width) = image.shape[:2], size[:2]
                raise UserError(
                    f"{listing.name(index)} is {height} x {width} pixels, and others {first_height} x {first_width}: "
                    'this protocol keeps images in memory, where all have one size; choose one with crop = "resized"'
                )
            images[index] = image
        return chunk.stop

    indices = range(len(listing))
    chunks = [indices[start : start + _CHUNK] for start in indices[::_CHUNK]]
    with quietly(), ThreadPoolExecutor(owned_cpus()) as pool:  # Pillow decodes outside of Python's lock
        for done in pool.map(fill, chunks):
            progress(done, len(listing))
    return images
