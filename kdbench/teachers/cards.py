"""The cards of teachers: what is known about each one on disk, found by name."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdbench.errors import UserError
from kdbench.experiment.cell import TeacherRef
from kdbench.experiment.pairs import LOGITS, TeacherSpec
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.rule_groups import MAX_SIDE
from kdbench.models import code_text, network_version
from kdbench.utils.files import paths_in
from kdbench.utils.names import safe_name
from kdbench.utils.reading import read_json
from kdbench.utils.text import one_line
from kdbench.utils.values import number, whole_number

CARD = "teacher.json"
TEST_LOGITS = "test_logits.safetensors"
"""Of a file of logits: those of the test images; those of the training images are where a network has its weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherCard:
    """What is known about a teacher on disk."""

    network: str
    id: str
    """``cell:`` and the cell that trained it, or ``file:`` and the SHA-256 of the imported file."""
    dataset: str
    weights: str
    """Hash of the weights."""
    accuracy: float | None
    """Test top-1 in percent; None for a file of logits without those of the test images."""
    expected: float | None
    """The accuracy it was checked against."""
    origin: str
    epochs: int | None = None
    """Epochs it was trained for, 0 for random weights; None where the card does not say so, as that of an imported
    one."""
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    """Normalisation of its input; None where it is the protocol's."""
    image_size: int | None = None
    """Side of its images, in pixels; None where it is the student's."""
    version: int | None = None
    """VERSION of its network where that is the user's."""
    validation: float | None = None
    """Share of the training images that were held out when it was trained here; None where none were."""
    source: str | None = None
    """Origin of its network's code with its hash, where that is the user's; None also where the card is older."""
    rules: dict[str, Any] | None = field(default=None, hash=False)
    """Identity of the protocol under which it was made; None where the card is older."""
    input: dict[str, Any] | None = field(default=None, hash=False)
    """What it is given, as records hold it; None for a file of logits, and where the card or its record is older."""

    def check(self) -> None:
        """Make sure that each value is of the kind that it should be.

        Raises
        ------
        ValueError
            One is not.
        """
        texts = self.network, self.id, self.dataset, self.weights, self.origin
        if not all(isinstance(text, str) for text in texts) or not re.fullmatch(r"(cell|file):\w+", self.id):
            raise ValueError("a text is missing in it")
        if self.accuracy is not None or not self.ref.is_file:
            number(self.accuracy, 0, 100)
        number(0.0 if self.expected is None else self.expected, 0, 100)
        whole_number(0 if self.epochs is None else self.epochs, 0)
        whole_number(1 if self.image_size is None else self.image_size, 1, MAX_SIDE)
        whole_number(0 if self.version is None else self.version, 0)
        number(0.0 if self.validation is None else self.validation, 0, 1)
        if not (isinstance(self.source, str | None) and isinstance(self.rules, dict | None)):
            raise ValueError("its source or its rules are of another kind")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together")
        for values, least in ((self.mean, 0), (self.std, 1e-6)):
            if values is not None and len([number(value, least) for value in values]) != 3:
                raise ValueError("mean and std have one number a channel")

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of its own; None where they are the protocol's."""
        return None if self.mean is None or self.std is None else (self.mean, self.std)

    @property
    def short(self) -> str:
        """The part of the identity that names it beside its network."""
        return self.ref.short

    @property
    def percent(self) -> str:
        """Its accuracy in words."""
        return "accuracy unknown" if self.accuracy is None else f"{self.accuracy:.2f} %"

    def described(self, usual_epochs: int | None = None) -> dict[str, Any]:
        """Return what records hold of it; an imported one has the accuracy that it was checked against, or None.

        Parameters
        ----------
        usual_epochs
            Of the protocol's teachers: others are part of its name.
        """
        names = ["network", "id", "weights", "accuracy"]
        names += ["epochs"] if usual_epochs is not None and self.epochs not in (None, usual_epochs) else []
        names += [name for name in ("image_size", "validation") if getattr(self, name)]
        names += ["version"] if self.version is not None else []
        names += ["expected"] if self.imported else []
        source = self.source or code_text(self.network)
        return {name: getattr(self, name) for name in names} | ({"source": source} if source else {})

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


def folder_of(runs: Path, protocol: str) -> Path:
    """Return the folder of a protocol's teachers."""
    return runs / protocol / "teachers"


def card_folder(runs: Path, protocol: str, card: TeacherCard) -> Path:
    """Return the folder of a teacher."""
    return folder_of(runs, protocol) / f"{safe_name(card.network)}-{card.short}"


def protocols_with_teachers(runs: Path) -> list[str]:
    """Names of the protocols that have teachers."""
    return sorted(folder.parent.name for folder in paths_in(runs, "*/teachers") if _card_paths(folder))


def read_card(path: Path) -> TeacherCard:
    """Read the card of a teacher.

    Raises
    ------
    UserError
        It is damaged.
    """
    try:
        values = read_json(path)
        card = TeacherCard(**values | {key: tuple(values[key]) for key in ("mean", "std") if values.get(key)})
        card.check()
    except (ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({one_line(error)}): delete its folder and make the teacher again"
        ) from None
    return card


def list_teachers(runs: Path, protocol: str) -> list[TeacherCard]:
    """Return all teachers of a protocol whose cards can be read."""
    return read_cards(runs, protocol)[0]


def read_cards(runs: Path, protocol: str) -> tuple[list[TeacherCard], dict[Path, UserError]]:
    """Return all teachers of a protocol whose cards can be read, and the other cards with the reasons."""
    cards: list[TeacherCard] = []
    damaged: dict[Path, UserError] = {}
    for path in _card_paths(folder_of(runs, protocol)):
        try:
            cards.append(read_card(path))
        except UserError as error:
            damaged[path] = error
    return cards, damaged


def _card_paths(folder: Path) -> list[Path]:
    """Return the cards in a folder of teachers, those that are links to nothing among them."""
    return [path for teacher in paths_in(folder, "*") if os.path.lexists(path := teacher / CARD)]


def teachers_of(runs: Path, protocol: Protocol, network: str, digits: str = "") -> list[TeacherCard]:
    """Return the teachers of a network on a protocol's data.

    Raises
    ------
    UserError
        A card is damaged that may be of a teacher whose hash begins with ``digits``.
    """
    cards, damaged = read_cards(runs, protocol.name)
    for path, error in damaged.items():
        if path.parent.name.startswith(f"{safe_name(network)}-{digits[:8]}"):
            raise error
    return [card for card in cards if card.network == network and card.dataset == protocol.dataset]


def find_teacher(runs: Path, protocol: Protocol, spec: TeacherSpec, network: str) -> TeacherCard:
    """Find the teacher that is meant; ``network`` is the one spelling of its network's name.

    One with random weights, and one of several that was trained for other epochs than the protocol gives its teachers,
    is meant only if its epochs or its hash are given.

    Raises
    ------
    UserError
        There is none, or there are several, or one that may be meant is damaged.
    """
    cards = teachers_of(runs, protocol, network, spec.hash)
    matches = [card for card in cards if card.ref.hash.startswith(spec.hash)]
    version = network_version(network)
    outdated = [card for card in matches if card.version != version]
    if len(outdated) == len(matches) > 0:
        others = ", ".join(f"{card.spec} is of version {card.version}" for card in outdated)
        raise UserError(f"network {network} has version {version} now: {others}; train or import the teacher again")
    matches = [card for card in matches if card.version == version]
    if spec.epochs:
        matches = [card for card in matches if card.epochs == spec.num_epochs]
    elif not spec.hash:
        matches = [card for card in matches if card.epochs != 0]
        usual = protocol.for_teachers().epochs
        if len(matches) > 1:
            matches = [card for card in matches if card.imported or card.epochs == usual] or matches
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UserError(
            f"there are {len(matches)} teachers {network} under {protocol.name}: choose one of {choices(matches)}"
        )
    where = folder_of(runs, protocol.name)
    if cards and spec.hash:
        raise UserError(f"no teacher {spec} in {where}: there are {', '.join(c.spec for c in cards)}")
    command = f"--protocol {protocol.name} --network {network}"
    if network.startswith(LOGITS):
        name = network.removeprefix(LOGITS)
        stem = LOGITS + name.removesuffix(".npz").removesuffix(".npy")
        if stem != network and teachers_of(runs, protocol, stem, ""):
            raise UserError(f"no teacher {network} in {where}: type {stem}; the file's ending is no part of its name")
        name = stem.removeprefix(LOGITS)
        raise UserError(
            f"no teacher {network} for {protocol.dataset} in {where}: type 'kdbench teacher import-logits FILE "
            f"--protocol {protocol.name} --name {name}', with the same --data and --runs"
        )
    train, place = f"'kdbench teacher train {command}", "with the same --data, --dataset and --runs"
    if spec.epochs:
        raise UserError(
            f"no teacher {spec} for {protocol.dataset} in {where}: type {train} --epochs {spec.epochs}', {place}"
        )
    others = f" beside {choices(cards)}" if cards else ""
    raise UserError(
        f"no teacher {network} for {protocol.dataset} in {where}{others}: type {train}' or 'kdbench teacher import "
        f"FILE {command}', {place}"
    )


def choices(cards: Sequence[TeacherCard]) -> str:
    """List teachers to choose from, each as it is typed."""
    return ", ".join(f"{card.spec} ({card.percent}, {card.origin})" for card in cards)
