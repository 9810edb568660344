"""What a folder says of the trained network in it: a finished cell's record, or a teacher's card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from kdbench.data.datasets import SHAPES
from kdbench.data.images import Normalisation
from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, RECORD, STATE, WEIGHTS, parse_record
from kdbench.experiment.protocol import Protocol, load_protocol, protocol_names, protocol_of
from kdbench.models import network_version, own_network
from kdbench.models.starts import read_start
from kdbench.teachers.cards import CARD, TeacherCard, read_card
from kdbench.utils.files import paths_in
from kdbench.utils.reading import Unreadable
from kdbench.utils.values import number, whole_number

_PROTOCOL_ABOVE = 3
"""Folders between that of a cell and its folder of runs: pair, method and protocol lie between them."""
FindSize = Callable[[Path, Protocol], tuple[int, int]]
"""Gives height and width of a network's images where its folder does not hold them, or raises UserError."""


def no_size(folder: Path, protocol: Protocol) -> tuple[int, int]:
    """Raise UserError: nobody knows."""
    raise UserError(
        f"{folder} does not say how large its network's images are, as kdbench 0.1 did not keep it for "
        f"{protocol.dataset}: give it with kdbench.load(..., image_size=(HEIGHT, WIDTH))"
    )


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """What a network is given, and how many classes it tells apart."""

    image_size: tuple[int, int]
    """Height and width, in pixels."""
    normalisation: Normalisation
    num_classes: int | None
    """None where only the weights can tell."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A trained network on disk."""

    name: str
    """What messages call it."""
    network: str
    weights: Path
    """File with its weights."""
    weights_hash: str
    """Hash that they must have."""
    accuracy: float
    """Test top-1 in percent, as it was measured after training or on import."""
    protocol: Protocol
    """What it was trained under; of the rules, those of the images matter here."""
    input: Input
    fingerprint: str | None = None
    """Of the data set it was trained on; None where that is not kept."""
    config: Mapping[str, Any] | None = None
    """Identity of the cell that trained it; None for an imported teacher."""
    teacher_side: int | None = None
    """Side of the images of the network that taught it, in pixels; None where it was its own."""


def described(path: Path, find_size: FindSize = no_size) -> Described:
    """Read what there is to know of a trained network without its weights.

    Parameters
    ----------
    path
        Folder of a finished cell or of a teacher, or the ``record.json`` or ``teacher.json`` in it.
    find_size
        Asked for the size of its images where the files do not hold it: those that early versions wrote of networks
        for npz files and folders, and teachers that were imported for such data.

    Raises
    ------
    UserError
        There is no such network, its files are damaged, or they do not say how large its images are.
    """
    folder = path.parent if path.name in {RECORD, CARD} else path
    if (folder / RECORD).exists():
        return _of_record(folder, find_size)
    if (folder / CARD).exists():
        return _of_card(folder, find_size)
    if any((folder / name).exists() for name in (CONFIG, STATE)):
        raise UserError(f"{folder} is a cell that is not finished: type the command that began it to finish it")
    raise UserError(
        f"{path} holds no trained network: give the folder of a finished cell, with its {RECORD}, or of a teacher, "
        f"with its {CARD}"
    )


def _of_record(folder: Path, find_size: FindSize) -> Described:
    record = _read_record(folder / RECORD)
    config = record["config"]
    network, _, start = config["student"].partition("@")
    protocol = protocol_of(config["protocol"], str(folder / RECORD))
    _check_code(folder, network, config.get("student_version"), str(record.get("student_source", "")))
    return Described(
        name=f"{config['student']} ({config['method']['name']}, seed {config['seed']})",
        network=network,
        weights=folder / WEIGHTS,
        weights_hash=record["weights"],
        accuracy=record["top1"],
        protocol=protocol,
        input=_input(record, folder, protocol, find_size, start and (network, start)),
        fingerprint=record["data_fingerprint"],
        config=config,
        teacher_side=(record["teacher"] or {}).get("image_size"),
    )


def _of_card(folder: Path, find_size: FindSize) -> Described:
    card = read_card(folder / CARD)
    place = folder.absolute().parent.parent
    own = _own_record(place, card)
    if own is not None:
        trained = _of_record(own, find_size)
        return replace(trained, name=f"teacher {card.spec}", weights=folder / WEIGHTS)
    if card.accuracy is None or card.ref.is_file:
        raise UserError(f"{folder} is a file of logits, not a network: give the folder of another teacher")
    _check_code(folder, card.network, card.version, card.source or "")
    protocol = protocol_of(card.rules, str(folder / CARD)) if card.rules else _protocol_above(folder, card)
    protocol = protocol.with_side(card.image_size) if card.image_size else protocol
    known = _kept_input(card.input, folder / CARD) if card.input else _input({}, folder, protocol, find_size, "")
    return Described(
        name=f"teacher {card.spec}",
        network=card.network,
        weights=folder / WEIGHTS,
        weights_hash=card.weights,
        accuracy=card.accuracy,
        protocol=protocol,
        input=replace(known, normalisation=card.normalisation or known.normalisation),
    )


def _check_code(folder: Path, network: str, version: int | None, text: str) -> None:
    """Raise UserError where a network of the user's is another one than that of a folder's weights."""
    now, source = network_version(network), own_network(network)
    if now is not None and version != now:
        raise UserError(f"{folder} is of version {version} of {network}, which has version {now} now: put that back")
    if source and source.changed_since(text):
        raise UserError(f"{source.where} has changed since {folder} was trained: put it back, the weights are for that")


def _protocol_above(folder: Path, card: TeacherCard) -> Protocol:
    """Return the protocol below which a teacher lies, whose card is of an earlier version and does not name it."""
    name = folder.absolute().parent.parent.name
    if name not in protocol_names():
        raise UserError(
            f"{folder} does not hold the rules under which its teacher was made, and {name!r}, below which it lies, is "
            "no protocol: put it back into RUNS/PROTOCOL/teachers, and train or import the teacher again there to copy "
            "it elsewhere"
        )
    return load_protocol(name).override(dataset=card.dataset)


def _own_record(place: Path, card: TeacherCard) -> Path | None:
    """Return the folder of the cell that trained a teacher, where it lies beside it and is whole."""
    if card.imported:
        return None
    for folder in paths_in(place, f"*/*/seed*-{card.short}"):
        try:
            if parse_record(folder / RECORD)["weights"] == card.weights:
                return folder
        except Unreadable:
            continue
    return None


def _read_record(path: Path) -> dict[str, Any]:
    try:
        return parse_record(path)
    except Unreadable as error:
        raise UserError(f"{path} {error}") from None


def _input(
    record: Mapping[str, Any],
    folder: Path,
    protocol: Protocol,
    find_size: FindSize,
    start: tuple[str, str] | str,
) -> Input:
    """Return what a record says of a network's input, or else what its protocol and its data set's name do.

    Parameters
    ----------
    start
        Network and hash of the weights that training started from; empty for fresh ones.
    """
    if "input" in record:
        return _kept_input(record["input"], folder / RECORD)
    rules, shape = protocol.rules, SHAPES.get(protocol.dataset)
    normalisation = None
    if start:
        normalisation = read_start(folder.absolute().parents[_PROTOCOL_ABOVE], start[0], start[1]).normalisation
    if rules.augmentation.size is not None:
        image_size = rules.augmentation.size, rules.augmentation.size
    else:
        image_size = shape.image_size if shape else find_size(folder, protocol)
    mean, std = normalisation or (rules.data.mean, rules.data.std)
    if isinstance(mean, str) or isinstance(std, str):
        raise UserError(
            f"{folder} does not hold the mean and deviation that were measured for its network: train it here, or "
            f"import it under a protocol that gives them in numbers"
        )
    return Input(
        image_size=image_size,
        normalisation=(mean, std),
        num_classes=shape.num_classes if shape else None,
    )


def _kept_input(values: Any, path: Path) -> Input:
    try:
        height, width = (whole_number(side, 1) for side in values["size"])
        mean, std = (tuple(number(value) for value in values[key]) for key in ("mean", "std"))
        if not len(mean) == len(std) == 3:
            raise ValueError("mean and std have one number a channel")
        return Input(
            image_size=(height, width), normalisation=(mean, std), num_classes=whole_number(values["classes"], 1)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its input is none ({error})") from None
