"""Groups of a protocol's rules: data, augmentation, optimiser, schedule, evaluation. Each checks its own values."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final

from kdbench.utils.values import shown

MAX_EPOCHS = 1_000_000
"""Far beyond any schedule; epochs are counted and enumerated."""
MAX_SIDE = 4096
"""Far beyond any network's images, in pixels."""
MAX_POOL = 10_000
"""More crops of an image than epochs could visit."""
MEASURED: Final = "measured"
"""In place of numbers: those of the training images, over all pixels of each channel."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataRules:
    """Which images, and how their values are normalised."""

    dataset: str
    mean: tuple[float, float, float] | Literal["measured"]
    """Of each channel, in [0, 1]."""
    std: tuple[float, float, float] | Literal["measured"]
    """Standard deviation of each channel, in [0, 1]."""

    def __post_init__(self) -> None:
        require(self.std == MEASURED or min(self.std) > 0, "std", "> 0", self.std)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationRules:
    """How a training image is varied: by a crop of the padded image, or by a crop of any size that is then resized.

    The first is for small images that stay in memory, the second for image files that are decoded while training.
    """

    crop: Literal["pad", "resized"] = "pad"
    flip: bool
    """Whether images are mirrored with probability 1/2."""
    pad: int | None = None
    """Of padded crops: zero pixels on each side before the random crop."""
    size: int | None = None
    """Side of the square image that networks are given, in pixels; a padded crop keeps its size where it is None."""
    scale: tuple[float, float] | None = None
    """Of resized crops: range of the crop's area over the image's."""
    ratio: tuple[float, float] | None = None
    """Of resized crops: range of the crop's width over its height."""
    interpolation: Literal["bilinear", "bicubic"] | None = None
    """Of resized crops."""
    evaluation_size: int | None = None
    """Of resized crops: pixels of the shorter side of a test image, of whose centre ``size`` x ``size`` are seen."""
    pool: int | None = None
    """Of resized crops: fixed crops an image, shared by all seeds and epochs; None for a new crop in each epoch."""

    def __post_init__(self) -> None:
        belongs("pad", self.pad, self.crop, "pad", kind="crop")
        for key in ("size", "scale", "ratio", "interpolation", "evaluation_size"):
            if key != "size" or self.crop == "resized":
                belongs(key, getattr(self, key), self.crop, "resized", kind="crop")
        require(self.pad is None or self.pad >= 0, "pad", ">= 0", self.pad)
        require(self.size is None or 1 <= self.size <= MAX_SIDE, "size", f"1 to {MAX_SIDE}", self.size)
        if self.crop == "pad":
            require(self.pool is None, "pool", 'left out where crop = "pad"', self.pool)
            return
        assert self.evaluation_size is not None
        side = self.evaluation_size
        require(1 <= side <= MAX_SIDE, "evaluation_size", f"1 to {MAX_SIDE}", side)
        for key in ("scale", "ratio"):
            low, high = getattr(self, key)
            require(0 < low <= high, key, "two numbers > 0, the lower one first", (low, high))
        assert self.scale is not None
        require(self.scale[1] <= 1, "scale", "at most 1", self.scale)
        require(self.pool is None or 1 <= self.pool <= MAX_POOL, "pool", f"1 to {MAX_POOL}", self.pool)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerRules:
    """An optimiser of torch by name, and its settings."""

    name: Literal["SGD", "AdamW"] = "SGD"
    learning_rate: float
    """The highest one: schedules multiply it by a factor in [0, 1]. It is 0 where random weights are to stay."""
    network_learning_rate: dict[str, float] = field(default_factory=dict)
    """Students with a learning rate of their own."""
    weight_decay: float
    momentum: float | None = None
    """Of SGD."""
    nesterov: bool | None = None
    """Of SGD."""
    betas: tuple[float, float] | None = None
    """Of AdamW."""
    gradient_clip: float | None = None
    """Largest norm of the gradient of all trained parameters; a longer one is scaled down to it."""

    def __post_init__(self) -> None:
        require(self.learning_rate >= 0, "learning_rate", ">= 0", self.learning_rate)
        for rate in self.network_learning_rate.values():
            require(rate > 0, "learning_rate", "> 0", rate)
        require(self.weight_decay >= 0, "weight_decay", ">= 0", self.weight_decay)
        for key, optimizer in (("momentum", "SGD"), ("nesterov", "SGD"), ("betas", "AdamW")):
            belongs(key, getattr(self, key), self.name, optimizer)
        if self.momentum is not None:
            require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
            require(self.momentum > 0 or not self.nesterov, "momentum", "> 0 with nesterov", self.momentum)
        for beta in self.betas or ():
            require(0 <= beta < 1, "betas", "in [0, 1)", self.betas)
        if self.gradient_clip is not None:
            require(self.gradient_clip > 0, "gradient_clip", "> 0", self.gradient_clip)

    def learning_rate_of(self, student: str) -> float:
        """Return the learning rate of a student before any schedule."""
        return self.network_learning_rate.get(student, self.learning_rate)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRules:
    """Length of training, and how the learning rate changes during it, in fractions of training.

    A step schedule acts per epoch; a warm-up and a cosine act per step.
    """

    name: Literal["step", "cosine"] = "step"
    epochs: int
    batch_size: int
    group_size: int | None = None
    """Images of a batch that go through the networks together, over which batch norms and relations between images are
    computed; None for the whole batch."""
    milestones: tuple[float, ...] | None = None
    """Of the step schedule: fractions of training after which the learning rate is multiplied by ``decay``."""
    decay: float = 0.1
    """Factor at a milestone, of pre-training too, whatever the schedule is called."""
    warmup: float = 0.0
    """Fraction of training in which the learning rate rises linearly to where the schedule begins."""

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "epochs", "at least 1", self.epochs)
        require(self.epochs <= MAX_EPOCHS, "epochs", f"at most {MAX_EPOCHS}", shown(self.epochs))
        require(self.batch_size >= 1, "batch_size", "at least 1", self.batch_size)
        if self.group_size is not None:
            require(self.group_size >= 1, "group_size", "at least 1", self.group_size)
            divides = self.batch_size % self.group_size == 0
            require(divides, "group_size", f"a divisor of the batch size {self.batch_size}", self.group_size)
        belongs("milestones", self.milestones, self.name, "step")
        for milestone in self.milestones or ():
            require(0 <= milestone <= 1, "milestones", "in [0, 1]", self.milestones)
        require(0 < self.decay <= 1, "decay", "in (0, 1]", self.decay)
        require(0 <= self.warmup < 1, "warmup", "in [0, 1)", self.warmup)

    @property
    def images_together(self) -> int:
        """Images of a whole group."""
        return self.group_size or self.batch_size

    @property
    def num_groups(self) -> int:
        """Groups of a batch."""
        return self.batch_size // self.images_together

    @property
    def per_step(self) -> bool:
        """Whether the learning rate changes within an epoch."""
        return self.name == "cosine" or self.warmup > 0

    def factor(self, epoch: int, step: int, steps: int) -> float:
        """Return what the learning rate is multiplied by in a step; a pure function of the place in training.

        Parameters
        ----------
        epoch
            From 1.
        step
            Of this epoch, from 0.
        steps
            Of an epoch.
        """
        factor = 1.0
        done, total = (epoch - 1) * steps + step, self.epochs * steps
        rising = round(self.warmup * total)
        if self.name == "cosine":
            part = max(0, done - rising) / max(1, total - rising)
            factor = (1 + math.cos(math.pi * part)) / 2
        else:
            factor = self.decay ** sum(epoch > fraction * self.epochs for fraction in self.milestones or ())
        return factor * (done + 1) / rising if done < rising else factor


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRules:
    """What is reported."""

    epoch: Literal["last"] = "last"
    """The epoch whose accuracy is the result."""
    validation: float = 0.0
    """Share of the training images of each class that is held out, and measured after each epoch."""

    def __post_init__(self) -> None:
        require(0 <= self.validation < 1, "validation", "in [0, 1)", self.validation)


def scaled_side(evaluation_size: int, side: int, size: int) -> int:
    """Return the shorter side of a test image of which a square of another side sees the same centre."""
    return max(1, round(evaluation_size * side / size))


def require(holds: bool, key: str, words: str, value: Any) -> None:
    """Raise ValueError that says what a rule must be, unless it holds."""
    if not holds:
        raise ValueError(f"{key} must be {words}, not {plain(value)}")


def belongs(key: str, value: Any, name: str, owner: str, *, kind: str = "") -> None:
    """Raise ValueError if a rule of one optimiser, schedule or kind of crop is missing, or given for another one."""
    owner_words, name_words = (f'{kind} = "{each}"' if kind else each for each in (owner, name))
    if value is None and name == owner:
        raise ValueError(f"{key} is missing: {owner_words} needs it")
    if value is not None and name != owner:
        raise ValueError(f"{key} is a rule of {owner_words}, not of {name_words}")


def plain(value: Any) -> Any:
    """Return a value as TOML and JSON have it."""
    return dict(value) if isinstance(value, dict) else list(value) if isinstance(value, tuple) else value
