"""What a method computes once over the training set before the first step: kept by teacher in the folder of runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from kdbench.config import base_of
from kdbench.data.batches import Batches
from kdbench.experiment.cell import Cell
from kdbench.experiment.registry import load_method
from kdbench.method import Method, Outputs, Part
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.sources import NetworkSource, TeacherSource
from kdbench.utils.files import NotWritten, write_atomic

FOLDER = "teacher-surveys"


def fill_surveyed(method: Method, cell: Cell, batches: Batches, source: TeacherSource | None, runs: Path) -> None:
    """Fill the buffers that a method computes over the training set, if it does; from a file where there is one.

    Raises
    ------
    ValueError
        There is no network that teaches.
    """
    parts = load_method(cell.method).surveys(cell.settings.config)
    if not parts:
        return
    if not isinstance(source, NetworkSource):
        raise ValueError(f"there is no network that teaches: {source.absent if source else 'the cell has no teacher'}")
    path = runs / FOLDER / f"{'-'.join(_methods(cell))}-{_key(cell, batches, source, parts)}.safetensors"
    values = _read(path)
    if values is None:
        values = method.survey(_outputs(batches, source, parts), batches.labels)
        with contextlib.suppress(NotWritten):  # a file saves time, and nothing else
            write_atomic(path, safetensors.torch.save({key: value.cpu().contiguous() for key, value in values.items()}))
    for name, value in values.items():
        method.get_buffer(name).copy_(value)


def _outputs(batches: Batches, source: NetworkSource, parts: frozenset[Part]) -> Callable[[Tensor], Iterator[Outputs]]:
    """Return what runs the teacher on training images, by their places among those that are trained on."""
    dataset, live = batches.data.dataset, source.live
    sized = dataset.with_side(live.side) if live.side else dataset

    def outputs(places: Tensor) -> Iterator[Outputs]:
        for _, images in sized.unaugmented(batches.trained[places], batches.data.device).batches():
            yield live.outputs(images, parts)

    return outputs


def _read(path: Path) -> Mapping[str, Tensor] | None:
    """Return what a file holds; None where there is none that can be read."""
    try:
        return safetensors.torch.load(path.read_bytes())
    except (OSError, safetensors.SafetensorError):
        return None


def _methods(cell: Cell) -> list[str]:
    """Return the names of a cell's method and of the one that it is built on."""
    base = base_of(cell.settings.config)
    return [cell.method, *([base.name] if base else [])]


def _key(cell: Cell, batches: Batches, source: NetworkSource, parts: frozenset[Part]) -> str:
    """Return a hash of all that the result depends on: the teacher's outputs, the images and the method."""
    identity = asdict(Identity.of(source.teacher.card, cell.protocol, batches.data.dataset))
    trained = hashlib.sha256(batches.trained.numpy().tobytes()).hexdigest()
    key = [identity, trained, sorted(parts), *_methods(cell), cell.method_version]
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
