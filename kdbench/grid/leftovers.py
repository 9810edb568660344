"""Remove what killed processes left of a grid: leases and states of cells that have ended, copies of the code."""

from __future__ import annotations

import contextlib
import shutil

from kdbench.engine.run_state import tidy_ended
from kdbench.grid.code_copy import CODE
from kdbench.grid.grid import Grid
from kdbench.grid.overview import Overview
from kdbench.grid.submissions import Submission, unbegun_folders
from kdbench.utils.files import paths_in
from kdbench.utils.leases import Busy, Leases, tidy
from kdbench.utils.scheduler import Scheduler


def tidy_grid(grid: Grid, overview: Overview) -> None:
    """Remove what nobody comes back to; what live processes or queued jobs may use stays."""
    scheduler = grid.session.scheduler
    for status in (*overview.statuses, *overview.teachers):
        if status.untidy:
            tidy_ended(status.folder, scheduler)
    for submission in overview.over:
        tidy_submission(submission, scheduler)
    for folder in unbegun_folders(grid):
        with contextlib.suppress(Busy), Leases(scheduler) as leases:
            leases.hold(folder)
            shutil.rmtree(folder, ignore_errors=True)


def tidy_submission(submission: Submission, scheduler: Scheduler) -> None:
    """Remove the code of a submission whose jobs are over, and what its killed processes left; logs stay."""
    shutil.rmtree(submission.folder / CODE, ignore_errors=True)
    for folder in (submission.folder, *paths_in(submission.folder, "worker-*/")):
        tidy(folder, scheduler)
