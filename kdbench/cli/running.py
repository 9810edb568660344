"""Open sessions, and run cells with their progress on the screen."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from kdbench.cli.options import console, echo
from kdbench.cli.output import write_error
from kdbench.errors import UserError
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.text import counted

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.experiment.cell import Cell
    from kdbench.teachers.cards import TeacherCard
    from kdbench.teachers.plan import CacheMode


def find_scheduler() -> Scheduler:
    """Return this machine's batch system, or one that knows no jobs where none is installed."""
    if shutil.which("scontrol") is None and "SLURM_JOB_ID" not in os.environ:
        return Scheduler()
    from kdbench.slurm.scheduler import Slurm

    scheduler: Scheduler = Slurm()
    return scheduler


def open_session(
    protocol: str,
    *,
    runs: Path,
    data: str | None = None,
    dataset: str | None = None,
    epochs: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    devices: int = 1,
    download: bool = False,
    save_every: float = 60.0,
    workers: int | None = None,
    compile_: bool = False,
    predictions: bool = True,
) -> Session:
    """Open a session with the options of a command.

    Raises
    ------
    UserError
        A name is unknown, or the data file cannot be used.
    """
    from kdbench.engine.devices import check_started
    from kdbench.engine.session import Session

    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        dataset=dataset,
        epochs=epochs,
        precision=precision,
        device=device,
        devices=devices,
        download=download,
        save_every=save_every,
        workers=workers,
        report=echo,
        compile=compile_,
        predictions=predictions,
        scheduler=find_scheduler(),
    )
    place = check_started(devices)
    console().quiet = place is not None and place.rank > 0  # the leading process prints
    print_unused(session)
    return session


def print_unused(session: Session) -> None:
    """Print which arrays of a data file nothing reads, such as those of a validation set."""
    from kdbench.data.arrays import listed

    if session.given and session.given.unused:
        echo(f"not used: {listed(session.given.unused)} of {session.data.word}")


def run_cells(
    session: Session, cells: list[Cell], *, cache: CacheMode = "auto", lockstep: int | None = None
) -> list[dict[str, Any]]:
    """Run cells with their progress on the screen, and return their records.

    Raises
    ------
    typer.Exit
        Some cells failed, each of which is one line on standard error; the others are finished. Or this process has
        helped another one, which prints.
    """
    from kdbench.engine.display import Display
    from kdbench.engine.follow import follow_launch
    from kdbench.experiment.folder import read_record

    if follow_launch(session, cells):
        raise typer.Exit
    records = []
    with Display(console()) as display:
        existed = {cell.id for cell in cells if read_record(cell.folder(session.runs), cell)}
        outcomes = session.run_all(cells, display.observer, cache=cache, together=lockstep, watch=display)
        for cell, outcome in zip(cells, outcomes, strict=True):
            if not isinstance(outcome, Exception):
                display.done(cell, outcome, existed=cell.id in existed)
                records.append(outcome)
    warn_of_changes(session, [cell for cell in cells if cell.id in existed])
    _warn_of_teachers(session, records)
    failures = [
        (_failure_line(session, cell, outcome), isinstance(outcome, UserError))
        for cell, outcome in zip(cells, outcomes, strict=True)
        if isinstance(outcome, Exception)
    ]
    for line in dict.fromkeys(line for line, _ in failures):
        write_error(line)
    if failures:
        raise typer.Exit(2 if all(expected for _, expected in failures) else 1)
    return records


def _failure_line(session: Session, cell: Cell, error: Exception) -> str:
    """Describe in one line why a cell failed; the traceback of an unexpected error is in the cell's folder."""
    from kdbench.engine.code import code_of
    from kdbench.experiment.folder import FAILURE
    from kdbench.utils.text import one_line

    if isinstance(error, UserError):
        return str(error)
    own = [source for source in code_of(cell).values() if source.own]
    source = next((source for source in own if source.raised(error)), own[0] if own else None)
    reason = source.place_of(error) if source else f"{type(error).__name__}: {one_line(error)}"
    return f"{cell} failed: {reason}; traceback: {cell.folder(session.runs) / FAILURE}"


def warn_of_changes(session: Session, done: list[Cell]) -> None:
    """Print which of the user's methods and networks have changed since these finished cells were run."""
    from kdbench.engine.code import changed_code, code_of, texts_of
    from kdbench.experiment.folder import RECORD
    from kdbench.utils.reading import read_object

    changed = Counter[str]()
    for cell in done:
        if any(source.own for source in code_of(cell).values()):
            record = read_object(cell.folder(session.runs) / RECORD)
            changed.update(source.where for source in changed_code(cell, texts_of(record)))
    for file, number in changed.items():
        subject, cells = ("this record was", "its cell") if number == 1 else (f"{number} records were", "their cells")
        echo(f"{file} has changed since {subject} made: raise its VERSION to run {cells} again")


def _warn_of_teachers(session: Session, records: list[dict[str, Any]]) -> None:
    """Print what is doubtful about the teachers of finished cells, once each."""
    from kdbench.teachers.doubts import doubts_of

    taught = [record for record in records if record["teacher"]]
    seeds = {record["seed"] for record in taught}
    alone = {student: _student_only(session, student, seeds) for student in {record["student"] for record in taught}}
    lines = [line for record in taught for line in doubts_of(record, alone[record["student"]])]
    for line in dict.fromkeys(lines):
        echo(f"warning: {line}")


def _student_only(session: Session, student: str, seeds: set[int]) -> float | None:
    """Return the mean accuracy of a student trained without a teacher, of those seeds that were run."""
    from kdbench.experiment.folder import read_record

    network, _, init = student.partition("@")
    method, accuracies = session.protocol.baseline, []
    for seed in sorted(seeds):
        with contextlib.suppress(UserError):  # a damaged record is named where it is used
            cell = session.cell(method=method, student=network, seed=seed, init=init)
            if record := read_record(cell.folder(session.runs), cell):
                accuracies.append(record["top1"])
    return sum(accuracies) / len(accuracies) if accuracies else None


def train_teacher(
    session: Session,
    network: str,
    seed: int,
    init: str = "",
    image_size: int | None = None,
    *,
    hold_out: bool = False,
    epochs: int | None = None,
) -> TeacherCard:
    """Train a teacher with its progress on the screen, unless its cell is finished, and register it."""
    own = session.with_side(image_size)
    run_cells(own, [own.teacher_cell(network, seed=seed, init=init, hold_out=hold_out, epochs=epochs)])
    return session.train_teacher(network, seed=seed, init=init, image_size=image_size, hold_out=hold_out, epochs=epochs)


def bring(session: Session, network: str, weights: str) -> str:
    """Bring weights for a network's training to start from; print what is not kept of them, and return their hash."""
    from kdbench.engine.inits import bring as brought

    init, other_classes = brought(session, network, weights)
    if other_classes is not None:
        classes = session.dataset.num_classes
        echo(f"{weights}: its classifier of {counted(other_classes, 'class')} is replaced by a fresh one of {classes}")
    return init
