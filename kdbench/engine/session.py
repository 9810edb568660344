"""From names to runs: resolves what a user asks for into cells, and runs them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from kdbench.data.batches import DeviceData
from kdbench.data.files.names import Report
from kdbench.data.groups import check_devices
from kdbench.data.images import Dataset
from kdbench.data.lazy import LazyData
from kdbench.data.place import MAX_WORKERS, DataPlace
from kdbench.engine.devices import MAX_DEVICES, check_started, device_of, share_machine
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcome
from kdbench.engine.progress import Observer, Observers, quietly
from kdbench.engine.resolve import Names, resolve_cell
from kdbench.engine.team import Team, joined
from kdbench.engine.train import train_cells
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell, TeacherRef, lockstep_groups
from kdbench.experiment.protocol import Protocol, load_protocol
from kdbench.experiment.rule_groups import MAX_EPOCHS, MAX_SIDE
from kdbench.models import canonical_network
from kdbench.teachers.cards import TeacherCard
from kdbench.teachers.logits import import_logits
from kdbench.teachers.make import import_teacher, register_trained
from kdbench.teachers.plan import CacheMode, Sources
from kdbench.teachers.store import TeacherStore
from kdbench.teachers.watch import Watch
from kdbench.utils.device import prepare_process
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.values import argument, flag, number, text, whole_number


@dataclass(frozen=True, kw_only=True)
class Session:
    """One protocol, one data set, one folder of runs, one device.

    Data and teachers are loaded once, when they are first needed.

    Parameters
    ----------
    protocol
        With the user's overrides; data of the user's own replace its ``dataset`` by their hash.
    runs
        Folder of runs.
    data
        Where data sets are read.
    device, download, save_every, compile
        See `Session.open`.
    scheduler
        Knows about the jobs of other processes that work on cells.
    given
        The data set that the user named, in place of the protocol's.
    workers, report
        See `kdbench.data.place.DataPlace.open`.
    devices
        Of each cell; ``device`` is then that of this process.
    predictions
        Whether cells leave their predictions for the test images.
    max_epochs
        See `kdbench.engine.options.Options`.
    """

    protocol: Protocol
    runs: Path
    data: DataPlace
    device: torch.device
    download: bool = False
    save_every: float = 60.0
    compile: bool = False
    scheduler: Scheduler = field(default_factory=Scheduler)
    given: Dataset | None = None
    workers: int | None = None
    report: Report = lambda _: None
    devices: int = 1
    predictions: bool = True
    max_epochs: int | None = None

    @classmethod
    def open(
        cls,
        protocol: str,
        *,
        runs: str | Path = "runs",
        data: str | Path | None = None,
        dataset: str | None = None,
        epochs: int | None = None,
        precision: str | None = None,
        device: str | None = None,
        download: bool = False,
        save_every: float = 60.0,
        compile: bool = False,  # noqa: A002 - the word users know
        scheduler: Scheduler | None = None,
        workers: int | None = None,
        report: Report = lambda _: None,
        devices: int = 1,
        predictions: bool = True,
    ) -> Session:
        """Resolve names; ``data`` is a folder, ``data`` by default, or a data set in place of the protocol's.

        Such a data set is ``npz:FILE`` or image files, ``folder:DIR``; see `kdbench.data.place`. ``dataset`` is
        the name of another known one, which is run under the protocol's other rules. ``workers`` are
        the processes that decode image files, by default as many as the job has CPUs. ``devices`` of this machine, or
        of those on which torchrun or Slurm has started this process, compute each cell, with the same result.

        The process is prepared for training: see `kdbench.utils.device.prepare_process`.

        Raises
        ------
        UserError
            A name is unknown, the data file is not usable, or an option says nothing about the protocol's data.
        """
        with argument("--protocol"):
            text(protocol)
        with argument("--runs"):
            folder = runs if isinstance(runs, Path) else Path(text(runs))
        with argument("--save-every"):
            save_every = number(save_every, 0)
        with argument("--device"):
            device = device if device is None or isinstance(device, torch.device) else text(device)
        for name, value in (("--download", download), ("--compile", compile), ("--no-predictions", predictions)):
            with argument(name):
                flag(value)
        with argument("--devices"):
            devices = whole_number(devices, 1, MAX_DEVICES)
        resolved = load_protocol(protocol).override(epochs=epochs, precision=precision)
        check_devices(resolved.rules.schedule, devices)
        started = check_started(devices)
        place = DataPlace.parse(data)
        resolved = place.choose(resolved, dataset)
        place.check(resolved.dataset, download=download)
        if workers is not None:
            with argument("--workers"):
                workers = whole_number(workers, 0, MAX_WORKERS)
        workers = share_machine(devices, started, workers)
        own_device = prepare_process(device_of(device, devices, started, compiling=compile))
        if started:
            joined(own_device)  # at once: the others may have to wait for this process later
        given = None
        if place.kind:
            given = place.open(resolved, download=download, num_workers=workers, report=report)
            resolved = resolved.override(dataset=place.rule(given))
        return cls(
            protocol=resolved,
            runs=folder,
            data=place,
            device=own_device,
            devices=devices,
            download=download,
            save_every=save_every,
            compile=compile,
            scheduler=scheduler or Scheduler(),
            given=given,
            workers=workers,
            report=report,
            predictions=predictions,
        )

    @cached_property
    def _lazy(self) -> LazyData:
        # It holds no session: caches are free for others as soon as a session is dropped.
        given, options = self.given, {"num_workers": self.workers, "report": self.report}
        opened = partial(self.data.open, self.protocol, download=self.download, **options)  # type: ignore[arg-type]
        return LazyData((lambda: given) if given else opened, self.protocol, self.device)

    @property
    def dataset(self) -> Dataset:
        """The data set, loaded and checked on first use."""
        return self._lazy.dataset

    @property
    def device_data(self) -> DeviceData:
        """The data set on the device."""
        return self._lazy.on_device

    @cached_property
    def teachers(self) -> TeacherStore:
        """The teachers of this protocol and data set."""
        return TeacherStore(self.runs, self.protocol, self._lazy, self.device, self.scheduler)

    def cell(
        self,
        *,
        method: str,
        student: str,
        teacher: str | TeacherRef | None = None,
        seed: int,
        settings: dict[str, Any] | None = None,
        init: str = "",
    ) -> Cell:
        """Resolve one cell; ``teacher`` is ``NETWORK``, with ``:EPOCHS`` or ``@HASH``, or one that need not exist yet.

        ``init`` is the hash of weights to start from; see `kdbench.engine.inits.bring`.

        Raises
        ------
        UserError
            A name or setting is unknown, there is no such teacher, or only cells of earlier versions have such a name.
        """
        names = Names(method, student, teacher, seed, settings, init)
        return resolve_cell(names, self.protocol, self.runs, self.teachers)

    def run(
        self,
        cell: Cell,
        observer: Observer = lambda _: None,
        *,
        cache: CacheMode = "auto",
        watch: Watch | None = None,
    ) -> dict[str, Any]:
        """Run a cell, or return the record that it has.

        Raises
        ------
        UserError
            The cell failed.
        """
        (outcome,) = self.run_all([cell], lambda _: observer, cache=cache, watch=watch)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def run_all(
        self,
        cells: Sequence[Cell],
        observers: Observers = quietly,
        *,
        cache: CacheMode = "auto",
        together: int | None = None,
        watch: Watch | None = None,
    ) -> list[Outcome]:
        """Run cells, those of one seed in lockstep, and return what became of each.

        Parameters
        ----------
        cache
            ``on``: teacher outputs come from the cache, which is built where it lacks some; ``off``: from the live
            teacher; ``auto``: from the cache where it has all or building it saves forward passes; ``ready``: from the
            cache where it has all.
        together
            How many cells are in lockstep at most; all that can by default.
        watch
            Shows the building of caches.
        """
        lockstep = lockstep_groups(cells, together)
        sources = Sources(self.teachers, lockstep, cache, watch or Watch())
        outcomes: dict[str, Outcome] = {}
        with Team(self.devices, self.device, lambda: self._work(cells)) as team:
            for group in lockstep:
                results = train_cells(group, lambda: self.device_data, sources.of, self.options, observers, team)
                outcomes |= {cell.id: outcome for cell, outcome in zip(group, results, strict=True)}
        return [outcomes[cell.id] for cell in cells]

    def build_caches(
        self,
        cells: Sequence[Cell],
        *,
        cache: CacheMode = "auto",
        together: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Build the caches that `run_all` would build for these cells.

        Raises
        ------
        UserError
            One cannot be built.
        """
        Sources(self.teachers, lockstep_groups(cells, together), cache, watch or Watch()).prepare()

    def with_side(self, image_size: int | None) -> Session:
        """Return the session in which a teacher with images of its own size is trained; the same one for None.

        Raises
        ------
        UserError
            There can be no images of this size.
        """
        if image_size is None:
            return self
        with argument("--image-size"):
            side = whole_number(image_size, 1, MAX_SIDE)
        dataset = self.dataset.with_side(side)
        if dataset.shape == self.dataset.shape:
            return self
        return replace(self, protocol=self.protocol.with_side(side), given=dataset)

    def teacher_cell(
        self, network: str, *, seed: int = 0, init: str = "", hold_out: bool = False, epochs: int | None = None
    ) -> Cell:
        """Return the cell that trains a teacher: a baseline of as many epochs as the protocol gives its teachers.

        ``hold_out`` and ``epochs``: see `kdbench.experiment.protocol.Protocol.for_teachers`.
        """
        if epochs is not None:
            with argument("--epochs"):
                epochs = whole_number(epochs, 0, MAX_EPOCHS)
        if epochs == 0 and init:
            raise UserError("--epochs 0 makes a teacher of random weights: leave --from out")
        cell = self.cell(method=self.protocol.baseline, student=network, seed=seed, init=init)
        return replace(cell, protocol=self.protocol.for_teachers(hold_out=hold_out, epochs=epochs))

    def train_teacher(
        self,
        network: str,
        *,
        seed: int = 0,
        init: str = "",
        image_size: int | None = None,
        hold_out: bool = False,
        epochs: int | None = None,
    ) -> TeacherCard:
        """Train a network without a teacher, or find its finished cell, and make it a teacher.

        ``image_size`` is the side of the images that it takes, in pixels; by default they are the student's.
        ``hold_out`` and ``epochs``: see `teacher_cell`.
        """
        with argument("--hold-out"):
            flag(hold_out)
        session = self.with_side(image_size)
        cell = session.teacher_cell(network, seed=seed, init=init, hold_out=hold_out, epochs=epochs)
        return register_trained(self.runs, cell, session.run(cell), None if session is self else image_size)

    def import_teacher(
        self,
        weights: str | Path,
        network: str,
        *,
        expected: float | None = None,
        key: str | None = None,
        image_size: int | None = None,
    ) -> TeacherCard:
        """Import a checkpoint as a teacher; see `kdbench.teachers.make.import_teacher`."""
        expected = _expected(expected)
        self.with_side(image_size)  # checks it
        return import_teacher(
            weights,
            canonical_network(network),
            runs=self.runs,
            protocol=self.protocol,
            dataset=self.dataset,
            device=self.device,
            expected=expected,
            key=key,
            image_size=image_size,
        )

    def import_logits(
        self, file: str | Path, name: str = "", *, expected: float | None = None
    ) -> tuple[TeacherCard, float]:
        """Import a file of logits as a teacher; see `kdbench.teachers.logits.import_logits`."""
        return import_logits(
            Path(file),
            name,
            runs=self.runs,
            protocol=self.protocol,
            dataset=self.dataset,
            expected=_expected(expected),
        )

    def _work(self, cells: Sequence[Cell]) -> bytes:
        """Return what the processes are given that compute cells with this one."""
        names = ("protocol", "data", "device", "download", "save_every", "compile", "workers", "devices")
        given = {name: getattr(self, name) for name in (*names, "predictions", "max_epochs")}
        return pickle.dumps(({"runs": self.runs.absolute()} | given, cells))

    @property
    def options(self) -> Options:
        """How cells are run."""
        return Options(
            runs=self.runs,
            device=self.device,
            save_every=self.save_every,
            scheduler=self.scheduler,
            compile=self.compile,
            predictions=self.predictions,
            max_epochs=self.max_epochs,
        )


def _expected(accuracy: float | None) -> float | None:
    """Return an expected accuracy as a plain number; UserError if it is none."""
    with argument("--accuracy"):
        return None if accuracy is None else number(accuracy)
