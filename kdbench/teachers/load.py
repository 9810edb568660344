"""Load teachers, frozen, and measure them on the test set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data.images import Dataset
from kdbench.errors import UserError
from kdbench.experiment.folder import WEIGHTS
from kdbench.experiment.predictions import write_predictions
from kdbench.experiment.protocol import Protocol
from kdbench.models import own_network
from kdbench.models.build import build_net, input_of
from kdbench.models.evaluate import Evaluation, evaluate, predict
from kdbench.models.weights import freeze, load_weights, read_weights, weights_hash
from kdbench.net import Net
from kdbench.teachers.cards import TeacherCard, card_folder
from kdbench.teachers.doubts import UNCHECKED, at_chance
from kdbench.utils.guessing import is_guess

_TOLERANCE = 0.1
"""Percent by which a measured accuracy may differ from the expected one, if that is more than _NUM_IMAGES images."""
_NUM_IMAGES = 3
"""Test images by which it may differ in any case: other devices round near ties in other ways."""


class TeacherMismatch(UserError):
    """A teacher is not what its card or its publication says."""

    reason = "teacher mismatch"


@dataclass(frozen=True, slots=True)
class Teacher:
    """A frozen network with its card and its logits ``(N, K)`` on the test images."""

    card: TeacherCard
    net: Net
    test_logits: Tensor


def load_teacher(runs: Path, card: TeacherCard, protocol: Protocol, dataset: Dataset, device: torch.device) -> Teacher:
    """Load a teacher, frozen and in eval mode, and measure it again.

    Raises
    ------
    UserError
        Its weights, its input or its network's code are not those on its card, or its accuracy is not: the text holds
        both numbers.
    """
    check_code(card)
    path = card_folder(runs, protocol.name, card) / WEIGHTS
    dataset = dataset.with_side(card.image_size) if card.image_size else dataset
    net = build_net(card.network, protocol, dataset, seed=0, purpose="teacher", normalisation=card.normalisation)
    if card.input and card.input != input_of(net):
        origin = card.rules["name"] if card.rules else "another protocol"
        raise TeacherMismatch(
            f"teacher mismatch: {card.spec} was made for other images or another normalisation, under {origin}, than "
            f"{protocol.name} gives it: import or train it again under {protocol.name}"
        )
    try:
        weights = read_weights(path)
    except UserError as error:
        raise TeacherMismatch(f"teacher {card.spec}: {error}: import or train it again") from None
    if weights_hash(weights) != card.weights:
        raise TeacherMismatch(
            f"teacher mismatch: {path} is not the file that its card describes: import or train it again"
        )
    load_weights(net, weights, str(path))
    logits, measured = measure(net, dataset, device, str(path))
    assert card.accuracy is not None, "only files of logits may be without"
    if not agrees(measured, card.accuracy, dataset):
        raise TeacherMismatch(
            f"teacher mismatch: {card.spec} has {measured:.2f} % on these test images, its card says "
            f"{card.percent}: give the data it was made with (--data), or import it again"
        )
    return Teacher(card, net, logits)


def check_code(card: TeacherCard) -> None:
    """Make sure that a network of the user's has the code with which it became a teacher, if its card says that.

    Raises
    ------
    TeacherMismatch
        It has other code under the same VERSION.
    """
    source = own_network(card.network)
    if source and source.changed_since(card.source or ""):
        raise TeacherMismatch(
            f"teacher mismatch: {source.where} has changed since {card.spec} became a teacher: put it back, or raise "
            "its VERSION and train or import the teacher again"
        )


def check_expected(accuracy: float | None) -> None:
    """Raise ``UserError`` for an accuracy that a teacher cannot be expected to have, in percent."""
    if accuracy is not None and not 0 <= accuracy <= 100:
        raise UserError(f"--accuracy must be between 0 and 100 (percent), not {accuracy:g}")


def keep_predictions(folder: Path, logits: Tensor, dataset: Dataset) -> None:
    """Keep what a teacher that no cell has trained says of the test images, ``(N, K)``, beside its card."""
    evaluation = Evaluation(dataset.test_labels, dataset.num_classes, keep=True)
    evaluation.add(logits, 0)
    predictions = evaluation.predictions()
    assert predictions
    write_predictions(folder, predictions)


def measure(net: Net, dataset: Dataset, device: torch.device, origin: str) -> tuple[Tensor, float]:
    """Freeze a network; return its logits ``(N, K)`` on the test images, and its top-1 accuracy in percent.

    Raises
    ------
    UserError
        The logits are not finite.
    """
    logits = predict(freeze(net).to(device), dataset.evaluation(device))
    broken = int((~logits.isfinite()).any(dim=1).sum())
    if broken:
        raise UserError(
            f"{origin} cannot be used: its logits are not finite on {broken} of {len(logits)} test images, though its "
            "weights are: import or train it again"
        )
    return logits, evaluate(logits, dataset.test_labels)["top1"]


def agrees(measured: float, expected: float, dataset: Dataset) -> bool:
    """Return whether two accuracies in percent are the same up to a few test images."""
    tolerance = max(_TOLERANCE, 100 * _NUM_IMAGES / len(dataset.test_labels))
    return abs(measured - expected) <= tolerance + 1e-6


def doubts(card: TeacherCard, protocol: Protocol, dataset: Dataset) -> str:
    """Say what is doubtful about a new teacher's accuracy, and what to check; empty where nothing is."""
    labels = dataset.test_labels
    sizes = len(labels), int(labels.bincount().max())
    guessed = card.accuracy is not None and is_guess(card.accuracy, *sizes)
    if not guessed and not (card.imported and card.expected is None):
        return ""
    doubt = f"{card.percent} is {at_chance(*sizes)}" if guessed else f"{card.percent}, {UNCHECKED}"
    if card.epochs == 0:
        return ""
    if not card.imported:
        return f"{doubt}: train it for more epochs"
    if card.ref.is_file:
        return f"{doubt}: compare the order of its rows and of its classes with 'kdbench data list'"
    numbers = card.normalisation or dataset.normalisation(protocol.rules.data)
    mean, std = (", ".join(f"{value:g}" for value in values) for values in numbers)
    return (
        f"{doubt}: if the checkpoint is better elsewhere, compare its normalisation and pixel range (here pixels from "
        f"0 to 1, less the mean {mean}, over the deviation {std}), the size of its images and its order of classes; "
        "--accuracy PERCENT checks the result"
    )
