"""Weights that training starts from, kept in the folder of runs by the hash of their content.

The hash is a part of the identity of the cells that start from them::

    runs/init/NETWORK-HASH.safetensors
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import final

import safetensors
import safetensors.torch
from torch import Tensor

from kdbench.data.images import Dataset, Normalisation
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.models.build import build_net
from kdbench.models.weights import load_weights, own_classifier, read_weights, weights_hash
from kdbench.net import Net
from kdbench.utils.files import write_atomic
from kdbench.utils.names import safe_name

_FOLDER = "init"
START_FILES = f"{_FOLDER}/*.safetensors"
"""Pattern of the files below a folder of runs."""
_DIGITS = 16
"""Of a hash: enough for any number of networks."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Weights that a network's training starts from, all of them or all but the classifier's."""

    network: str
    weights: dict[str, Tensor]
    normalisation: Normalisation | None
    """Of the network's input; None where it is the protocol's."""
    origin: str
    """Where they come from, in words."""

    @property
    def hash(self) -> str:
        """Hash of the weights, and of their normalisation where it is their own."""
        digest = weights_hash(self.weights)
        if self.normalisation is not None:
            digest = hashlib.sha256(f"{digest} {json.dumps(self.normalisation)}".encode()).hexdigest()
        return digest[:_DIGITS]

    def keep(self, runs: Path) -> str:
        """Keep the weights in a folder of runs, unless they are there; return their hash."""
        digits = self.hash
        with contextlib.suppress(UserError):
            read_start(runs, self.network, digits)
            return digits
        described = {"network": self.network, "origin": self.origin, "normalisation": json.dumps(self.normalisation)}
        write_atomic(_path(runs, self.network, digits), safetensors.torch.save(self.weights, metadata=described))
        return digits

    def load(self, net: Net) -> None:
        """Load the weights into the network; its classifier stays as it is where theirs was left out."""
        load_weights(net, own_classifier(net) | self.weights, self.origin)


def read_start(runs: Path, network: str, digits: str) -> Start:
    """Return weights that were kept, checked against their hash.

    Raises
    ------
    UserError
        They are missing or damaged.
    """
    path = _path(runs, network, digits)
    weights = read_weights(path)
    with safetensors.safe_open(path, framework="pt") as file:
        described = file.metadata() or {}
    with contextlib.suppress(ValueError, TypeError, IndexError):
        pair = json.loads(described.get("normalisation", "null"))
        normalisation = (tuple(pair[0]), tuple(pair[1])) if pair else None
        start = Start(
            network=network, weights=weights, normalisation=normalisation, origin=described.get("origin", path.name)
        )
        if start.hash == digits:
            return start
    raise UserError(f"{path} is damaged (it does not hold what its name says)")


def build_student(cell: Cell, runs: Path, dataset: Dataset) -> Net:
    """Build a cell's student with its initial weights: fresh ones, or those that its training starts from.

    Raises
    ------
    UserError
        The network does not take such images, or the weights that it starts from are missing or damaged.
    """
    start = read_start(runs, cell.student, cell.init) if cell.init else None
    net = build_net(
        cell.student,
        cell.protocol,
        dataset,
        seed=cell.seed,
        purpose="student",
        normalisation=start.normalisation if start else None,
    )
    if start:
        start.load(net)
    return net


def _path(runs: Path, network: str, digits: str) -> Path:
    return runs / _FOLDER / f"{safe_name(network)}-{digits}.safetensors"
