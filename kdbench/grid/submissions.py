"""Write and read submissions: one folder each, with its jobs and their logs, whoever launched them."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

from kdbench.data.place import MAX_WORKERS
from kdbench.grid.grid import Grid
from kdbench.teachers.plan import CacheMode
from kdbench.utils.files import explain_os_errors, paths_in, write_json
from kdbench.utils.leases import holder_of, living
from kdbench.utils.names import safe_name
from kdbench.utils.reading import Missing, read_json
from kdbench.utils.resources import owned_cpus
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.values import argument, choice, number, text, whole_number

Launcher = Literal["slurm", "local"]
"""Who starts the jobs: Slurm, or this machine."""
REPORT = "ended.json"
"""Written to a worker's folder when nothing is left to do or it was stopped; a worker that crashed writes nothing."""
_MANIFEST = "submission.json"
_LAUNCHER, _LOCKSTEP = "kind", "together"
"""What the manifest calls ``launcher`` and ``lockstep``; other versions of kdbench read and write the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How cells are run, besides what the grid's file and a profile say."""

    jobs: int = 1
    """Number of workers on this machine."""
    lockstep: int = 1
    """Maximum number of cells that a worker on this machine trains in lockstep."""
    devices: int = 1
    """Devices that compute each cell."""
    cache: CacheMode = "auto"
    device: str | None = None
    compile: bool = False
    save_every: float = 60.0
    workers: int | None = None
    """Processes that decode image files, for each worker or job; their share of the CPUs if not given."""
    predictions: bool = True
    """Leave the predictions for the test images beside each record."""

    def __post_init__(self) -> None:
        with argument("--save-every"):
            number(self.save_every, 0)
        for name in ("jobs", "lockstep", "devices"):
            with argument(f"--{name}"):
                whole_number(getattr(self, name), 1)
        with argument("--workers"):
            if self.workers is not None:
                whole_number(self.workers, 0, MAX_WORKERS)

    def session(self, grid: Grid) -> dict[str, Any]:
        """Return the arguments with which a job opens its session, in any folder."""
        file, session = grid.file, grid.session
        return {
            "protocol": file.protocol,
            "epochs": file.epochs,
            "precision": file.precision,
            "runs": str(session.runs.absolute()),
            "data": session.data.absolute(session.protocol.dataset),
            "dataset": file.dataset,
            "device": self.device,
            "compile": self.compile,
            "save_every": self.save_every,
            "workers": self._workers(),
            "devices": self.devices,
            "predictions": self.predictions,
        }

    def _workers(self) -> int | None:
        """Return the processes that decode images for each process that trains."""
        if self.workers is None and self.jobs > 1:
            return max(1, owned_cpus() // (self.jobs * self.devices))
        return self.workers


@dataclass(frozen=True, slots=True)
class SubmittedJob:
    """A job that was submitted: a Slurm job, or a worker on this machine."""

    id: str
    stage: str
    cells: tuple[str, ...]
    """Ids of the cells that it runs."""
    slots: tuple[str, ...] = ()
    """Keys of the slots of a search that it runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The jobs that one command submitted."""

    folder: Path
    launcher: Launcher
    cluster: str
    profile: dict[str, Any]
    """The profile in plain values; empty for workers on this machine."""
    launch: Launch
    jobs: tuple[SubmittedJob, ...]
    file: str = ""
    """Path of the grid's file; empty in submissions of earlier versions."""

    @property
    def time(self) -> int:
        """Return when it was made, as a number that grows; 0 for one that was deleted meanwhile."""
        try:
            return (self.folder / _MANIFEST).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def is_of(self, grid: Grid) -> bool:
        """Return whether the grid's file was submitted, whatever it said then."""
        if self.file and Path(self.file).exists():
            return self.file == str(grid.file.path.absolute())
        return self.folder.parent.name == folder_of(grid).name

    def served_by(self, job: SubmittedJob) -> frozenset[str]:
        """Return the ids of the cells that need a job; one that runs none builds caches for the others."""
        return frozenset(job.cells or (cell for other in self.jobs for cell in other.cells))

    def starts(self, job: SubmittedJob, scheduler: Scheduler) -> bool:
        """Return whether a worker of this machine has yet to begin: the process that starts it lives."""
        return not (self.folder / job.id / REPORT).exists() and is_held(self.folder, scheduler)

    def write(self) -> None:
        """Write the manifest to the submission's folder."""
        values = dataclasses.asdict(self)
        del values["folder"]
        if not self.file:
            del values["file"]
        for job in values["jobs"]:
            if not job["slots"]:  # kdbench 0.1.0 knows none
                del job["slots"]
        values[_LAUNCHER] = values.pop("launcher")
        launch = values["launch"]
        launch[_LOCKSTEP] = launch.pop("lockstep")
        for name, default in (("workers", None), ("devices", 1), ("predictions", True)):  # kdbench 0.1.0 knows none
            if launch[name] == default:
                del launch[name]
        write_json(self.folder / _MANIFEST, values)

    def log(self, job: SubmittedJob) -> Path:
        """Return the log of a Slurm job."""
        return self.folder / f"{job.id}_0_log.out"


def new_folder(grid: Grid, launcher: Launcher) -> Path:
    """Make a folder for a submission of a grid."""
    parent = folder_of(grid)
    with explain_os_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(path.name[:4]) for path in paths_in(parent, "[0-9][0-9][0-9][0-9]-*")), default=0)
        while True:
            folder = parent / f"{number:04d}-{launcher}"
            try:
                folder.mkdir()
            except FileExistsError:
                number += 1
            else:
                return folder.absolute()


def unbegun_folders(grid: Grid) -> list[Path]:
    """Return the folders of a grid's submissions that have no manifest: it is being written, or never will be."""
    folders = paths_in(folder_of(grid), "[0-9]*-*/")
    return [folder for folder in folders if not os.path.lexists(folder / _MANIFEST)]


def folder_of(grid: Grid) -> Path:
    """Return the folder of a grid's submissions."""
    return grid.session.runs / grid.session.protocol.name / "grids" / safe_name(grid.file.name)


def read_submissions(grid: Grid) -> tuple[list[Submission], dict[Path, str]]:
    """Read all submissions under a grid's protocol, oldest first: grids may share cells.

    Returns
    -------
    submissions
    damages
        The folders of those that cannot be read, each with the reason and what to do.
    """
    submissions: list[Submission] = []
    damages: dict[Path, str] = {}
    for folder in paths_in(folder_of(grid).parent, "*/*/"):
        path = folder / _MANIFEST
        try:
            submissions.append(_parse(folder, read_json(path)))
        except Missing:
            continue  # not written yet, or deleted meanwhile
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = f"{error} is missing" if isinstance(error, KeyError) else error
            damages[folder] = f"{path} is damaged ({reason}): move its folder away"
    return sorted(submissions, key=lambda submission: submission.time), damages


def _parse(folder: Path, values: dict[str, Any]) -> Submission:
    jobs = tuple(
        SubmittedJob(
            text(job["id"]),
            text(job["stage"]),
            tuple(map(text, job["cells"])),
            tuple(map(text, job.get("slots", ()))),
        )
        for job in values["jobs"]
    )
    launch = values["launch"]
    return Submission(
        folder=folder,
        launcher=cast("Launcher", choice(values[_LAUNCHER], get_args(Launcher))),
        cluster=values["cluster"],
        profile=values["profile"],
        launch=Launch(lockstep=launch.pop(_LOCKSTEP, 1), **launch),
        jobs=jobs,
        file=values.get("file", ""),
    )


def is_held(folder: Path, scheduler: Scheduler) -> bool:
    """Return whether a live process holds a folder."""
    held = holder_of(folder)
    return held is not None and bool(living(dict([held]), scheduler))
