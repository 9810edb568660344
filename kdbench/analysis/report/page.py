"""The page: one HTML file that needs no other and can fetch none."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from kdbench.analysis.records import Begun
from kdbench.analysis.report.cells import Cells
from kdbench.analysis.report.sections import Section

_TOLD = 100
"""Begun cells, or problems, that are named one by one."""


def page_html(
    shown: Sequence[Section], cells: Cells, begun: Sequence[Begun], problems: Sequence[str], command: str, version: str
) -> str:
    """Render the page; text from records is escaped wherever it stands."""
    script = _part("page.js")
    # The page may run its own script and nothing else, whatever a record says.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = environment.from_string(_part("page.html.j2")).render(
        sections=shown,
        data=cells.as_json(),
        num_cells=len(cells.cells),
        begun=[
            f"{one.folder}: {f'failed ({one.failure})' if one.failure else 'not finished'}" for one in begun[:_TOLD]
        ],
        num_begun=len(begun),
        problems=problems[:_TOLD],
        num_problems=len(problems),
        runs=cells.runs,
        command=command,
        version=version,
        style=Markup(_part("page.css")),  # noqa: S704
        script=Markup(script),  # noqa: S704
        policy=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:; "
        "base-uri 'none'; form-action 'none'",
    )
    return f"{text}\n"


def _part(name: str) -> str:
    """A file beside this one."""
    return files("kdbench.analysis.report").joinpath(name).read_text(encoding="utf-8")
