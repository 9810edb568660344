"""Write one kind of picture of each comparison as files for a paper."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.plots.drawing import Plot, draw, styled
from kdbench.analysis.plots.file_names import distinct_names
from kdbench.analysis.plots.pictures import SINGLE, Material, OnProgress, draw_pairs, draw_single
from kdbench.errors import UserError
from kdbench.utils.files import explain_os_errors, write_atomic

Format = Literal["svg", "pdf"]
REMEDY = "choose another folder with --out DIR"


def write_plots(
    name: str,
    comparisons: Sequence[Comparison],
    frame: pd.DataFrame,
    out: Path,
    formats: Sequence[Format] = ("svg", "pdf"),
    on_progress: OnProgress = lambda *_: None,
) -> tuple[list[Path], list[str]]:
    """Draw a picture of each comparison, or of each of its pairs; equal records give equal bytes.

    The files are those that the report writes, under the same names.

    Parameters
    ----------
    name
        A key of ``SINGLE`` or ``OF_PAIRS`` in :mod:`.pictures`.
    frame
        All records of the runs, those of teachers among them.
    out
        Folder of the files; created if it does not exist.
    on_progress
        Called with the current work and the fraction that is done.

    Returns
    -------
    list of Path
        The files, in the order of comparisons and pairs.
    list of str
        Why pictures are missing, a sentence each.

    Raises
    ------
    UserError
        ``out`` is a file or cannot be written.
    """
    check_folder(out)
    paths, reasons = list[Path](), list[str]()
    bases = distinct_names([comparison.title for comparison in comparisons])
    with styled():
        for comparison, base in zip(comparisons, bases, strict=True):
            for plot in _drawn(name, Material.of(comparison, frame), base, on_progress):
                if isinstance(plot, str):
                    reasons.append(f"{comparison.title}: {plot}")
                    continue
                drawn = draw(plot)
                content = {"svg": drawn.svg.encode(errors="replace"), "pdf": drawn.pdf}
                for form in dict.fromkeys(formats):
                    paths.append(out / f"{drawn.name}.{form}")
                    write_atomic(paths[-1], content[form], REMEDY)
    return paths, reasons


def check_folder(out: Path) -> None:
    """Create a folder, and check that it can be written to before the work begins."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file: {REMEDY}")
    with explain_os_errors(out, REMEDY):
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass


def _drawn(name: str, material: Material, base: str, on_progress: OnProgress) -> Iterator[Plot | str]:
    if name in SINGLE:
        on_progress(f"drawing {name}", 0.0)
        yield draw_single(name, material, base)
        return
    for _, plot in draw_pairs([name], material, base, on_progress):
        yield plot
