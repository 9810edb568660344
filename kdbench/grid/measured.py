"""Keep what was timed of a grid on each device, so that a plan that was stopped times only the rest."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import final

from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.experiment.cell import Cell
from kdbench.experiment.protocol import Protocol
from kdbench.grid.grid import Grid
from kdbench.grid.submissions import folder_of
from kdbench.utils.files import NotWritten, write_json
from kdbench.utils.reading import read_object
from kdbench.utils.values import number


@final
class Measured:
    """Seconds by what was timed, and bytes, in a file beside the grid's submissions.

    Parameters
    ----------
    device
        Name of the device, as :func:`kdbench.grid.estimate.device_words` makes it.
    """

    def __init__(self, grid: Grid, device: str) -> None:
        self.path = folder_of(grid) / "measured.json"
        self._device = device
        self._all = read_object(self.path)
        values = self._all.get(device)
        self._seconds: dict[str, float] = {}
        for key, value in (values if isinstance(values, dict) else {}).items():
            with contextlib.suppress(ValueError):
                self._seconds[key] = number(value, low=0.0)

    def get(self, key: str) -> float | None:
        """Return the seconds, or bytes, of what a key names; None where it was not measured."""
        return self._seconds.get(key)

    def add(self, key: str, seconds: float) -> None:
        """Keep seconds; on a disk that cannot be written, until this process ends."""
        self._seconds[key] = seconds
        with contextlib.suppress(NotWritten):
            write_json(self.path, self._all | {self._device: self._seconds})


def step_key(cell: Cell, *, from_cache: bool) -> str:
    """Name a training step of a cell, whatever its seed."""
    return f"step {replace(cell, seed=1).id} {'cache' if from_cache else 'live'}"


def memory_key(cell: Cell, *, from_cache: bool) -> str:
    """Name the peak memory of a GPU in a cell's training steps, in bytes."""
    return f"memory of {step_key(cell, from_cache=from_cache)}"


def loading_key(dataset: StreamedDataset, num_strong: int) -> str:
    """Name the making of the views of one image by processes of this machine."""
    return f"load {dataset.fingerprint[:16]} {dataset.num_workers} workers {num_strong} strong"


def view_key(network: str, protocol: Protocol) -> str:
    """Name the caching of one view by a teacher."""
    return f"view {network} {protocol.dataset} {protocol.precision}"
