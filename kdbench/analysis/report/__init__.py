"""Write the HTML report: one file with tables, plots and every cell, and the plots as files for a paper."""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.plots.file_names import file_name
from kdbench.analysis.plots.pictures import OnProgress
from kdbench.analysis.plots.written import REMEDY, check_folder
from kdbench.analysis.records import Records
from kdbench.analysis.report.cells import Cells
from kdbench.analysis.report.page import page_html
from kdbench.analysis.report.sections import make_sections
from kdbench.analysis.searched import unfinished_runs
from kdbench.utils.files import explain_os_errors, write_atomic, write_json
from kdbench.utils.reading import read_object

PAGE, PLOTS = "index.html", "plots"
_WRITTEN = ".plots.json"
"""File with the plots that the last report wrote, and their hashes."""


def write_report(
    runs: Path,
    out: Path,
    comparisons: list[Comparison],
    records: Records,
    *,
    command: str = "kdbench report",
    on_progress: OnProgress = lambda *_: None,
) -> list[Path]:
    """Write the report of some comparisons; equal records give equal bytes.

    Everything is rendered before the first file is written, so a failure leaves an earlier report intact. Plots of an
    earlier report that are not part of this one are deleted, unless they were changed since; other files are kept.

    Parameters
    ----------
    runs
        Folder that the records were read from; paths in the report are relative to it.
    out
        Folder of the report; created if it does not exist.
    comparisons
        One section of the report each.
    records
        The records of the comparisons; the report lists their unfinished cells and damaged files.
    command
        Command that created the report, for its head.
    on_progress
        Called with the current work and the fraction that is done.

    Returns
    -------
    list of Path
        The page, then the plots, each as SVG and as PDF.

    Raises
    ------
    UserError
        ``out`` is a file or cannot be written.
    """
    check_folder(out)
    cells = Cells.of(runs, comparisons)
    sections = make_sections(comparisons, records.frame, cells, on_progress)
    problems = [*records.problems, *cells.problems]
    page = page_html(sections, cells, unfinished_runs(records), problems, command, metadata.version("kdbench"))
    on_progress("writing files", 1.0)
    files: dict[str, bytes] = {}
    for plot in (plot for section in sections for plot in section.plots):
        files |= {f"{plot.name}.svg": plot.svg.encode(errors="replace"), f"{plot.name}.pdf": plot.pdf}
    written = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    earlier = read_object(out / _WRITTEN)
    with explain_os_errors(out, REMEDY):
        # Before the plots: what an interrupted report leaves is removed by the next.
        write_json(out / _WRITTEN, earlier | written)
        for name, content in files.items():
            write_atomic(out / PLOTS / name, content, REMEDY)
        write_atomic(out / PAGE, page.encode(errors="replace"), REMEDY)
        for name in earlier.keys() - written.keys():
            _remove(out / PLOTS / name, earlier[name])
        write_json(out / _WRITTEN, written)
    return [out / PAGE, *(out / PLOTS / name for name in files)]


def _remove(path: Path, digest: object) -> None:
    """Delete a plot of an earlier report; what has other bytes than it wrote, or lies elsewhere, is the user's."""
    is_plot = path.parent.name == PLOTS and path.suffix in {".svg", ".pdf"} and file_name(path.stem) == path.stem
    is_file = is_plot and path.is_file() and not path.is_symlink()
    if is_file and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
        path.unlink()
