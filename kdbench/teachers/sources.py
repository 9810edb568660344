"""Where a cell's teacher outputs come from: a network, live or from its cache, an ensemble, or a file of logits."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, final

import torch
from torch import Tensor

from kdbench.data.batches import Batches
from kdbench.experiment.cell import TeacherRef
from kdbench.method import ViewPlan
from kdbench.net import Net, Outputs, Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cards import TeacherCard
from kdbench.teachers.load import Teacher
from kdbench.teachers.outputs import (
    ABSENT_IN_ENSEMBLE,
    ABSENT_IN_FILE,
    CachedReader,
    FileReader,
    Kind,
    LiveReader,
    LiveTeacher,
    MeanReader,
    Reader,
    Views,
    mean_logits,
)
from kdbench.teachers.pairs import stored_parts


class TeacherSource(abc.ABC):
    """One teacher of cells, and where its outputs come from."""

    kind: Kind
    """How records name it."""
    net: Net | None = None
    """The network, for methods that are built by its shapes; None where there is not one."""
    absent: str = ""
    """Why there is no network."""
    test_logits: Tensor | None
    """``(N, K)``, of the test images; None where they are not known."""
    num_live: int = 0
    """Networks that are queried for each view."""
    is_live: bool = False
    """Whether it is queried for the views alone, and nothing is looked up."""
    sides: frozenset[int] = frozenset()
    """Other sides than the student's at which it takes views, in pixels."""

    @property
    @abc.abstractmethod
    def spec(self) -> str:
        """What to type after ``--teacher`` to mean it."""

    @abc.abstractmethod
    def described(self) -> dict[str, Any]:
        """Return what records hold of the teacher."""

    @abc.abstractmethod
    def reader(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part]) -> Reader:
        """Outputs of the parts ``reads`` for a plan's views."""

    def computed(self, reads: frozenset[Part]) -> frozenset[Part]:  # noqa: ARG002 - where there is a cache
        """Return the parts that a cache does not store: they are computed from those that it does."""
        return frozenset()

    def query(self, views: Views, reads: frozenset[Part]) -> Outputs:
        """Query it for views, where it is live."""
        raise NotImplementedError

    def is_finite(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part], step: int) -> bool:
        """Return whether all outputs for a step of this epoch are finite; looks them up again."""
        reader = self.reader(batches, plan, reads)
        for group in batches.groups(step):
            views = {side: batches.images(group, plan, side) for side in (None, *self.sides)}
            parts = reader.outputs(views, reader.inputs(group)).parts().values()
            tensors = [tensor for part in parts for tensor in (part if isinstance(part, tuple) else (part,))]
            if not all(tensor.isfinite().all() for tensor in tensors):
                return False
        return True


@final
class NetworkSource(TeacherSource):
    """One network, live or cached.

    Parameters
    ----------
    usual_epochs
        Of the protocol's teachers.
    """

    def __init__(self, live: LiveTeacher, cache: TeacherCache | None, usual_epochs: int | None = None) -> None:
        self.live, self.cache, self._usual_epochs = live, cache, usual_epochs
        self.kind, self.is_live, self.num_live = ("cache", False, 0) if cache else ("live", True, 1)
        self.net, self.test_logits = self.teacher.net, self.teacher.test_logits
        if live.side and not cache:
            self.sides = frozenset({live.side})

    @property
    def teacher(self) -> Teacher:
        """The teacher itself."""
        return self.live.teacher

    @property
    def spec(self) -> str:
        """What to type after ``--teacher`` to mean it."""
        return self.teacher.card.spec

    def described(self) -> dict[str, Any]:
        """Return what records hold of the teacher."""
        return self.teacher.card.described(self._usual_epochs)

    def computed(self, reads: frozenset[Part]) -> frozenset[Part]:
        """Return the parts that the cache does not store: they are computed from those that it does."""
        if not self.cache:
            return frozenset()
        return reads - stored_parts(reads, self.cache.identity.numbering, self.teacher.net.widths)

    def reader(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part]) -> Reader:
        """Outputs of the parts ``reads`` for a plan's views."""
        if self.cache:
            return CachedReader(self.cache, self.live, batches, plan, reads)
        return LiveReader(self.live, reads)

    def query(self, views: Views, reads: frozenset[Part]) -> Outputs:
        """Query the live teacher."""
        return self.live.outputs(views[self.live.side], reads)


@final
class FileSource(TeacherSource):
    """A file of logits, of the training images as they are.

    Parameters
    ----------
    train_logits
        ``(N, K)``, by position in the training set.
    """

    kind = "file"
    absent = ABSENT_IN_FILE

    def __init__(self, card: TeacherCard, train_logits: Tensor, test_logits: Tensor | None) -> None:
        self.card, self.train_logits, self.test_logits = card, train_logits, test_logits

    @property
    def spec(self) -> str:
        """What to type after ``--teacher`` to mean it."""
        return self.card.spec

    def described(self) -> dict[str, Any]:
        """Return what records hold of the teacher."""
        return self.card.described()

    def reader(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part]) -> Reader:  # noqa: ARG002
        """Logits for the plain view."""
        return FileReader(self.train_logits, batches, plan)


@final
class EnsembleSource(TeacherSource):
    """Several teachers whose logits are averaged.

    Parameters
    ----------
    labels
        Of the test images, on the CPU.
    """

    absent = ABSENT_IN_ENSEMBLE

    def __init__(self, ref: TeacherRef, members: Sequence[TeacherSource], labels: Tensor) -> None:
        self._ref, self.members, self._labels = ref, members, labels
        kinds = {member.kind for member in members}
        self.kind = "live" if "live" in kinds else "cache" if "cache" in kinds else "file"
        self.num_live = sum(member.num_live for member in members)
        self.is_live = all(member.is_live for member in members)
        self.sides = frozenset[int]().union(*(member.sides for member in members))
        logits = [member.test_logits.float() for member in members if member.test_logits is not None]
        self.test_logits = torch.stack(logits).mean(0) if len(logits) == len(members) else None

    @property
    def spec(self) -> str:
        """What to type after ``--teacher`` to mean it."""
        return self._ref.spec

    @cached_property
    def accuracy(self) -> float | None:
        """Test top-1 of the averaged logits, in percent; None where those of a member are not known."""
        if self.test_logits is None:
            return None
        return 100 * (self.test_logits.argmax(1) == self._labels).double().mean().item()

    def described(self) -> dict[str, Any]:
        """Return what records hold of the teacher: its members, and the hash of their weights as its own."""
        members = [member.described() for member in self.members]
        weights = hashlib.sha256("+".join(member["weights"] for member in members).encode()).hexdigest()
        values = {"network": self._ref.network, "id": self._ref.id, "weights": weights, "accuracy": self.accuracy}
        return {**values, "members": members}

    def computed(self, reads: frozenset[Part]) -> frozenset[Part]:
        """Return the parts that some member's cache does not store."""
        return frozenset[Part]().union(*(member.computed(reads) for member in self.members))

    def reader(self, batches: Batches, plan: ViewPlan, reads: frozenset[Part]) -> Reader:
        """Averaged logits for a plan's views."""
        return MeanReader([member.reader(batches, plan, reads) for member in self.members])

    def query(self, views: Views, reads: frozenset[Part]) -> Outputs:
        """Query all members, which are live."""
        return mean_logits([member.query(views, reads) for member in self.members])
