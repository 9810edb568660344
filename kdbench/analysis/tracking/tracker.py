"""What the trackers have in common, and how one is opened by its name."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from kdbench.analysis.tracking.cells import Row, TrackedCell
from kdbench.errors import UserError
from kdbench.utils.text import one_line, quoted

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""The package that each tracker needs, by the name of the tracker."""
_PROJECT = re.compile(r"\w[\w.-]{0,63}")


class Tracker(ABC):
    """Write the rows of cells to one place of one tracker."""

    NAME: ClassVar[str]

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the runs are, for people; equal for the same place."""

    @property
    @abstractmethod
    def view(self) -> str:
        """The command that shows the runs."""

    @abstractmethod
    def begin(self, cell: TrackedCell, num_sent: int, attempt: int) -> int:
        """Make the run of a cell, or continue it.

        Parameters
        ----------
        num_sent
            Rows that were sent to it; with none, what a run of this cell holds is removed.
        attempt
            1, and 1 more each time that the rows of the cell are sent anew because some have changed.

        Returns
        -------
        int
            How many of the rows that were sent it still holds: the others are sent again.
        """

    @abstractmethod
    def send(self, cell: TrackedCell, rows: Sequence[Row]) -> None:
        """Add rows to the run that was begun last, and note whether its cell is finished or failed."""

    @abstractmethod
    def close(self) -> None:
        """Close the runs of cells that are still running."""


def open_tracker(name: str, out: Path, project: str) -> Tracker:
    """Open a tracker that writes below ``out``, or where its own environment variables say.

    Raises
    ------
    UserError
        Its package is not installed, or the name of the project cannot be one.
    """
    if importlib.util.find_spec(PACKAGES[name]) is None:
        install = quoted("pip", "install", f"kdbench[{name}]")
        raise UserError(f"--to {name} needs the package {PACKAGES[name]}: type {install}")
    if not _PROJECT.fullmatch(project):
        raise UserError(f"--project takes up to 64 letters, digits and . _ -, not {project!r}")
    with explained(name):
        module = importlib.import_module(f"kdbench.analysis.tracking.to_{name}")
        tracker: Tracker = module.open_in(out.absolute(), project)
    return tracker


@contextlib.contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn whatever a tracker's package raises into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name} failed ({type(error).__name__}: {one_line(error)}): type the same command to send the rest"
        ) from error
