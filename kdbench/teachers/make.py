"""Make teachers: of a cell that is finished, or of a checkpoint."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.data.images import Dataset, Normalisation
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import WEIGHTS
from kdbench.experiment.identity import identity_text
from kdbench.experiment.protocol import Protocol
from kdbench.models import code_text, network_version, twin_of
from kdbench.models.build import build_net, input_of
from kdbench.models.starts import read_start
from kdbench.models.weights import COUNTER, read_weights, save_weights, weights_hash, write_weights
from kdbench.net import Net
from kdbench.teachers.cards import CARD, TeacherCard, card_folder, list_teachers, read_card
from kdbench.teachers.load import TeacherMismatch, agrees, check_code, check_expected, keep_predictions, measure
from kdbench.utils.files import write_json
from kdbench.utils.text import counted, printable


def register_trained(runs: Path, cell: Cell, record: dict[str, Any], image_size: int | None = None) -> TeacherCard:
    """Make a finished cell's network a teacher. One that is a teacher already and whole is left as it is.

    Parameters
    ----------
    image_size
        Side of the images that the cell was given, in pixels; None where they are the student's.

    Raises
    ------
    UserError
        The cell's weights are missing, or not those of its record.
    """
    start = read_start(runs, cell.student, cell.init) if cell.init else None
    mean, std = start.normalisation if start and start.normalisation else (None, None)
    epochs = cell.protocol.epochs if cell.protocol.rules.optimizer.learning_rate else 0  # random weights
    trained = f"trained here{f' from {start.origin}' if start else ''}" if epochs else "random weights"
    length = f", {counted(epochs, 'epoch')}" if epochs else ""
    size = f", images of {image_size} x {image_size}" if image_size else ""
    held_out = cell.protocol.rules.evaluation.validation
    without = f", {100 * held_out:g} % held out" if held_out else ""
    card = TeacherCard(
        network=cell.student,
        id=cell.as_teacher.id,
        dataset=cell.protocol.dataset,
        weights=record["weights"],
        accuracy=record["top1"],
        expected=None,
        origin=f"{trained}, seed {cell.seed}{length}{size}{without}",
        epochs=epochs,
        mean=mean,
        std=std,
        image_size=image_size,
        version=cell.student_version,
        validation=held_out or None,
        source=record.get("student_source"),
        rules=_plain(cell.protocol),
        input=record.get("input"),
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
    text: str | Path,
    network: str,
    *,
    runs: Path,
    protocol: Protocol,
    dataset: Dataset,
    device: torch.device,
    expected: float | None = None,
    key: str | None = None,
    image_size: int | None = None,
) -> TeacherCard:
    """Import a checkpoint as a teacher and measure it.

    Weights that are a teacher's already stay that one teacher. Counters of batches do not matter: only training reads
    them, and files of torch 0.4.0 have none.

    Parameters
    ----------
    text
        A file, or the name of published weights.
    expected
        Test top-1 in percent; by default the value that was published of these weights for such test images, or for
        weights of unknown origin the one that the protocol lists for the network.
    key
        Which weights are meant where several in the file fit; see :func:`kdbench.models.checkpoints.load_checkpoint`.
    image_size
        Side of the images that it takes, in pixels; by default the one that published weights were trained for, or
        the student's. Weights that were imported before at the student's size keep it.

    Raises
    ------
    UserError
        The file does not load into the network, or its accuracy is not the expected one.
    """
    # timm takes seconds to import.
    from kdbench.models.bring import check_given, load_source, own_normalisation, own_size  # noqa: PLC0415
    from kdbench.models.pretrained import find_source  # noqa: PLC0415

    check_expected(expected)
    # Elsewhere there are cells whose imported teachers have timm's name, and the protocol's normalisation.
    image_files = protocol.rules.augmentation.crop == "resized"
    if image_files:
        check_given(network)
    source = find_source(str(text), network, identify=image_files)
    path, normalisation = source.path, own_normalisation(source, protocol)
    side, version = image_size or own_size(source, dataset), network_version(network)
    if side and not image_size and _is_teacher(runs, protocol, path, normalisation, version):
        side = None
    images = dataset.with_side(side) if side else dataset
    if images.shape == dataset.shape:
        side = None
    net = build_net(network, protocol, images, seed=0, purpose="teacher", normalisation=normalisation)
    loaded = load_source(net, source, key)
    logits, accuracy = measure(net, images, device, str(path))
    if expected is None and "dataset" not in protocol.overrides():
        published = source.published
        seen = protocol.with_side(side) if side else protocol
        expected = published.accuracy_under(seen) if published else protocol.accuracy.get(network)
    if expected is not None and not agrees(accuracy, expected, dataset):
        percent = f"--accuracy is in percent: {100 * expected:g}? " if 0 < expected <= 1 < accuracy else ""
        raise TeacherMismatch(
            f"teacher mismatch: {path} has {accuracy:.2f} % on the test set of {dataset.name}, expected "
            f"{expected:.2f} %: {percent}another checkpoint, normalisation or data set? If it is right:"
            f" --accuracy {accuracy:.2f}"
        )
    weights = weights_hash(net.backbone.state_dict())
    names, same = {network, twin_of(network)}, (normalisation, protocol.dataset, side, version)
    cards = [
        card
        for card in list_teachers(runs, protocol.name)
        if card.network in names and (card.normalisation, card.dataset, card.image_size, card.version) == same
    ]
    known = next((card for card in cards if card.weights == weights), None) or next(
        (card for card in cards if _holds(card_folder(runs, protocol.name, card) / WEIGHTS, card, net)), None
    )
    if known:
        check_code(known)
    mean, std = normalisation or (None, None)
    card = known or TeacherCard(
        network=network,
        id=f"file:{_file_hash(path, loaded.label if loaded.chosen else '', normalisation, side, version)}",
        dataset=protocol.dataset,
        weights=weights,
        accuracy=accuracy,
        expected=expected,
        origin=f"imported from {source.origin}"
        + (f", {printable(loaded.label)}" if loaded.label else "")
        + (f", images of {side} x {side}" if side else ""),
        mean=mean,
        std=std,
        image_size=side,
        version=version,
        source=code_text(network),
        rules=_plain(protocol),
        input=input_of(net),
    )
    folder = card_folder(runs, protocol.name, card)
    if _hash_of(folder / WEIGHTS) != card.weights:
        save_weights(folder / WEIGHTS, net)
    keep_predictions(folder, logits, dataset)
    if known and known.imported:
        if not known.rules:  # a card of an earlier version
            card = replace(known, rules=_plain(protocol), input=input_of(net), source=code_text(network))
        card = card if expected is None else replace(card, expected=expected)
    if _card_in(folder) != card:
        write_json(folder / CARD, asdict(card))
    return card


def _plain(protocol: Protocol) -> dict[str, Any]:
    """Return the identity of a protocol as it is read from a file."""
    values: dict[str, Any] = json.loads(identity_text(protocol.identity()))
    return values


def _is_teacher(
    runs: Path, protocol: Protocol, path: Path, normalisation: Normalisation | None, version: int | None
) -> bool:
    """Return whether a file is a teacher already that takes the student's images."""
    known = f"file:{_file_hash(path, '', normalisation, None, version)}"
    return any(card.id == known for card in list_teachers(runs, protocol.name))


def _file_hash(
    path: Path, label: str, normalisation: Normalisation | None, side: int | None, version: int | None
) -> str:
    """SHA-256 of a file, or of one of several networks in it, and of what is its own beside the weights.

    That is its normalisation, the size of its images, and the VERSION of its network.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if label:
        digest.update(f" {label}".encode())
    if normalisation:
        digest.update(f" {normalisation}".encode())
    if side:
        digest.update(f" {side} pixels".encode())
    if version is not None:
        digest.update(f" version {version}".encode())
    return digest.hexdigest()


def _holds(path: Path, card: TeacherCard, net: Net) -> bool:
    """Return whether a teacher's file is whole and has the weights of a network, but for counters of batches."""
    try:
        stored, weights = read_weights(path), net.backbone.state_dict()
    except UserError:
        return False
    return weights_hash(stored) == card.weights and _hash_without_counters(stored) == _hash_without_counters(weights)


def _hash_without_counters(weights: dict[str, Tensor]) -> str:
    return weights_hash({name: value for name, value in weights.items() if not name.endswith(COUNTER)})


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
