"""Measure trained networks on data sets: their accuracy, or how well a linear probe does on their features.

Legend: ``N`` images, ``K`` classes, ``D`` width of the penultimate features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import torch
from torch import Tensor

from kdbench.data.datasets import ArrayDataset
from kdbench.data.decoding.streamed import StreamedDataset
from kdbench.data.files.names import Report
from kdbench.data.images import Dataset
from kdbench.data.npz import NPZ, require_memory
from kdbench.data.place import DataPlace, known_dataset
from kdbench.engine.described import Described, no_size
from kdbench.engine.probe import L2, fit_probe
from kdbench.engine.trained import Trained
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.models.evaluate import evaluate
from kdbench.teachers.load import agrees
from kdbench.utils.device import forward_batch

Split = Literal["train", "test"]
Observe = Callable[[str, float], None]
"""Takes the name of a piece of work, and the part of it that is done, in [0, 1]."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which data set networks are measured on."""

    data: str | None
    """What ``--data`` takes."""
    name: str | None
    """Of a data set, in place of the one that a network was trained on."""
    download: bool
    workers: int | None
    report: Report

    def find_size(self, folder: Path, protocol: Protocol) -> tuple[int, int]:
        """Return the size of the images of a network's own data; raise UserError where others are wanted."""
        if not self._is_own(protocol):
            return no_size(folder, protocol)
        return self._own(protocol).shape.image_size

    def open(self, net: Trained, source: Described) -> Dataset:
        """Open the data set: a network's own, the one of a name, or an npz file or image files.

        Image files of another data set are resized and cut to the network's size while they are read.

        Raises
        ------
        UserError
            It cannot be opened, or the network's own data set was a file, which ``data`` does not name.
        """
        place, protocol = DataPlace.parse(self.data), source.protocol
        if self.name is not None:
            if place.kind:
                raise UserError(f"--dataset {self.name} and --data {place.word} name two data sets: leave one out")
            protocol = protocol.override(dataset=known_dataset(self.name))
        elif self._is_own(protocol):
            dataset = self._own(protocol)
            return dataset if dataset.shape.image_size == net.image_size else dataset.with_side(net.image_size[0])
        place.check(protocol.dataset, download=self.download)
        files = place.image_files(protocol.dataset, self.report)
        if files is None:
            return place.load(protocol.dataset, download=self.download)
        if net.rules is None:
            height, width = net.image_size
            raise UserError(
                f"{source.name} takes {height} x {width} pixels, and files are cut to squares: give npz:FILE"
            )
        return StreamedDataset(files, net.rules, self.workers, self.report)

    def _is_own(self, protocol: Protocol) -> bool:
        """Return whether the data set of a network is wanted, or one of its kind."""
        kind = DataPlace.parse(self.data).kind
        return self.name is None and kind in {None, protocol.dataset.partition(":")[0]}

    def _own(self, protocol: Protocol) -> Dataset:
        place = DataPlace.parse(self.data)
        kind, colon, _ = protocol.dataset.partition(":")
        if place.kind is None and colon:
            word = f"{NPZ}FILE" if kind == "npz" else f"{kind}:DIR"
            raise UserError(f"the network was trained on {protocol.dataset}: type --data {word}, or --dataset NAME")
        return place.open(protocol, download=self.download, num_workers=self.workers, report=self.report)


def accuracy(net: Trained, source: Described, dataset: Dataset, observe: Observe) -> dict[str, Any]:
    """Measure a network on the test images of its own classes.

    Returns
    -------
    dict
        What :func:`kdbench.models.evaluate.evaluate` does, and ``remarks``: sentences on what it may not mean.

    Raises
    ------
    UserError
        The data set has another number of classes.
    """
    if dataset.num_classes != net.num_classes:
        raise UserError(
            f"{dataset.name} has {dataset.num_classes} classes, and {source.name} {net.num_classes}: type --probe to "
            "measure transfer by a linear probe, or give data with the network's own classes"
        )
    metrics = evaluate(_run(net, net, dataset, "test", net.num_classes, observe), dataset.test_labels)
    remarks = []
    if dataset.fingerprint != source.fingerprint:
        if source.fingerprint or dataset.name.partition(":")[0] != source.protocol.dataset.partition(":")[0]:
            remarks.append(
                f"{dataset.name} is not the data that {source.name} was trained on: its class numbers are taken to "
                "mean the same classes"
            )
    elif not agrees(metrics["top1"], source.accuracy, dataset):
        remarks.append(
            f"{source.name} has {metrics['top1']:.2f} % on its own test images here, and its record says "
            f"{source.accuracy:.2f} %: do the versions of the libraries differ?"
        )
    return {**metrics, "recorded_top1": source.accuracy, "remarks": remarks}


def transfer(net: Trained, dataset: Dataset, device: torch.device, observe: Observe) -> dict[str, Any]:
    """Measure how well a linear classifier of a network's features does; see :mod:`kdbench.engine.probe`.

    Returns
    -------
    dict
        Metrics on the test images, ``probe`` with what was fitted and how, and ``remarks``.

    Raises
    ------
    UserError
        The features take more memory than there is.
    """
    num_images = len(dataset.train_labels) + len(dataset.test_labels)
    require_memory(f"the matrix of features of {dataset.name}", num_images * net.width * 4)
    train, test = (_run(net, net.features, dataset, split, net.width, observe) for split in ("train", "test"))
    probe = fit_probe(
        train, dataset.train_labels, dataset.num_classes, device, lambda part: observe("fitting the probe", part)
    )
    metrics = evaluate(probe.logits(test), dataset.test_labels)
    remarks = []
    if not probe.converged:
        remarks.append("the last fit of the probe stopped before it converged")
    if probe.l2 in (L2[0], L2[-1]):
        remarks.append(f"the L2 chosen, {probe.l2:g}, is at the end of the range that was tried")
    kept = {name: getattr(probe, name) for name in ("l2", "held_out", "held_out_top1", "converged")}
    return {
        **metrics,
        "probe": {"train_images": len(train), "width": net.width, "l2_tried": list(L2), **kept},
        "remarks": remarks,
    }


@torch.no_grad()
def _run(
    net: Trained, function: Callable[[Tensor], Tensor], dataset: Dataset, split: Split, width: int, observe: Observe
) -> Tensor:
    """Return float32 rows ``(N, width)`` on the CPU that a function gives for all images of a split."""
    labels = dataset.train_labels if split == "train" else dataset.test_labels
    rows, done = torch.empty(len(labels), width), 0
    for images in unaugmented(net, dataset, split):
        values = function(images).float().cpu()
        rows[done : done + len(values)] = values
        done += len(values)
        observe(f"{split} images of {dataset.name}", done / len(labels))
    assert done == len(labels), f"{done} of {len(labels)} images were read"
    return rows


def unaugmented(net: Trained, dataset: Dataset, split: Split) -> Iterator[Tensor]:
    """Yield all images of a split in batches, normalised as evaluation does it, where the network is."""
    device = net.mean.device
    if isinstance(dataset, ArrayDataset) and dataset.shape.image_size != net.image_size:
        images = dataset.train_images if split == "train" else dataset.test_images
        for part in images.split(forward_batch(device)):
            yield net.preprocess(part.permute(0, 3, 1, 2))
        return
    every = torch.arange(len(dataset.train_labels))
    pixels = dataset.evaluation(device) if split == "test" else dataset.unaugmented(every, device)
    for _, part in pixels.batches():
        yield net.normalise(part)
