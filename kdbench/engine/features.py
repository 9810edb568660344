"""Penultimate features of some test images, from a trained network on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray

from kdbench.data.datasets import EMBEDDED
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
        What ``--data`` takes, each; a network takes the first that it was trained on.
    download
        Whether a data set that is missing is downloaded.
    choose
        Returns the places of the images that are wanted, ascending, given all labels ``(M,)``.
    """

    def __init__(
        self,
        data: Sequence[str],
        *,
        download: bool,
        device: torch.device,
        choose: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> None:
        self._places = [DataPlace.parse(word) for word in data]
        self._download, self._device, self._choose = download, device, choose
        self._datasets: dict[tuple[object, ...], Dataset] = {}

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
        """Return the data that a network was trained on, of those that are named."""
        kind, colon, _ = source.protocol.dataset.partition(":")
        if colon and not any(place.kind for place in self._places):
            word = f"{NPZ}FILE" if kind == "npz" else f"{kind}:DIR"
            raise UserError(f"{source.name} was trained on {source.protocol.dataset}: type --data {word}")
        others, problems = list[str](), list[UserError]()
        for place in self._candidates(source):
            key = (place, source.protocol.dataset, source.protocol.rules.augmentation)
            try:
                if key not in self._datasets:
                    self._datasets[key] = place.open(source.protocol, download=self._download)
            except UserError as error:
                problems.append(error)
                continue
            dataset = self._datasets[key]
            if source.fingerprint is None or dataset.fingerprint == source.fingerprint:
                return dataset
            others.append(dataset.name)
        if problems:
            raise problems[0]
        verb = "is" if len(others) == 1 else "are"
        raise UserError(
            f"{' and '.join(others)} {verb} not the data that {source.name} was trained on: give those with --data, "
            "which may be repeated"
        )

    def _candidates(self, source: Described) -> Iterator[DataPlace]:
        """Yield the places where a network's data may be: those that are named, and kdbench itself."""
        yield from self._places
        if not self._places or source.protocol.dataset in EMBEDDED:
            yield DataPlace()
