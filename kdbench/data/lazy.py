"""A data set that is loaded, and moved to the device, when somebody first needs it."""

from __future__ import annotations

from functools import cached_property
from typing import final

import torch

from kdbench.data.batches import DeviceData
from kdbench.data.images import Dataset
from kdbench.data.place import DataPlace
from kdbench.experiment.protocol import Protocol


@final
class LazyData:
    """The data set of one protocol on one device, loaded once.

    Parameters
    ----------
    place
        Where it is read.
    given
        The data set of a file, in place of the protocol's by name.
    """

    def __init__(
        self, protocol: Protocol, place: DataPlace, device: torch.device, *, download: bool, given: Dataset | None
    ) -> None:
        self._protocol, self._place, self._device = protocol, place, device
        self._download, self._given = download, given

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, loaded and checked on first use."""
        return self._given or self._place.load(self._protocol.dataset, download=self._download)

    @cached_property
    def on_device(self) -> DeviceData:
        """The data set where it is used."""
        return DeviceData(self.dataset, self._protocol, self._device)
