"""Penultimate features of some test images, from a trained network on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.data.images import Dataset
from kdbench.data.npz import NPZ
from kdbench.data.place import DataPlace
from kdbench.engine.described import Described, described
from kdbench.engine.trained import Trained, read_net
from kdbench.errors import UserError


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """Features of test images, in the data set's order. Legend: ``N`` images, ``D`` features."""

    values: NDArray[np.float32]
    """``(N, D)``."""
    labels: NDArray[np.int64]
    """``(N,)``."""
    num_classes: int
    """Of the data set."""


@final
class FeatureReader:
    """Run networks on test images, and open each data set once.

    Parameters
    ----------
    data
        What ``--data`` takes.
    download
        Whether a data set that is missing is downloaded.
    choose
        Returns the places of the images that are wanted, ascending, given all labels ``(M,)``.
    """

    def __init__(
        self,
        data: str | None,
        *,
        download: bool,
        device: torch.device,
        choose: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> None:
        self._place, self._download, self._device, self._choose = DataPlace.parse(data), download, device, choose
        self._datasets: dict[object, Dataset] = {}

    @torch.no_grad()  # a network of one's own is tried when it is built, which inference tensors do not take
    def read(self, folder: Path) -> Features:
        """Return the features of the network in the folder of a cell or of a teacher.

        Raises
        ------
        UserError
            The network or its data cannot be read, or the data are not those that it was trained on.
        """
        source = described(folder)
        dataset = self._dataset(source)
        net = Trained(read_net(source), source.protocol.rules.augmentation).to(self._device)
        labels = dataset.test_labels.numpy().astype(np.int64)
        places = self._choose(labels)
        parts = []
        for first, images in dataset.evaluation(self._device).batches():
            inside = places[(places >= first) & (places < first + len(images))] - first
            if len(inside):
                if tuple(images.shape[2:]) != net.image_size:
                    raise UserError(f"{source.name} takes images of {net.image_size}, not {tuple(images.shape[2:])}")
                chosen = images[torch.from_numpy(inside).to(self._device)]
                parts.append(net.features(net.normalise(chosen)).float().cpu())
            if first + len(images) > places[-1]:
                break
        values: NDArray[np.float32] = torch.cat(parts).numpy()
        if not np.isfinite(values).all():
            raise UserError(f"{source.name} has features that are not finite")
        return Features(values=values, labels=labels[places], num_classes=dataset.num_classes)

    def _dataset(self, source: Described) -> Dataset:
        key = (source.protocol.dataset, source.protocol.rules.augmentation)
        kind, colon, _ = source.protocol.dataset.partition(":")
        if self._place.kind is None and colon:
            word = f"{NPZ}FILE" if kind == "npz" else f"{kind}:DIR"
            raise UserError(f"{source.name} was trained on {source.protocol.dataset}: type --data {word}")
        if key not in self._datasets:
            self._datasets[key] = self._place.open(source.protocol, download=self._download)
        dataset = self._datasets[key]
        if source.fingerprint is not None and dataset.fingerprint != source.fingerprint:
            raise UserError(f"{dataset.name} is not the data that {source.name} was trained on: give those with --data")
        return dataset
