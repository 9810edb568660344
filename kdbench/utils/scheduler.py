"""Ask the batch system, if any, about the jobs of processes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """Identify one start of a job of a batch system."""

    cluster: str
    id: str
    restarts: int
    """How many times the job had been started before this start."""
    user: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """Hold what a batch system says about a job."""

    text: str
    """The state in the batch system's words, e.g. ``PENDING (Priority)``."""
    started: bool
    """Whether it has been started and has not ended."""
    over: bool
    """Whether it has ended and will not be started again."""
    restarts: int = 0

    def __str__(self) -> str:
        return self.text


class Scheduler:
    """Know no jobs: the base of batch systems, and what stands for one where none is installed."""

    def own_job(self) -> Job | None:
        """Return the job that this process is part of."""
        return None

    def alive(self, jobs: Collection[Job]) -> dict[Job, bool]:  # noqa: ARG002
        """Return whether starts of jobs are still running, without those that are unknown."""
        return {}

    def jobs(self, users: Iterable[str]) -> dict[str, JobState] | None:  # noqa: ARG002
        """Return the states of users' jobs by id; None where the batch system does not answer."""
        return None

    def ended(self, jobs: Iterable[str]) -> dict[str, JobState]:  # noqa: ARG002
        """Return how jobs ended that :meth:`jobs` does not list any more, as far as that is known."""
        return {}
