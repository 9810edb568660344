"""A static page over published folders: a joint leaderboard, who published what on which hardware, and the report."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.resources import files
from pathlib import Path

import pandas as pd
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.plots.pictures import OnProgress
from kdbench.analysis.publishing.folder import LIST, Publication, flaws, is_published, read_publication
from kdbench.analysis.publishing.readme import hardware_table
from kdbench.analysis.records import Records, read_records
from kdbench.analysis.report import write_report
from kdbench.analysis.report.markup import table_html
from kdbench.analysis.searches import searches_of
from kdbench.analysis.splitting import split
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table, stability_notes
from kdbench.analysis.tables.searches import searches_tables
from kdbench.analysis.tables.table import Table, words
from kdbench.errors import UserError
from kdbench.search.written import WrittenStudy
from kdbench.utils.files import write_atomic
from kdbench.utils.names import safe_name
from kdbench.utils.text import counted, printable

PAGE, REPORT, _TOP = "index.html", "report", "published"
_REMEDY = "choose another folder with --out DIR"


@dataclass(frozen=True, slots=True)
class _Source:
    """A published folder."""

    name: str
    """The folder's name, different from those of the others."""
    publication: Publication
    frame: pd.DataFrame
    studies: tuple[WrittenStudy, ...]

    @property
    def label(self) -> str:
        """Who published it."""
        return printable(self.publication.publisher or self.name)


def write_site(folders: Sequence[Path], out: Path, *, on_progress: OnProgress = lambda *_: None) -> Path:
    """Write the page and the report; equal folders give equal bytes.

    Returns
    -------
    Path
        The page.

    Raises
    ------
    UserError
        A folder is not published, or not whole, or ``out`` cannot be written.
    """
    out = out.absolute()
    named = _named(folders)
    for folder in folders:
        if not is_published(folder):
            raise UserError(f"{folder} has no {LIST}: name folders that 'kdbench publish' wrote")
        if flaw := next(flaws(folder), None):
            raise UserError(f"{flaw}: get {folder} anew from whoever published it")
        if out.resolve().is_relative_to(folder.resolve()):
            raise UserError(f"{out} lies in {folder}, which was published: {_REMEDY}")
    with _only_names(named):
        sources = [_source(name, Path(_TOP, name)) for name in named]
        records, notes = _joined(sources)
        comparisons = split(records)
        write_report(
            Path(_TOP),
            out / REPORT,
            comparisons,
            records,
            command="kdbench site",
            on_progress=lambda work, done: on_progress(work, 0.9 * done),
        )
    page = _page(sources, records, comparisons, notes)
    write_atomic(out / PAGE, page.encode(errors="replace"), _REMEDY)
    on_progress("done", 1.0)
    return out / PAGE


def _named(folders: Sequence[Path]) -> dict[str, Path]:
    """Return folders by names of their own, without the paths of this machine."""
    named: dict[str, Path] = {}
    for folder in dict.fromkeys(folder.resolve() for folder in folders):
        name = base = safe_name(folder.name) or "results"
        number = 1
        while name in named:
            number += 1
            name = f"{base}-{number}"
        named[name] = folder
    return named


@contextlib.contextmanager
def _only_names(named: dict[str, Path]) -> Iterator[None]:
    """Let the folders be ``published/NAME``, so that no path of this machine gets into a page."""
    with tempfile.TemporaryDirectory(prefix="kdbench-") as text:
        top = Path(text, _TOP)
        top.mkdir()
        for name, folder in named.items():
            (top / name).symlink_to(folder, target_is_directory=True)
        with contextlib.chdir(text):
            yield


def _source(name: str, folder: Path) -> _Source:
    records = read_records(folder)
    for problem in records.problems:
        raise UserError(problem)
    return _Source(name, read_publication(folder), records.frame, records.studies)


def _joined(sources: Sequence[_Source]) -> tuple[Records, list[str]]:
    """Return all cells, each once, and notes on those that several folders have."""
    frame = pd.concat([source.frame for source in sources], ignore_index=True)
    repeated = frame[frame["cell"].duplicated(keep=False)]
    notes = []
    if len(repeated):
        accuracies = repeated.groupby("cell")["top1"]
        ranges = accuracies.max() - accuracies.min()
        notes.append(
            f"{counted(int(repeated['cell'].nunique()), 'cell')} in several folders: the first folder's result counts; "
            f"{int((ranges > 0).sum()):,} with another top-1, by at most {float(ranges.max()):.2f} points"
        )
    studies = {study.folder.name: study for source in reversed(sources) for study in source.studies}
    return Records(frame.drop_duplicates("cell").reset_index(drop=True), [], [], tuple(studies.values())), notes


def _page(sources: Sequence[_Source], records: Records, comparisons: Sequence[Comparison], notes: Sequence[str]) -> str:
    boards = zip(comparisons, stability_notes(comparisons), strict=True)
    compared = {cell for each in comparisons for result in each.results.values() for cell in result.frame["cell"]}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = files("kdbench.analysis.publishing").joinpath("site.html.j2").read_text(encoding="utf-8")
    style = files("kdbench.analysis.report").joinpath("page.css").read_text(encoding="utf-8")
    text = environment.from_string(template).render(
        boards=[
            table_html(leaderboard_table(leaderboard(comparison), stability), f"board-{number}")
            for number, (comparison, stability) in enumerate(boards)
        ],
        searches=[
            table_html(table, f"search-{number}")
            for number, table in enumerate(searches_tables(searches_of(records)), 1)
        ],
        publishers=table_html(_publishers(sources), "publishers"),
        machines=[
            (source.label, table_html(hardware_table(source.publication.hardware), f"hardware-{number}"))
            for number, source in enumerate(sources)
        ],
        num_cells=counted(len(compared), "cell"),
        num_folders=counted(len(sources), "folder"),
        notes=notes,
        report=f"{REPORT}/{PAGE}",
        version=metadata.version("kdbench"),
        style=Markup(style),  # noqa: S704
    )
    return f"{text}\n"


def _publishers(sources: Sequence[_Source]) -> Table:
    """Make the table of who published what on which hardware."""
    heads = ("published by", "folder", "cells", "hardware", "hours of training", "protocols", "students", "methods")
    rows = []
    for source in sources:
        frame, machines = source.frame, source.publication.hardware
        devices = dict.fromkeys(str(machine.get("device")) for machine in machines)
        protocols, students = (sorted(set(frame[column])) for column in ("protocol", "student"))
        hours = f"{frame['train_seconds'].sum() / 3600:.2f}"
        texts = [", ".join(map(printable, each)) for each in (protocols, students)]
        hardware, methods = ", ".join(map(printable, devices)), f"{frame['method'].nunique()}"
        rows.append(words(source.label, source.name, f"{len(frame):,}", hardware, hours, *texts, methods))
    return Table("Who published what, on which hardware", (heads,), tuple(rows))
