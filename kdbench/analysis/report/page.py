"""Render the page: one HTML file that needs no other file and fetches nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kdbench.analysis.records import UnfinishedCell
from kdbench.analysis.report.cells import Cells
from kdbench.analysis.report.sections import Section

_MAX_LISTED = 100
"""Largest number of unfinished cells, or of problems, that are listed."""


def page_html(
    sections: Sequence[Section],
    cells: Cells,
    unfinished: Sequence[UnfinishedCell],
    problems: Sequence[str],
    command: str,
    version: str,
) -> str:
    """Render the page; all text from records is escaped."""
    script = _template("page.js")
    # The page may run its own script and nothing else, whatever a record contains.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_template("page.html.j2")).render(
        sections=sections,
        data=cells.as_json(),
        num_cells=len(cells.cells),
        unfinished=[
            f"{cell.folder}: {f'failed ({cell.failure})' if cell.failure else 'not finished'}"
            for cell in unfinished[:_MAX_LISTED]
        ],
        num_unfinished=len(unfinished),
        problems=problems[:_MAX_LISTED],
        num_problems=len(problems),
        runs=cells.runs,
        command=command,
        version=version,
        style=Markup(_template("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )
    return f"{text}\n"


def _template(name: str) -> str:
    """Read a file of this folder."""
    return files("kdbench.analysis.report").joinpath(name).read_text(encoding="utf-8")
