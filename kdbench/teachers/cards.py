"""Teachers: trained here or imported, hashed, measured on the test set, found by name."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdbench.data.datasets import Dataset
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef
from kdbench.experiment.folder import WEIGHTS
from kdbench.experiment.pairs import TeacherSpec
from kdbench.experiment.protocol import Protocol
from kdbench.models.build import build_net
from kdbench.models.evaluate import evaluate, predict
from kdbench.models.weights import freeze, load_weights, read_weights, save_weights, weights_hash
from kdbench.net import Net
from kdbench.utils.files import write_atomic, write_json
from kdbench.utils.names import safe_name
from kdbench.utils.reading import read_json
from kdbench.utils.values import number, whole_number


class TeacherMismatch(UserError):
    """A teacher is not what its card or its publication says."""

    reason = "teacher mismatch"


ACCURACY_TOLERANCE = 0.1
"""Percent by which a teacher's measured accuracy may differ from the expected one."""
_CARD = "teacher.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCard:
    """What is known about a teacher on disk."""

    network: str
    id: str
    """``cell:`` and the cell that trained it, or ``file:`` and the SHA-256 of the imported file."""
    dataset: str
    weights: str
    """Hash of the weights."""
    accuracy: float
    """Test top-1 in percent."""
    expected: float | None
    """The accuracy it was checked against."""
    origin: str
    epochs: int | None = None
    """Epochs it was trained for; None where the card does not say so, as that of an imported one."""

    @property
    def short(self) -> str:
        """The part of the identity that names it beside its network."""
        return self.ref.short

    @property
    def imported(self) -> bool:
        """Whether it came from a file."""
        return self.id.startswith("file:")

    @property
    def spec(self) -> str:
        """What to type after ``--teacher`` to mean this one."""
        return self.ref.spec

    @property
    def ref(self) -> TeacherRef:
        """Its part in a cell's identity."""
        return TeacherRef(self.network, self.id)


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen network with its card and its logits ``(N, K)`` on the test images."""

    card: TeacherCard
    net: Net
    test_logits: Tensor


def folder_of(runs: Path, protocol: str) -> Path:
    """Return the folder of a protocol's teachers."""
    return runs / protocol / "teachers"


def list_teachers(runs: Path, protocol: str) -> list[TeacherCard]:
    """Return all teachers of a protocol whose cards can be read."""
    return read_cards(runs, protocol)[0]


def read_cards(runs: Path, protocol: str) -> tuple[list[TeacherCard], dict[str, str]]:
    """Return all teachers of a protocol, and a message for each card that is damaged, by the name of its folder."""
    cards, damaged = [], {}
    for path in sorted(folder_of(runs, protocol).glob(f"*/{_CARD}")):
        try:
            cards.append(_read_card(path))
        except ValueError as error:
            damaged[path.parent.name] = f"{path} {error}: delete its folder and make the teacher again"
    return cards, damaged


def teachers_of(runs: Path, protocol: Protocol, network: str, digits: str = "") -> list[TeacherCard]:
    """Return the teachers of a network on a protocol's data whose hash begins with some digits.

    Raises
    ------
    UserError
        A card that cannot be read may be of one that is meant.
    """
    whole, damaged = read_cards(runs, protocol.name)
    cards = [
        card
        for card in whole
        if card.network == network and card.dataset == protocol.dataset and card.ref.hash.startswith(digits)
    ]
    if not (digits and cards):
        for folder, message in damaged.items():
            name, _, short = folder.rpartition("-")
            if name == safe_name(network) and (short.startswith(digits) or digits.startswith(short)):
                raise UserError(message)
    return cards


def _read_card(path: Path) -> TeacherCard:
    """Read a card; a ValueError says what is wrong with it."""
    values = read_json(path)
    try:
        card = TeacherCard(**values)
    except TypeError as error:
        raise ValueError(f"is damaged: {error}") from None
    texts = (card.network, card.dataset, card.weights, card.origin)
    try:
        if not (all(isinstance(text, str) for text in texts) and re.fullmatch(r"(cell|file):\w+", card.id)):
            raise TypeError
        number(card.accuracy, 0, 100)
        if card.expected is not None:
            number(card.expected, 0, 100)
        if card.epochs is not None:
            whole_number(card.epochs, 1)
    except TypeError:
        raise ValueError("is damaged: a text is not what kdbench writes") from None
    except ValueError as error:
        raise ValueError(f"is damaged: {error}") from None
    return card


def find_teacher(runs: Path, protocol: Protocol, spec: TeacherSpec, network: str) -> TeacherCard:
    """Find the teacher that is meant; ``network`` is the one spelling of its network's name.

    Where a protocol gives its teachers epochs of their own, one of several that was trained for other epochs is meant
    only if its hash is given.

    Raises
    ------
    UserError
        There is none, or there are several.
    """
    matches = teachers_of(runs, protocol, network, spec.hash)
    if len(matches) > 1 and protocol.teacher_epochs is not None and not spec.hash:
        matches = [card for card in matches if card.imported or card.epochs == protocol.teacher_epochs] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        choices = ", ".join(f"{c.spec} ({c.accuracy:.2f} %, {c.origin})" for c in matches)
        raise UserError(f"there are {len(matches)} teachers {network} under {protocol.name}: choose one of {choices}")
    where = folder_of(runs, protocol.name)
    if cards := teachers_of(runs, protocol, network):
        raise UserError(f"no teacher {spec} in {where}: there are {', '.join(c.spec for c in cards)}")
    command = f"--protocol {protocol.name} --network {network}"
    raise UserError(
        f"no teacher {network} for {protocol.dataset} in {where}: type 'kdbench teacher train {command}' "
        f"or 'kdbench teacher import FILE {command}', with the same --data and --runs"
    )


def load_teacher(runs: Path, card: TeacherCard, protocol: Protocol, dataset: Dataset, device: torch.device) -> Teacher:
    """Load a teacher, frozen and in eval mode, and measure it again.

    Raises
    ------
    UserError
        Its weights are not those on its card, or its accuracy is not: the text holds both numbers.
    """
    path = _folder(runs, protocol.name, card) / WEIGHTS
    net = build_net(card.network, protocol, dataset, seed=0, purpose="teacher")
    weights = read_weights(path)
    load_weights(net, weights, str(path))
    if weights_hash(weights) != card.weights:
        raise TeacherMismatch(
            f"teacher mismatch: {path} is not the file that its card describes: import or train it again"
        )
    freeze(net).to(device)
    logits = predict(net, dataset.test_images)
    measured = evaluate(logits, dataset.test_labels)["top1"]
    if abs(measured - card.accuracy) > ACCURACY_TOLERANCE:
        raise TeacherMismatch(
            f"teacher mismatch: {card.spec} has {measured:.2f} % on these test images, its card says "
            f"{card.accuracy:.2f} %: give the data it was made with (--data), or import it again"
        )
    return Teacher(card, net, logits)


def register_trained(runs: Path, cell: Cell, record: dict[str, Any]) -> TeacherCard:
    """Make a finished cell's network a teacher."""
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
    folder = _folder(runs, cell.protocol.name, card)
    write_atomic(folder / WEIGHTS, (cell.folder(runs) / WEIGHTS).read_bytes())
    write_json(folder / _CARD, asdict(card))
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
) -> TeacherCard:
    """Import a checkpoint as a teacher and measure it.

    Parameters
    ----------
    expected
        Test top-1 in percent; by default the published value that the protocol lists for the network.

    Raises
    ------
    UserError
        The file does not load into the network, or its accuracy is not the expected one.
    """
    state = read_weights(path)
    net = build_net(network, protocol, dataset, seed=0, purpose="teacher")
    load_weights(net, state, str(path))
    freeze(net).to(device)
    accuracy = evaluate(predict(net, dataset.test_images), dataset.test_labels)["top1"]
    if expected is None and "dataset" not in protocol.overrides():
        expected = protocol.accuracy.get(network)
    if expected is not None and abs(accuracy - expected) > ACCURACY_TOLERANCE:
        raise TeacherMismatch(
            f"teacher mismatch: {path} has {accuracy:.2f} % on the test set of {dataset.name}, expected "
            f"{expected:.2f} %: another checkpoint, normalisation or data set? If it is right:"
            f" --accuracy {accuracy:.2f}"
        )
    card = TeacherCard(
        network=network,
        id=f"file:{hashlib.sha256(path.read_bytes()).hexdigest()}",
        dataset=protocol.dataset,
        weights=weights_hash(net.backbone.state_dict()),
        accuracy=accuracy,
        expected=expected,
        origin=f"imported from {path.name}",
    )
    folder = _folder(runs, protocol.name, card)
    save_weights(folder / WEIGHTS, net)
    write_json(folder / _CARD, asdict(card))
    return card


def _folder(runs: Path, protocol: str, card: TeacherCard) -> Path:
    return folder_of(runs, protocol) / f"{safe_name(card.network)}-{card.short}"
