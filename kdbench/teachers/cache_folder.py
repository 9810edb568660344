"""The folder of a teacher cache: named by all that the teacher's outputs depend on, and locked while it is in use."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdbench.data.images import Dataset
from kdbench.data.views import Augmentation, CropIds, ViewIds
from kdbench.experiment.protocol import Protocol
from kdbench.experiment.rule_groups import MEASURED, plain
from kdbench.models import own_network
from kdbench.teachers.cards import TeacherCard
from kdbench.utils.names import safe_name
from kdbench.utils.reading import read_json

FOLDER = "teacher-cache"
_VERSION = 1
"""Raised when a view id comes to mean another image, or the files another thing."""
IDENTITY, USE_LOCK = "identity.json", "use.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """All that a teacher's outputs depend on."""

    network: str
    weights: str
    """Hash of the teacher's weights."""
    data: str
    """Fingerprint of the data set."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int | None
    """Of padded crops."""
    precision: str
    version: int = _VERSION
    crop: dict[str, Any] | None = None
    """The rules of resized crops."""
    image_size: int | None = None
    """Side of the teacher's images, in pixels, where no rule of the crops says it."""
    code: str | None = None
    """Version and hash of the network's code where that is the user's."""

    @classmethod
    def of(cls, card: TeacherCard, protocol: Protocol, dataset: Dataset) -> Identity:
        """Return the identity of a teacher's outputs under a protocol."""
        mean, std = card.normalisation or dataset.normalisation(protocol.rules.data)
        return cls(data=dataset.fingerprint, mean=mean, std=std, **_without_data(card, protocol))

    def is_under(self, card: TeacherCard, protocol: Protocol) -> bool:
        """Return whether these are outputs of a teacher under a protocol, for some data set."""
        data = protocol.rules.data
        rules = card.normalisation or (data.mean, data.std)
        same = all(rule in (MEASURED, value) for rule, value in zip(rules, (self.mean, self.std), strict=True))
        return same and all(getattr(self, name) == value for name, value in _without_data(card, protocol).items())

    def values(self) -> dict[str, Any]:
        """Return what a file describes it by; what does not apply is left out, as it always was."""
        left_out = {key for key in ("crop", "image_size", "code") if getattr(self, key) is None}
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in left_out}

    @property
    def numbering(self) -> ViewIds:
        """What the view ids of the stored outputs mean."""
        return CropIds(self.crop["pool"]) if self.crop else Augmentation(self.pad or 0, flip=False)

    @property
    def name(self) -> str:
        """Name of the folder."""
        text = json.dumps(self.values(), sort_keys=True)
        return f"{safe_name(self.network)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _without_data(card: TeacherCard, protocol: Protocol) -> dict[str, Any]:
    rules = protocol.rules.augmentation
    source = own_network(card.network)
    crop = dataclasses.asdict(rules)
    for key in ("crop", "pad", "evaluation_size"):
        del crop[key]
    return {
        "network": card.network,
        "weights": card.weights,
        "pad": rules.pad,
        "precision": protocol.precision,
        "crop": {key: plain(value) for key, value in crop.items()} if rules.crop == "resized" else None,
        "image_size": card.image_size or (rules.size if rules.crop == "pad" else None),
        "code": f"version {card.version}, {source.text}" if source else None,
    }


def read_identity(folder: Path) -> Identity | None:
    """Return what a cache's outputs depend on; None where its folder's name does not confirm its description."""
    try:
        values = read_json(folder / IDENTITY)
        identity = Identity(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
        return identity if identity.name == folder.name else None
    except (ValueError, KeyError, TypeError):
        return None


def lock_use(folder: Path, operation: int) -> int | None:
    """Lock a cache against its removal, or for it; return the descriptor that holds the lock.

    None where a cache belongs to somebody else or is on a file system without locks: it can be read all the same.

    Raises
    ------
    BlockingIOError
        A lock that must not wait is held by others.
    """
    for flags in (os.O_RDWR | os.O_CREAT, os.O_RDONLY):
        with contextlib.suppress(OSError):
            descriptor = os.open(folder / USE_LOCK, flags, 0o666)
            break
    else:
        return None
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor
