"""Measure mean and standard deviation of image files once, and keep them beside the listing.

Measured are `MOST` images at equal distances in the listing, which is sorted by class, or all where there are not more:
for a million photographs, the means of two such samples differ by about 0.001. The pixels are those of the whole
images as decoded, before any crop. Each image counts alike, as it does in training, where all are cut to one size.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np

from kdbench.data.decoding.decode import quietly, read_image
from kdbench.data.files.listing import ImageFiles, Listing
from kdbench.data.files.names import Progress, Report
from kdbench.data.images import Normalisation
from kdbench.data.statistics import Moments, moments, normalisation
from kdbench.utils.files import NotWritten, write_atomic
from kdbench.utils.reading import read_object
from kdbench.utils.resources import owned_cpus
from kdbench.utils.values import number

MOST: Final = 20_000
"""Images that are measured at most."""
_CHUNK = 16
"""Images that a thread measures in one go."""


def measured(files: ImageFiles, report: Report = lambda _: None) -> Normalisation:
    """Return mean and standard deviation of the training images, measured now or earlier.

    Raises
    ------
    UserError
        An image cannot be used, or all pixels have one value.
    OSError
        An image cannot be read.
    """
    count = min(MOST, len(files.train))
    described = {"fingerprint": files.fingerprint, "images": count}
    place = files.kept_in and files.kept_in.with_name(f"{files.kept_in.stem}-measured.json")
    if place and (numbers := _kept(place, described)):
        return numbers
    progress = Progress(report, f"measuring mean and deviation of {files.name}, once for all later jobs")
    parts = []
    for part in _all_moments(files.train, count):
        parts += part
        progress(len(parts), count)
    mean, std = normalisation(files.name, parts)
    if place:
        text = json.dumps(described | {"mean": mean, "std": std}, indent=1)
        with contextlib.suppress(NotWritten):  # then later jobs measure again
            write_atomic(place, f"{text}\n")
    return mean, std


def _kept(place: Path, described: dict[str, object]) -> Normalisation | None:
    """Return the numbers that a file has for these images; None where it has none."""
    values = read_object(place)
    if described.items() <= values.items():
        try:
            mean, std = (tuple(number(value, 1e-12, 1) for value in values[name]) for name in ("mean", "std"))
        except (KeyError, TypeError, ValueError):
            return None
        if len(mean) == len(std) == 3:
            return mean, std
    return None


def _all_moments(listing: Listing, count: int) -> Iterator[list[Moments]]:
    """Yield the moments of so many images at equal distances, in their order."""

    def part(chunk: range) -> list[Moments]:
        indices = [place * len(listing) // count for place in chunk]
        histograms = [read_image(listing, index).histogram() for index in indices]
        return [moments(np.array(histogram, np.int64).reshape(3, 256)) for histogram in histograms]

    places = range(count)
    with quietly(), ThreadPoolExecutor(owned_cpus()) as pool:  # Pillow decodes outside of Python's lock
        yield from pool.map(part, [places[start : start + _CHUNK] for start in places[::_CHUNK]])
