"""What has been submitted: one folder a submission, with its jobs, their logs, and the code that they run."""

from __future__ import annotations

import dataclasses
import getpass
import importlib
import json
import os
import shlex
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdbench.engine.environment import CODE_STATE, code_state
from kdbench.engine.session import NPZ
from kdbench.errors import UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.user_methods import FOLDERS, folders
from kdbench.grid.grid import Grid
from kdbench.grid.states import State, Status, survey
from kdbench.teachers.plan import CacheMode
from kdbench.utils.files import explain_os_errors, write_json
from kdbench.utils.leases import holder_of, living
from kdbench.utils.names import safe_name

from .scheduler import Known, Slurm

Kind = Literal["slurm", "local"]
_MANIFEST, CODE = "submission.json", "code"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How cells are run, besides what the grid's file and a profile say."""

    jobs: int = 1
    """Workers of this machine."""
    together: int = 1
    """Cells that a worker of this machine trains in lockstep at most."""
    cache: CacheMode = "auto"
    device: str | None = None
    compile: bool = False
    save_every: float = 60.0

    def session(self, grid: Grid) -> dict[str, Any]:
        """What a job opens its session with, wherever it runs."""
        file, data = grid.file, str(grid.session.data)
        given = data.removeprefix(NPZ)
        return {
            "protocol": file.protocol,
            "epochs": file.epochs,
            "precision": file.precision,
            "runs": str(grid.session.runs.absolute()),
            "data": f"{NPZ if given != data else ''}{Path(given).absolute()}",
            "device": self.device,
            "compile": self.compile,
            "save_every": self.save_every,
        }


@dataclass(frozen=True, slots=True)
class Sent:
    """A job that was submitted: a Slurm job, or a worker of this machine."""

    id: str
    stage: str
    cells: tuple[str, ...]
    """Ids of the cells that it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """Jobs that were submitted together."""

    folder: Path
    kind: Kind
    cluster: str
    profile: dict[str, Any]
    """The profile in plain values; empty for workers of this machine."""
    launch: Launch
    jobs: tuple[Sent, ...]

    def write(self) -> None:
        """Keep it in its folder."""
        values = dataclasses.asdict(self)
        del values["folder"]
        write_json(self.folder / _MANIFEST, values)

    def log(self, job: Sent) -> Path:
        """Where the messages of a Slurm job are."""
        return self.folder / f"{job.id}_0_log.out"


def new_folder(grid: Grid, kind: Kind) -> Path:
    """Make a folder for a submission of a grid."""
    parent = folder_of(grid)
    with explain_os_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name[:4]) for path in parent.glob("[0-9][0-9][0-9][0-9]-*")), default=0)
        while True:
            folder = parent / f"{number:04d}-{kind}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder.absolute()


def folder_of(grid: Grid) -> Path:
    """Where a grid's submissions lie."""
    return grid.session.runs / grid.session.protocol.name / "grids" / safe_name(grid.file.name)


def freeze_code(folder: Path) -> list[str]:
    """Copy the code to a submission's folder; return the lines of shell that let a job import it from there.

    Of a user's folders of methods, the files that may be methods, helpers and recipes are copied.
    """
    code = folder / CODE
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
    with explain_os_errors(code):
        for package in ("kdbench", "kdbench.methods", "kdbench.slurm"):
            for part in importlib.import_module(package).__path__:
                shutil.copytree(part, code / package.replace(".", "/"), ignore=ignore, dirs_exist_ok=True)
        write_json(code / CODE_STATE, code_state())
        copies = [code / "own" / str(number) for number in range(len(folders()))]
        for source, copy in zip(folders(), copies, strict=True):
            copy.mkdir(parents=True)
            for path in (*source.glob("*.py"), *source.glob("*.toml")):
                shutil.copy(path, copy)
    # Without the second line the folder in which the job was submitted would come first.
    lines = [f"export PYTHONPATH={shlex.quote(str(code))}${{PYTHONPATH:+:$PYTHONPATH}}", "export PYTHONSAFEPATH=1"]
    own = os.pathsep.join(map(str, copies))
    return [*lines, f"export {FOLDERS}={shlex.quote(own)}"] if own else lines


def read_submissions(grid: Grid) -> list[Submission]:
    """All submissions under a grid's protocol, the oldest first: grids may share cells."""
    parent = folder_of(grid).parent
    found = []
    for path in sorted(parent.glob(f"*/*/{_MANIFEST}"), key=lambda path: path.stat().st_mtime_ns):
        try:
            values = json.loads(path.read_bytes())
            jobs = tuple(Sent(job["id"], job["stage"], tuple(job["cells"])) for job in values.pop("jobs"))
            launch = Launch(**values.pop("launch"))
            found.append(Submission(folder=path.parent, launch=launch, jobs=jobs, **values))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is damaged ({error}): move its folder away") from None
    return found


@dataclass(frozen=True, slots=True)
class Overview:
    """The cells of a grid, and those that train its teachers, with their states."""

    statuses: list[Status]
    teachers: list[Status]
    jobs: dict[str, tuple[Submission, Sent]]
    """The job that had a cell last, by the cell's id."""
    problem: str
    """Why Slurm could not be asked, where it should have been."""

    def count(self, state: State) -> int:
        """Cells in a state."""
        return sum(status.state == state for status in self.statuses)

    def of(self, *states: State) -> list[Cell]:
        """Cells in some states."""
        return [status.cell for status in self.statuses if status.state in states]


def look(grid: Grid, scheduler: Slurm) -> Overview:
    """Find the state of every cell of a grid."""
    cells = {cell.id: cell for cell in (*grid.to_train, *grid.cells)}
    last: dict[str, tuple[Submission, Sent]] = {}
    for submission in read_submissions(grid):
        for job in submission.jobs:
            last |= {cell: (submission, job) for cell in job.cells if cell in cells}
    slurm = any(submission.kind == "slurm" for submission, _ in last.values())
    known = scheduler.jobs([getpass.getuser()]) if slurm else {}
    problem = "Slurm does not answer: cells of jobs that have ended are shown as queued" if known is None else ""
    by_job = {(found[0].folder, found[1].id): found for found in last.values()}
    words = {key: _words(*found, known) for key, found in by_job.items()}
    told_of = {cell: words[submission.folder, job.id] for cell, (submission, job) in last.items()}
    queued = {cell: text for cell, (waits, text) in told_of.items() if waits}
    # What workers of this machine have left is to do; a job of Slurm's that has ended should have done its cells.
    gone = {cell: text for cell, (waits, text) in told_of.items() if not waits and last[cell][0].kind == "slurm"}
    runs = grid.session.runs
    statuses = survey(grid.cells, runs, scheduler, queued, gone)
    teachers = survey(grid.to_train, runs, scheduler, queued, gone)
    forgotten = {
        last[status.cell.id][1].id
        for status in (*statuses, *teachers)
        if status.state == State.LOST
        and status.cell.id in last
        and last[status.cell.id][0].kind == "slurm"
        and last[status.cell.id][1].id not in (known or {})
    }
    ended = scheduler.ended(forgotten)

    def told(status: Status) -> Status:
        if status.state != State.LOST or status.cell.id not in last:
            return status
        submission, job = last[status.cell.id]
        if submission.kind == "local":
            return replace(status, job=f"it was stopped; logs: {submission.folder}")
        how = f" ({ended[job.id]})" if job.id in ended else ""
        log = f"; log: {submission.log(job)}" if submission.log(job).exists() else ""
        return replace(status, job=f"{status.job}{how}{log}")

    return Overview(list(map(told, statuses)), list(map(told, teachers)), last, problem)


def _words(submission: Submission, job: Sent, known: dict[str, Known] | None) -> tuple[bool, str]:
    """Whether a job may still run its cells, and what to say of it.

    Parameters
    ----------
    known
        What Slurm says; None where it does not answer: a job may then live, and is not submitted a second time.
    """
    if submission.kind == "local":
        return lives(submission.folder / job.id), "a worker of this grid will come to it"
    if known is None:
        return True, f"job {job.id}"
    if job.id not in known:
        return False, f"job {job.id} has ended"
    return not known[job.id].over, f"job {job.id} {known[job.id]}"


def lives(place: Path) -> bool:
    """Whether a live process holds a place."""
    found = holder_of(place)
    return found is not None and bool(living(dict([found]), Slurm()))
