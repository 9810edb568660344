"""What the building of a cache tells those who watch it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a build will take, measured on its first batch."""

    views: int
    """Forward passes of one view that are left to do."""
    bytes: int
    """Disk space that is left to fill."""
    free: int
    """Free space on the disk, in bytes."""
    seconds: float
    folder: Path


class Watch:
    """Sees how the building of a cache goes; this one looks away. ``teacher`` is its name on the command line."""

    def estimate(self, teacher: str, estimate: Estimate) -> None:
        """See what the build will take, before it begins."""

    def progress(self, done: int, total: int, seconds_left: float) -> None:
        """See how many pairs of image and view are done."""

    def waiting(self, teacher: str) -> None:
        """See that another process is building this cache; called once."""
