"""The teachers of one protocol and data set in a folder of runs: found by name, loaded and measured once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import final

import torch

from kdbench.data.lazy import LazyData
from kdbench.experiment.cell import TeacherRef
from kdbench.experiment.pairs import TeacherSpec
from kdbench.experiment.protocol import Protocol
from kdbench.models.earlier import network_name
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import Identity
from kdbench.teachers.cards import TeacherCard, find_teacher, list_teachers
from kdbench.teachers.load import load_teacher
from kdbench.teachers.logits import load_logits
from kdbench.teachers.outputs import Kind, LiveTeacher
from kdbench.teachers.sources import EnsembleSource, FileSource, NetworkSource, TeacherSource
from kdbench.utils.scheduler import Scheduler


@final
class TeacherStore:
    """Teachers on disk, and what is open of them.

    Parameters
    ----------
    scheduler
        Knows about the jobs of other processes that build caches.
    """

    def __init__(
        self, runs: Path, protocol: Protocol, data: LazyData, device: torch.device, scheduler: Scheduler
    ) -> None:
        self.runs, self.protocol, self.data = runs, protocol, data
        self.device, self.scheduler = device, scheduler
        self._live: dict[str, LiveTeacher] = {}
        self._caches: dict[str, TeacherCache] = {}
        self._sources: dict[tuple[str, Kind], TeacherSource] = {}

    def spelling(self, network: str) -> str:
        """Return the one spelling of the name of a network, or of several that are joined.

        It may be a name that only teachers of earlier versions have.

        Raises
        ------
        UserError
            The name is not known, or there is no such teacher.
        """
        return TeacherSpec(network).spelled(self._spelled).network

    def _spelled(self, network: str) -> str:
        name, refusal = network_name(network)
        if refusal and all(card.network != name for card in list_teachers(self.runs, self.protocol.name)):
            raise refusal
        return name

    def find(self, spec: TeacherSpec, network: str) -> TeacherCard:
        """Find the card of a teacher; ``network`` is the one spelling of its network's name.

        Raises
        ------
        UserError
            There is none, or there are several.
        """
        return find_teacher(self.runs, self.protocol, spec, network)

    def named(self, spec: TeacherSpec) -> TeacherRef:
        """Return the teacher that is meant, in any spelling.

        Raises
        ------
        UserError
            There is none, or there are several.
        """
        members = spec.spelled(self._spelled).members
        refs = (replace(self.find(member, member.network).ref, epochs=member.epochs) for member in members)
        return TeacherRef.joined(refs)

    def card(self, teacher: TeacherRef) -> TeacherCard:
        """Return the card of a cell's teacher.

        Raises
        ------
        UserError
            There is none.
        """
        return self.find(TeacherSpec(teacher.network, teacher.hash), teacher.network)

    def live(self, card: TeacherCard) -> LiveTeacher:
        """Return the loaded and measured teacher of a card.

        Raises
        ------
        UserError
            Its weights or its accuracy are not those on the card.
        """
        if card.id not in self._live:
            teacher = load_teacher(self.runs, card, self.protocol, self.data.dataset, self.device)
            self._live[card.id] = LiveTeacher(teacher, self.protocol.precision, self.device)
        return self._live[card.id]

    def cache(self, card: TeacherCard) -> TeacherCache:
        """Return the cache of a teacher's outputs.

        Raises
        ------
        UserError
            It is damaged.
        """
        if card.id not in self._caches:
            self._caches[card.id] = TeacherCache(self.runs, Identity.of(card, self.protocol, self.data.dataset))
        return self._caches[card.id]

    def source(self, teacher: TeacherRef, kind: Kind) -> TeacherSource:
        """Return where the outputs of a cell's teacher come from; one object for all cells that have them in common.

        Raises
        ------
        UserError
            There is no such teacher, its weights are not those on the card, or its cache is damaged.
        """
        if (teacher.id, kind) not in self._sources:
            self._sources[teacher.id, kind] = self._source(teacher, kind)
        if kind == "cache":
            for member in teacher.members:
                if not member.is_file:
                    self.cache(self.card(member)).refresh()  # other processes may have added to it
        return self._sources[teacher.id, kind]

    def _source(self, teacher: TeacherRef, kind: Kind) -> TeacherSource:
        dataset = self.data.dataset
        if len(teacher.members) > 1:
            members = [self.source(member, kind) for member in teacher.members]
            return EnsembleSource(teacher, members, dataset.test_labels)
        card = self.card(teacher)
        if teacher.is_file:
            return FileSource(card, *load_logits(self.runs, card, self.protocol, dataset))
        cache = self.cache(card) if kind == "cache" else None
        return NetworkSource(self.live(card), cache, self.protocol.for_teachers().epochs)
