"""kdbench: head-to-head benchmarks of knowledge-distillation methods."""

from __future__ import annotations

from kdbench.errors import UserError

TYPE_CHECKING = False  # typing's own takes as long to import as all that the command line needs to take Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from kdbench.analysis.api import leaderboard, table
    from kdbench.analysis.records import read_records
    from kdbench.engine.api import train
    from kdbench.engine.session import Session
    from kdbench.engine.trained import load

__all__ = ["Session", "UserError", "leaderboard", "load", "read_records", "table", "train"]

_PLACES = {
    "Session": "engine.session",
    "leaderboard": "analysis.api",
    "load": "engine.trained",
    "read_records": "analysis.records",
    "table": "analysis.api",
    "train": "engine.api",
}
"""Modules of public names."""


def __getattr__(name: str) -> Any:
    # torch is imported where it is first needed, so that the command line answers at once, to Ctrl-C as well.
    if name in _PLACES:
        from importlib import import_module  # noqa: PLC0415

        from kdbench.utils.platform import check_platform  # noqa: PLC0415

        check_platform()
        return getattr(import_module(f"kdbench.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
