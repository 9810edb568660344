"""A data set that is opened, and moved to the device, when somebody first needs it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import final

import torch

from kdbench.data.batches import DeviceData
from kdbench.data.images import Dataset
from kdbench.experiment.protocol import Protocol


@final
class LazyData:
    """The data set of one protocol on one device, opened once."""

    def __init__(self, open_dataset: Callable[[], Dataset], protocol: Protocol, device: torch.device) -> None:
        self._open, self._protocol, self._device = open_dataset, protocol, device

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, opened and checked on first use."""
        return self._open()

    @cached_property
    def on_device(self) -> DeviceData:
        """The data set where it is used."""
        return DeviceData(self.dataset, self._protocol, self._device)
