"""Leases: at most one process works on a folder, on one machine or on several that share a file system.

A lease is a numbered file, ``claim-N``, in the folder. It is made by a hard link, which exactly one process can make,
and the one with the highest number holds the folder. A process that finds the holder dead, or is a later start of the
holder's own job, makes the next number. A holder that finds its file gone or a higher one has been superseded, and
writes nothing more.

A holder is dead if, in this order:

- it ran on this machine and its lock on the file is gone: the kernel drops it with the process;
- the batch system says that its job has ended or was started again;
- neither is known, and its last heartbeat is some minutes old, by the clock of the file system.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import final

from kdbench.errors import UserError
from kdbench.utils.files import NotWritten, explain_os_errors, is_temporary, paths_in, sweep, temporary_file
from kdbench.utils.holder import Holder, boot_id, holder_text, read_holder
from kdbench.utils.scheduler import Job, Scheduler

BEAT = 10.0
"""Seconds between two heartbeats of a holder."""
STALE = 180.0
"""Seconds without a heartbeat after which a holder is dead; network file systems may show it a minute late."""
MAX_CRASHES = 8
"""Deaths in a row without progress after which a cell has failed."""
LEASE_PREFIX = "claim-"
"""How the names of lease files begin; other versions of kdbench beside this one read and write the same."""


class Busy(UserError):
    """Another process holds the folder."""


class Superseded(UserError):
    """Another process has taken the folder over: this one writes nothing more."""


class Killed(UserError):
    """Process after process that worked here died."""

    reason = "killed"


@final
class Lease:
    """A folder that this process holds."""

    def __init__(self, path: Path, holder: Holder, descriptor: int) -> None:
        self.path, self.holder, self._descriptor = path, holder, descriptor
        self.superseded = False

    @property
    def crashes(self) -> int:
        """Holders in a row that died before this one without progress."""
        return self.holder.crashes

    def check(self) -> None:
        """Make sure that this process still holds the folder; call it right before each write.

        Raises
        ------
        Superseded
            It does not.
        """
        self.superseded = self.superseded or not self._holds()
        if self.superseded:
            raise Superseded(f"{self.path.parent} was taken over by another process: this one stops")

    def beat(self) -> None:
        """Send a heartbeat: touch the file."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self.superseded = True
        except OSError:
            pass  # a file system that cannot be reached now may be there at the next beat

    def release(self) -> None:
        """Give the folder up."""
        with contextlib.suppress(OSError):
            found = read_holder(self.path)
            if found and found.token == self.holder.token:
                self.path.unlink()
        os.close(self._descriptor)

    def _holds(self) -> bool:
        # Opening the file asks a network file system anew, listing a folder may show an older state of it.
        found = read_holder(self.path)
        return found is not None and found.token == self.holder.token and _highest(self.path.parent) == self.path


@final
class Leases(contextlib.AbstractContextManager["Leases"]):
    """The folders that this process holds, with one heartbeat for all; they are released at the end."""

    def __init__(self, scheduler: Scheduler | None = None) -> None:
        self._scheduler = scheduler or Scheduler()
        self._held: list[Lease] = []
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._heart:
            self._heart.join()
        for lease in self._held:
            lease.release()

    def hold(self, folder: Path, mark: int = 0) -> Lease:
        """Lease a folder, taking it over from a dead holder; temporary files that dead processes left in it go.

        Parameters
        ----------
        mark
            How far the work is: a number that changes with progress.

        Raises
        ------
        Busy
            A live process holds it.
        """
        own = self._scheduler.own_job()
        with explain_os_errors(folder), _draft(folder) as (draft, descriptor):
            last = _highest(folder)
            found = read_holder(last) if last else None
            if last and found and self._lives(last, found, own, draft):
                raise Busy(f"{folder} is being run by {found}: wait for it, or stop it first")
            died = found is not None and not _is_later(own, found.job)
            crashes = (found.crashes if found and found.mark == mark else 0) + died
            holder = Holder(
                token=secrets.token_hex(8),
                host=socket.gethostname(),
                boot=boot_id(),
                pid=os.getpid(),
                job=own,
                since=time.time(),
                mark=mark,
                crashes=crashes,
            )
            os.write(descriptor, holder_text(holder).encode())
            path = folder / f"{LEASE_PREFIX}{_number(last) + 1 if last else 1}"
            try:
                os.link(draft, path)
            except (FileExistsError, FileNotFoundError):  # a new holder has swept the draft
                raise Busy(f"{folder} was just taken by another process: wait for it") from None
            lease = Lease(path, holder, os.dup(descriptor))
        self._held.append(lease)
        if _highest(folder) != path:  # this process slept between its look at the folder and its link
            raise Busy(f"{folder} was just taken by another process: wait for it")
        for old in _all(folder):
            if old != path:
                old.unlink(missing_ok=True)
        for place in _places(folder):
            sweep(place, held=True)
        if self._heart is None:
            self._heart = threading.Thread(target=self._beat, daemon=True, name="leases")
            self._heart.start()
        return lease

    def _lives(self, path: Path, holder: Holder, own: Job | None, draft: Path) -> bool:
        if _is_later(own, holder.job):
            return False
        known = is_alive({path: holder}, self._scheduler)
        return known[path] if path in known else _age(path, draft.stat().st_mtime) < STALE

    def _beat(self) -> None:
        while not self._stop.wait(BEAT):
            for lease in list(self._held):
                lease.beat()


def _is_later(job: Job | None, than: Job | None) -> bool:
    """Return whether a job is a later start of another."""
    return bool(job and than and (job.cluster, job.id) == (than.cluster, than.id) and job.restarts > than.restarts)


def holder_of(folder: Path) -> tuple[Path, Holder] | None:
    """Return the lease file of a folder and its holder, dead or alive; None if nobody holds it."""
    path = _highest(folder)
    holder = read_holder(path) if path else None
    return (path, holder) if path and holder else None


def tidy(folder: Path, scheduler: Scheduler | None = None, unused: Iterable[str] = ()) -> None:
    """Remove what dead processes left in a folder where nothing is left to do.

    Parameters
    ----------
    unused
        Names of files that are not needed any more.
    """
    names = {path.name for place in _places(folder) for path in paths_in(place, "*")}
    leftovers = names.intersection(unused)
    if not leftovers and not any(name.startswith(LEASE_PREFIX) or is_temporary(name) for name in names):
        return
    with contextlib.suppress(Busy, NotWritten), Leases(scheduler) as leases:
        leases.hold(folder)
        for name in leftovers:
            (folder / name).unlink(missing_ok=True)


def is_alive(holders: dict[Path, Holder], scheduler: Scheduler) -> dict[Path, bool]:
    """Return which holders are alive, as far as this machine's kernel and the batch system know."""
    known = {path: lives for path, holder in holders.items() if (lives := _locked(path, holder)) is not None}
    jobs = {holder.job for path, holder in holders.items() if path not in known and holder.job}
    said = scheduler.alive(jobs) if jobs else {}
    return known | {p: said[h.job] for p, h in holders.items() if p not in known and h.job and h.job in said}


def living(holders: dict[Path, Holder], scheduler: Scheduler) -> set[Path]:
    """Return the leases whose holders are alive, by this machine's clock where only the heartbeat tells."""
    known, now = is_alive(holders, scheduler), time.time()
    return {path for path in holders if known.get(path, _age(path, now) < STALE)}


def _age(path: Path, now: float) -> float:
    """Return the seconds since a holder's last heartbeat."""
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return float("inf")


def _locked(path: Path, holder: Holder) -> bool | None:
    """Return whether a process of this machine holds the lock on a lease; None for another machine's."""
    boot = boot_id()
    if holder.boot != boot or (not boot and holder.host != socket.gethostname()):
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:  # another user's
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # this file system knows no locks
        return None
    finally:
        os.close(descriptor)
    return False


@contextlib.contextmanager
def _draft(folder: Path) -> Iterator[tuple[Path, int]]:
    """Make a locked file that can be linked to a lease's name."""
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_file(folder, "claim") as (draft, descriptor):
        yield draft, descriptor


def _places(folder: Path) -> list[Path]:
    """Return a folder and those in it: its holder writes to all of them."""
    return [folder, *(path for path in paths_in(folder, "*") if path.is_dir() and not path.is_symlink())]


def _all(folder: Path) -> list[Path]:
    paths = paths_in(folder, f"{LEASE_PREFIX}*")
    return [path for path in paths if path.name.removeprefix(LEASE_PREFIX).isdecimal()]


def _highest(folder: Path) -> Path | None:
    return max(_all(folder), key=_number, default=None)


def _number(path: Path) -> int:
    return int(path.name.removeprefix(LEASE_PREFIX))
