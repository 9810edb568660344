"""The process that holds a lease, as its file says it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kdbench.utils.reading import Missing, read_json
from kdbench.utils.scheduler import Job
from kdbench.utils.values import number, shown, whole_number

_CRASHES = "deaths"
"""What a lease file calls ``crashes``."""
_LATEST = 2.0**37
"""Largest time that a holder may have, in the year 6325: the C library cannot print any number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who holds a folder."""

    token: str
    host: str
    boot: str
    """See `boot_id`."""
    pid: int
    job: Job | None
    since: float
    """Seconds since 1970."""
    mark: int
    """How far the work was when the lease was made: any number that changes with progress."""
    crashes: int
    """Holders in a row that died before this one without progress."""

    def __str__(self) -> str:
        where = f"job {self.job.id} on {self.host}" if self.job else f"process {self.pid} on {self.host}"
        return f"{where} since {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.since))}"


def holder_text(holder: Holder) -> str:
    """Return what a lease file says of its holder."""
    values = asdict(holder)
    values[_CRASHES] = values.pop("crashes")
    return json.dumps(values)


def read_holder(path: Path) -> Holder | None:
    """Return the holder that a lease file names, or None if the file is gone.

    A file that a power failure cut short, or that may not be read, has an unknown holder: only its heartbeat tells
    whether it lives.
    """
    try:
        values = read_json(path)
        return Holder(
            token=_text(values["token"]),
            host=_text(values["host"]),
            boot=_text(values["boot"]),
            pid=whole_number(values["pid"], 0),
            job=_job(values["job"]) if values["job"] else None,
            since=number(values["since"], 0, _LATEST),
            mark=whole_number(values["mark"]),
            crashes=whole_number(values[_CRASHES], 0),
        )
    except Missing:
        return None
    except (ValueError, KeyError, TypeError):
        return Holder(token="", host="unknown", boot="unknown", pid=0, job=None, since=0.0, mark=0, crashes=0)


def _job(values: dict[str, Any]) -> Job:
    job = Job(**values)
    for text in (job.cluster, job.id, job.user):
        _text(text)
    whole_number(job.restarts, 0)
    return job


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{shown(value)} is not a text")
    return value


def boot_id() -> str:
    """Return what tells this start of the machine's kernel from others; empty where the kernel does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
