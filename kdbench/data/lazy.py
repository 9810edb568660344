"""A data set that is loaded, and moved to the device, when somebody first needs it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import final

import torch

from kdbench.data.batches import DeviceData
from kdbench.data.datasets import Dataset, load_dataset
from kdbench.experiment.protocol import Protocol


@final
class LazyData:
    """The data set of one protocol on one device, loaded once.

    Parameters
    ----------
    folder
        Of data sets.
    given
        The data set of a file, in place of the protocol's by name.
    """

    def __init__(
        self, protocol: Protocol, folder: Path, device: torch.device, *, download: bool, given: Dataset | None
    ) -> None:
        self._protocol, self._folder, self._device = protocol, folder, device
        self._download, self._given = download, given

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, loaded and checked on first use."""
        return self._given or load_dataset(self._protocol.dataset, self._folder, download=self._download)

    @cached_property
    def on_device(self) -> DeviceData:
        """The data set where it is used."""
        return DeviceData(self.dataset, self._protocol, self._device)
