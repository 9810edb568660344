"""The README of a published folder: what was run, on what, and how to read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from kdbench.analysis.publishing.folder import LIST, RECORDS
from kdbench.analysis.records import Records
from kdbench.analysis.searches import searches_of
from kdbench.analysis.splitting import split
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table
from kdbench.analysis.tables.render import render
from kdbench.analysis.tables.searches import searches_tables
from kdbench.analysis.tables.table import Table, words
from kdbench.experiment.folder import WEIGHTS
from kdbench.search.files import FOLDER
from kdbench.search.written import WrittenStudy
from kdbench.utils.text import counted, printable


def readme(
    frame: pd.DataFrame,
    studies: Sequence[WrittenStudy],
    publisher: str,
    hardware: Sequence[Mapping[str, Any]],
    num_predictions: int,
) -> str:
    """Return the README of these records, in Markdown; equal records give an equal text.

    Parameters
    ----------
    num_predictions
        Cells whose record holds the hash of a file of predictions.
    """
    records = Records(frame, [], [], tuple(studies))
    comparisons, tables = split(records), searches_tables(searches_of(records))
    by = f", published by {plain(publisher)}" if publisher else ""
    titles = "\n".join(f"- {plain(comparison.title)}" for comparison in comparisons)
    boards = [leaderboard_table(leaderboard(comparison)) for comparison in comparisons]
    hashes = (
        f"\nThe records of {counted(num_predictions, 'cell')} hold the SHA-256 of `predictions.npz`, the predictions "
        "for each test image, which is not in this folder.\n"
        if num_predictions
        else ""
    )
    searches = f"\n## Searches of settings\n\n{render(tables, 'markdown').strip()}\n" if tables else ""
    studies_line = (
        f"- `{RECORDS}/PROTOCOL/{FOLDER}/METHOD-STUDENT-studyN-HASH/`: what a search tried, and its choices, by number "
        "of trials and step\n"
        if tables
        else ""
    )
    return f"""# {counted(len(frame), "cell")} of kdbench{by}

Results of knowledge distillation, each cell one (protocol, teacher, student, method, settings, seed), under:

{titles}

## Leaderboard

{render(boards, "markdown").strip()}
{searches}
## Hardware

{render([hardware_table(hardware)], "markdown").strip()}

## Files

- `{RECORDS}/PROTOCOL/TEACHER-STUDENT/METHOD/seedS-HASH/`: `record.json` with all numbers of a cell, its resolved
  configuration and environment, `config.toml`, and `metrics.jsonl` with a line for each epoch
{studies_line}- `{LIST}`: the SHA-256 of every file; kdbench checks it when it reads the folder
{hashes}
`kdbench table`, `kdbench leaderboard`, `kdbench compare` and `kdbench report` read this folder as it is, and
`kdbench site` makes a page of several.

`kdbench verify` checks it, and trains first epochs again with `--retrain N`. `weights` in a record is the hash of the
weights it can be checked with, which are not in this folder: put them beside it as `{WEIGHTS}`, and they are measured
again.
"""


def hardware_table(hardware: Sequence[Mapping[str, Any]]) -> Table:
    """Make a table of machines, with their software and cells."""
    names = ("device", "threads", "system", "torch", "python", "kdbench", "commit", "cells", "hours")
    heads = ("device", "threads", "system", "torch", "python", "kdbench", "commit", "cells", "hours of training")
    rows = tuple(words(*(_shown(machine, name) for name in names)) for machine in hardware)
    changed = any(machine.get("dirty") for machine in hardware)
    note = "commit+: the checkout had changes or files that the commit does not have"
    return Table("What the cells were run on", (heads,), rows, notes=(note,) if changed else ())


def _shown(machine: Mapping[str, Any], name: str) -> str:
    value = machine.get(name)
    if name == "commit":
        return f"{printable(str(value))[:8]}{'+' if machine.get('dirty') else ''}" if value else "unknown"
    if isinstance(value, float):
        return f"{value:.2f}"
    return "unknown" if value is None else printable(str(value))[:80]


def plain(text: str) -> str:
    r"""Return text that Markdown shows as it is.

    >>> plain("<b> [a](b)")
    '\\<b> \\[a](b)'
    """
    return "".join(f"\\{letter}" if letter in "\\`*_[<!|#&" else letter for letter in printable(text))
