"""``kdbench search``: what searches of settings tried, and what they chose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kdbench.cli.options import print_tables
from kdbench.cli.selection import RunsArgument, end_with_problems
from kdbench.cli.table_options import FormOption


def search(
    runs: RunsArgument = Path("runs"),
    trials: Annotated[bool, typer.Option("--trials", help="A line for each trial, the best first.")] = False,
    form: FormOption = "terminal",
) -> None:
    """Show what searches of settings tried, what they cost, and what they chose.

    A search is made by [search] in a grid file. Each study, the trials of one method on one pair, is a row: trials and
    hours, the accuracy on held-out training images that is expected of the best of 1, 2, 4, ... trials, the chosen
    settings, and the optimism of the selection, by which the chosen trial was better than it is with other seeds.

    The runs of what was chosen are rows of 'kdbench table': compare those, not the accuracies here.
    """
    from kdbench.analysis.records import read_records
    from kdbench.analysis.searches import searches_of
    from kdbench.analysis.tables.searches import searches_tables, trials_tables
    from kdbench.errors import UserError

    records = read_records(runs)
    searches = searches_of(records)
    if not searches:
        end_with_problems(records.problems)
        raise UserError(f"no search in {runs}: 'kdbench grid run' makes one for a grid file with [search]")
    print_tables((trials_tables if trials else searches_tables)(searches), form)
    end_with_problems(records.problems)
