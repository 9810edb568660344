"""Make teachers: of a cell that is finished, or of a checkpoint."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from kdbench.data.images import Dataset
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import WEIGHTS
from kdbench.experiment.protocol import Protocol
from kdbench.models.build import build_net
from kdbench.models.checkpoint_files import printable
from kdbench.models.checkpoints import load_checkpoint
from kdbench.models.weights import read_weights, save_weights, weights_hash, write_weights
from kdbench.teachers.cards import CARD, TeacherCard, card_folder, list_teachers, read_card
from kdbench.teachers.load import TeacherMismatch, agrees, measure
from kdbench.utils.files import write_json


def register_trained(runs: Path, cell: Cell, record: dict[str, Any]) -> TeacherCard:
    """Make a finished cell's network a teacher. One that is a teacher already and whole is left as it is.

    Raises
    ------
    UserError
        The cell's weights are missing, or not those of its record.
    """
    card = TeacherCard(
        network=cell.student,
        id=cell.as_teacher.id,
        dataset=cell.protocol.dataset,
        weights=record["weights"],
        accuracy=record["top1"],
        expected=None,
        origin=f"trained here, seed {cell.seed}, {cell.protocol.epochs} epochs",
        epochs=cell.protocol.epochs,
    )
    folder = card_folder(runs, cell.protocol.name, card)
    stored = _hash_of(folder / WEIGHTS)
    if stored != card.weights:
        existing = _card_in(folder)
        if existing and stored == existing.weights:
            return existing  # trained before to other weights, which have taught others
        try:
            weights = read_weights(cell.folder(runs) / WEIGHTS)
            if weights_hash(weights) != card.weights:
                raise UserError(f"{cell.folder(runs) / WEIGHTS} is not what its record describes")
        except UserError as error:
            raise UserError(
                f"{error}: delete {cell.folder(runs)} and type the same command to train the teacher again"
            ) from None
        write_weights(folder / WEIGHTS, weights, card.network)
    if _card_in(folder) != card:
        write_json(folder / CARD, asdict(card))
    return card


def import_teacher(
    path: Path,
    network: str,
    *,
    runs: Path,
    protocol: Protocol,
    dataset: Dataset,
    device: torch.device,
    expected: float | None = None,
    key: str | None = None,
) -> TeacherCard:
    """Import a checkpoint as a teacher and measure it. Weights that are a teacher's already stay that one teacher.

    Parameters
    ----------
    expected
        Test top-1 in percent; by default the published value that the protocol lists for the network.
    key
        Which weights are meant where several in the file fit; see :func:`kdbench.models.checkpoints.load_checkpoint`.

    Raises
    ------
    UserError
        The file does not load into the network, or its accuracy is not the expected one.
    """
    if expected is not None and not 0 <= expected <= 100:
        raise UserError(f"--accuracy must be between 0 and 100 (percent), not {expected:g}")
    net = build_net(network, protocol, dataset, seed=0, purpose="teacher")
    label, chosen = load_checkpoint(net, path, key)
    _, accuracy = measure(net, dataset, device, str(path))
    if expected is None and "dataset" not in protocol.overrides():
        expected = protocol.accuracy.get(network)
    if expected is not None and not agrees(accuracy, expected, dataset):
        percent = f"--accuracy is in percent: {100 * expected:g}? " if 0 < expected <= 1 < accuracy else ""
        raise TeacherMismatch(
            f"teacher mismatch: {path} has {accuracy:.2f} % on the test set of {dataset.name}, expected "
            f"{expected:.2f} %: {percent}another checkpoint, normalisation or data set? If it is right:"
            f" --accuracy {accuracy:.2f}"
        )
    weights = weights_hash(net.backbone.state_dict())
    same = [card for card in list_teachers(runs, protocol.name) if card.network == network and card.weights == weights]
    known = next((card for card in same if card.dataset == protocol.dataset), None)
    card = known or TeacherCard(
        network=network,
        id=f"file:{_file_hash(path, label if chosen else '')}",
        dataset=protocol.dataset,
        weights=weights,
        accuracy=accuracy,
        expected=expected,
        origin=f"imported from {path.name}" + (f", {printable(label)}" if label else ""),
    )
    folder = card_folder(runs, protocol.name, card)
    if known is None or _hash_of(folder / WEIGHTS) != weights:
        save_weights(folder / WEIGHTS, net)
    if known and known.imported and expected is not None:
        card = replace(known, expected=expected)
    if _card_in(folder) != card:
        write_json(folder / CARD, asdict(card))
    return card


def _file_hash(path: Path, label: str) -> str:
    """SHA-256 of a file, or of one of several networks in it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if label:
        digest.update(f" {label}".encode())
    return digest.hexdigest()


def _hash_of(path: Path) -> str | None:
    """Hash of the weights in a file; None where it is missing or damaged."""
    try:
        return weights_hash(read_weights(path))
    except UserError:
        return None


def _card_in(folder: Path) -> TeacherCard | None:
    """Return the card in a folder; None where it is missing or damaged."""
    try:
        return read_card(folder / CARD)
    except UserError:
        return None
