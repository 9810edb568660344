"""From names to runs: resolves what a user asks for into cells, and runs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from kdbench import teachers
from kdbench.cell import Cell
from kdbench.data.datasets import Dataset, load_dataset
from kdbench.device import pick_device
from kdbench.errors import UserError
from kdbench.models import canonical_network
from kdbench.protocol import Protocol, load_protocol
from kdbench.registry import load_method, method_name, resolve_settings
from kdbench.teachers import TeacherCard
from kdbench.trainer import Observer, Options, train_cell

NPZ = "npz:"


@dataclass(frozen=True, kw_only=True)
class Session:
    """One protocol, one data set, one folder of runs, one device.

    Parameters
    ----------
    protocol
        With the user's overrides; a data file of the user's own replaces its ``dataset`` by the file's hash.
    runs, data
        Folders of runs and of data sets.
    given
        The data set of a file, in place of one by name.
    """

    protocol: Protocol
    runs: Path
    data: Path
    device: torch.device
    download: bool = False
    save_every: float = 60.0
    given: Dataset | None = None

    @classmethod
    def open(
        cls,
        protocol: str,
        *,
        runs: str | Path = "runs",
        data: str | Path = "data",
        epochs: int | None = None,
        precision: str | None = None,
        device: str | None = None,
        download: bool = False,
        save_every: float = 60.0,
    ) -> Session:
        """Resolve names; ``data`` is a folder, or ``npz:FILE``, which replaces the protocol's data set.

        Raises
        ------
        UserError
            A name is unknown, or the data file is not usable.
        """
        resolved = load_protocol(protocol).override(epochs=epochs, precision=precision)
        given = load_dataset(str(data), Path()) if str(data).startswith(NPZ) else None
        if given:
            resolved = resolved.override(dataset=f"{NPZ}{given.fingerprint[:16]}")
        return cls(
            protocol=resolved,
            runs=Path(runs),
            data=Path(data),
            device=pick_device(device),
            download=download,
            save_every=save_every,
            given=given,
        )

    @cached_property
    def dataset(self) -> Dataset:
        """The data set, loaded and checked on first use."""
        return self.given or load_dataset(self.protocol.dataset, self.data, download=self.download)

    def cell(
        self,
        *,
        method: str,
        student: str,
        teacher: str | None = None,
        seed: int,
        settings: dict[str, Any] | None = None,
    ) -> Cell:
        """Resolve one cell; ``teacher`` is ``NETWORK`` or ``NETWORK@HASH``.

        Raises
        ------
        UserError
            A name or setting is unknown, or there is no such teacher.
        """
        method, student = method_name(method), canonical_network(student)
        kind = load_method(method)
        network = canonical_network(teacher.partition("@")[0]) if teacher else None
        if kind.teacher_reads and not (teacher and network):
            raise UserError(f"method {method} needs a teacher: name one with --teacher NETWORK")
        if not 0 <= seed < 2**31:
            raise UserError(f"--seed must be between 0 and {2**31 - 1}, not {seed}")
        resolved = resolve_settings(
            method, dataset=self.protocol.dataset, teacher=network, student=student, chosen=settings
        )
        card = self.teacher_card(teacher, network) if kind.teacher_reads and teacher and network else None
        return Cell(
            protocol=self.protocol,
            teacher=card.ref if card else None,
            student=student,
            method=method,
            method_version=kind.VERSION,
            settings=resolved,
            seed=seed,
        )

    def teacher_card(self, spec: str, network: str) -> TeacherCard:
        """Find a teacher of this protocol and data set."""
        return teachers.find_teacher(self.runs, self.protocol, spec, network)

    def run(self, cell: Cell, observer: Observer = lambda _: None) -> dict[str, Any]:
        """Run a cell, or return the record that it has."""
        return train_cell(cell, lambda: self.dataset, lambda: self.teacher(cell), self.options, observer)

    def teacher(self, cell: Cell) -> teachers.Teacher | None:
        """The loaded and measured teacher of a cell."""
        if cell.teacher is None:
            return None
        spec = f"{cell.teacher.network}@{cell.teacher.id.partition(':')[2]}"
        card = self.teacher_card(spec, cell.teacher.network)
        return teachers.load_teacher(self.runs, card, self.protocol, self.dataset, self.device)

    def train_teacher(self, network: str, *, seed: int = 0) -> TeacherCard:
        """Train a network alone, or find its finished cell, and make it a teacher."""
        cell = self.cell(method=self.protocol.alone, student=network, seed=seed)
        return teachers.register_trained(self.runs, cell, self.run(cell))

    def import_teacher(self, path: Path, network: str, *, expected: float | None = None) -> TeacherCard:
        """Import a checkpoint as a teacher; see :func:`kdbench.teachers.import_teacher`."""
        return teachers.import_teacher(
            path,
            canonical_network(network),
            runs=self.runs,
            protocol=self.protocol,
            dataset=self.dataset,
            device=self.device,
            expected=expected,
        )

    @property
    def options(self) -> Options:
        """How cells are run."""
        return Options(runs=self.runs, device=self.device, save_every=self.save_every)


def train(
    protocol: str,
    *,
    student: str,
    method: str,
    teacher: str | None = None,
    seed: int = 1,
    settings: dict[str, Any] | None = None,
    observer: Observer = lambda _: None,
    **session: Any,
) -> dict[str, Any]:
    """Run one cell, or find its record; what ``kdbench train`` does.

    Parameters
    ----------
    protocol, student, method, teacher
        Names; ``teacher`` may be ``NETWORK@HASH``. A method that reads no teacher ignores it.
    seed
        Decides the student's initial weights, the order of the images and their views.
    settings
        Hyper-parameters that differ from the method's recipe.
    observer
        Is called with a :class:`kdbench.trainer.Progress` while training.
    **session
        ``runs``, ``data``, ``epochs``, ``precision``, ``device``, ``download``, ``save_every``:
        see :meth:`Session.open`.

    Returns
    -------
    dict
        The record: accuracy, calibration, fidelity, cost, configuration and environment.

    Raises
    ------
    kdbench.UserError
        Something asked for does not exist or cannot be run; nothing is lost.
    """
    opened = Session.open(protocol, **session)
    cell = opened.cell(method=method, student=student, teacher=teacher, seed=seed, settings=settings)
    return opened.run(cell, observer)
