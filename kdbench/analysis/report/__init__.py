"""The HTML report: one file with tables, plots and every cell, and the plots again as files for a paper."""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.records import Records
from kdbench.analysis.report.cells import Cells
from kdbench.analysis.report.page import page_html
from kdbench.analysis.report.sections import Told, make_sections
from kdbench.errors import UserError
from kdbench.utils.files import explain_os_errors, write_atomic

PAGE, PLOTS = "index.html", "plots"
_ELSEWHERE = "choose another folder with --out DIR"


def write_report(
    runs: Path,
    out: Path,
    found: list[Comparison],
    records: Records,
    *,
    command: str = "kdbench report",
    tell: Told = lambda *_: None,
) -> list[Path]:
    """Write the report of some comparisons; equal records give equal bytes.

    All is made before anything is written and the page is written last, so that a failure leaves an earlier report
    whole. Plots of an earlier report that this one does not have stay.

    Parameters
    ----------
    runs
        Where the records were read: folders are named from there.
    out
        Folder of the report; it is made where there is none.
    found
        What is compared, a section each.
    records
        Of which the begun and the damaged are named.
    command
        How the report was made, for its head.
    tell
        Is told what is being done, and which part of all is done.

    Returns
    -------
    list of Path
        The page, then the plots, each as SVG and as PDF.

    Raises
    ------
    UserError
        ``out`` is a file or cannot be written.
    """
    _check(out)
    cells = Cells.of(runs, found)
    shown = make_sections(found, cells, tell)
    problems = [*records.problems, *cells.problems]
    page = page_html(shown, cells, records.begun, problems, command, metadata.version("kdbench"))
    tell("writing files", 1.0)
    paths = []
    for plot in (plot for section in shown for plot in section.drawn):
        for ending, content in (("svg", plot.svg.encode(errors="replace")), ("pdf", plot.pdf)):
            paths.append(out / PLOTS / f"{plot.name}.{ending}")
            write_atomic(paths[-1], content, _ELSEWHERE)
    write_atomic(out / PAGE, page.encode(errors="replace"), _ELSEWHERE)
    return [out / PAGE, *paths]


def _check(out: Path) -> None:
    """Find out before the work whether its result can be written."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: {_ELSEWHERE}")
    with explain_os_errors(out, _ELSEWHERE):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
