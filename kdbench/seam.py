"""What passes between the harness and a method: views, batches, what is read, what is trained before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor, nn

from kdbench.functional import cross_entropy
from kdbench.net import PARTS, Net, Outputs, Part

PhaseName = Literal["pretraining", "training"]
"""Of the phases of a run: pre-training, where the method has some, and the protocol's own epochs."""


@final
@dataclass(frozen=True, slots=True)
class Paper:
    """Where a method was published."""

    title: str
    """Title as printed."""
    authors: str
    """Family names, in order."""
    venue: str
    """Conference or journal; empty for a preprint."""
    year: int
    """Year of the venue, or of the preprint."""
    arxiv: str | None = None
    """Number on arXiv, such as 1503.02531."""

    def __str__(self) -> str:
        """Title and place in one line."""
        return f"{self.title} ({self.place})"

    @property
    def place(self) -> str:
        """Venue, year and number on arXiv."""
        return f"{self.venue} {self.year}".strip() + (f", arXiv {self.arxiv}" if self.arxiv else "")


@final
@dataclass(frozen=True, slots=True, init=False)
class Reads:
    """Parts that a loss reads of the outputs of student and teacher; a network of which nothing is read is not run.

    Parameters
    ----------
    student, teacher
        Names of parts of `Outputs`.

    Raises
    ------
    ValueError
        There is no such part.
    """

    student: frozenset[Part]
    teacher: frozenset[Part]

    def __init__(self, student: Collection[Part] = (), teacher: Collection[Part] = ()) -> None:
        for side, parts in (("student", student), ("teacher", teacher)):
            if isinstance(parts, str) or not PARTS.issuperset(parts):
                raise ValueError(f"Reads({side}=...) must be a set of {', '.join(sorted(PARTS))}, not {parts!r}")
            object.__setattr__(self, side, frozenset(parts))

    def __or__(self, other: Reads) -> Reads:
        """Return what either of the two reads."""
        return Reads(self.student | other.student, self.teacher | other.teacher)


@final
@dataclass(frozen=True, slots=True)
class ViewPlan:
    """Which augmented versions of an image a method sees.

    Every image is flipped once (or not), then each view turns it by its number of quarter turns and crops it on
    its own. View 0 is the plain view, which all methods share for one seed, epoch and image. Behind these stand views
    that are flipped and cropped on their own and then strongly augmented; see `kdbench.data.randaugment`.

    Parameters
    ----------
    quarter_turns
        Of each view that is not strongly augmented; the first is 0.
    num_strong
        Number of strongly augmented views.
    """

    quarter_turns: tuple[int, ...] = (0,)
    num_strong: int = 0

    def __post_init__(self) -> None:
        if self.quarter_turns[:1] != (0,) or not set(self.quarter_turns) <= {0, 1, 2, 3}:
            raise ValueError(f"quarter_turns must start with 0 and hold 0..3, not {self.quarter_turns}")
        if self.num_strong < 0:
            raise ValueError(f"num_strong must be 0 or more, not {self.num_strong}")

    @property
    def num_views(self) -> int:
        """Number of views an image has, ``V``."""
        return len(self.quarter_turns) + self.num_strong

    @property
    def rows(self) -> tuple[tuple[str, int], ...]:
        """Names of the views, in their order; where the rows of an image share a crop, equal names are equal images."""
        turned = tuple(("turned", turns) for turns in self.quarter_turns)
        return turned + tuple(("strong", number) for number in range(self.num_strong))

    def begins_with(self, other: ViewPlan) -> bool:
        """Return whether the first views are those of another plan; its images are then the first of this one's."""
        if other.num_strong:
            return self.quarter_turns == other.quarter_turns and self.num_strong >= other.num_strong
        return self.quarter_turns[: other.num_views] == other.quarter_turns


PLAIN = ViewPlan()
"""One plain view of each image."""


@final
@dataclass(frozen=True, slots=True)
class Batch:
    """One training batch. Legend: ``B`` images, ``V`` views; view-major rows, the plain view first.

    The phases of a run are pre-training, where the method has some, and the protocol's own epochs.
    """

    images: Tensor
    """``(V*B, 3, H, W)``, in [0, 1]."""
    targets: Tensor
    """``(B,)``, class numbers."""
    index: Tensor
    """``(B,)``, positions in the training set; no position twice."""
    epoch: int
    """Current epoch of this phase, from 1."""
    epochs: int
    """Number of epochs in this phase."""
    generator: torch.Generator
    """For the method's own randomness, on the images' device."""
    label_smoothing: float = 0.0
    """Of the protocol; for the task's loss alone."""

    def cross_entropy(self, logits: Tensor, label_smoothing: float | None = None) -> Tensor:
        """Return the task's loss: the cross entropy of each image with its label, smoothed as the protocol says.

        What reads the label as a fact, such as a weight of images or the target of a decoupled loss, takes
        `kdbench.functional.cross_entropy` or ``targets``, which are never smoothed.

        Parameters
        ----------
        logits
            Of one view of each image, ``(B, K)``.
        label_smoothing
            In place of the protocol's.

        Returns
        -------
        Tensor
            ``(B,)``, in nats, at least float32.
        """
        smoothing = self.label_smoothing if label_smoothing is None else label_smoothing
        return cross_entropy(logits, self.targets, smoothing)

    @property
    def size(self) -> int:
        """Number of images, ``B``."""
        return self.targets.shape[0]

    @property
    def progress(self) -> float:
        """Epochs of this phase that have begun over all of its epochs, in (0, 1]."""
        return self.epoch / self.epochs


@final
class Setup:
    """What a method is built from: the two networks, the training labels and the length of training.

    Parameters
    ----------
    student, teacher
        The networks; no teacher where there is none, or where no network teaches.
    labels
        ``(N,)``, class numbers of the training images.
    epochs, steps_per_epoch
        Length of training; of the protocol's epochs, without pre-training.
    group_size
        Images that a loss is given at once; the last groups of an epoch may have fewer.
    no_teacher
        Why there is no teacher, for messages.
    """

    def __init__(
        self,
        *,
        student: Net,
        teacher: Net | None,
        labels: Tensor,
        epochs: int,
        steps_per_epoch: int,
        group_size: int,
        no_teacher: str = "the method's READS name no part of one",
    ) -> None:
        self.student = student
        self._teacher, self._no_teacher = teacher, no_teacher
        self.labels = labels
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.group_size = group_size

    @property
    def teacher(self) -> Net:
        """The frozen network that teaches; there is none where ``READS`` name no part of one.

        An ensemble or a file of logits, from which methods that read logits alone can learn, is no network either.

        Raises
        ------
        ValueError
            There is no such network, with the reason.
        """
        if self._teacher is None:
            raise ValueError(f"there is no network that teaches: {self._no_teacher}")
        return self._teacher


Rows = Mapping[str, Tensor]
"""What a method will remember of a group of images: tensors by name, whose first dimension goes over the images."""
Loss = Callable[[Outputs, Outputs, Batch], dict[str, Tensor] | tuple[dict[str, Tensor], Rows]]
"""From the outputs of student and teacher for a batch to named, weighted scalar terms; their sum is minimised.

A method with a memory returns a pair: the terms, and the rows that `Method.remember` is to be given.
"""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TermGroup:
    """Terms of the loss that share a gradient, which is kept apart from those of other groups.

    Each group has its own momentum, and all of them update the parameters, one after another in their order.
    """

    terms: frozenset[str] | None
    """Names of the terms; None for all that no other group names."""
    momentum: float = 0.0
    """What is added to the protocol's momentum, where the gradients of all groups reach a parameter."""
    partial_momentum: float = 0.0
    """The same where those of some groups alone do."""
    weight_decay: Literal["yes", "no", "partial"] = "yes"
    """Whether the protocol's weight decay enters this group's momentum.

    ``partial``: where the gradients of some groups alone reach a parameter, and not in its first step.
    """


ONE_GROUP = (TermGroup(terms=None),)
"""All terms in one group, which is what most methods have."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pretraining:
    """What is trained before the protocol's first epoch, by a loss of its own; all else is frozen and in eval mode.

    What the loss reads is what ``Method.reads`` returns for the phase ``"pretraining"``; epochs of the batches count
    from 1 in this phase. The optimiser is the protocol's, and a fresh one afterwards.
    """

    loss: Loss
    """What is minimised."""
    train: tuple[nn.Module, ...]
    """Of the method and the student; what the loss does not reach stays as it is."""
    freeze: tuple[nn.Module, ...] = ()
    """Of these modules, those that stay as they are from the first epoch on."""
    learning_rate: float | None = None
    """Learning rate of the first epoch; by default the protocol's for this student."""
    milestones: tuple[float, ...] = ()
    """Fractions of pre-training after which the learning rate is multiplied by the protocol's ``decay``."""
