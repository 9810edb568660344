"""kdbench: head-to-head benchmarks of knowledge-distillation methods."""

from __future__ import annotations

from kdbench.errors import UserError

TYPE_CHECKING = False  # typing's own takes as long to import as all that the command line needs to take Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from kdbench.engine.api import train
    from kdbench.engine.session import Session
    from kdbench.engine.trained import load

__all__ = ["Session", "UserError", "load", "train"]

_PLACES = {"Session": "session", "load": "trained", "train": "api"}
"""Modules of public names in kdbench.engine."""


def __getattr__(name: str) -> Any:
    # torch is imported where it is first needed, so that the command line answers at once, to Ctrl-C as well.
    if name in _PLACES:
        from importlib import import_module  # noqa: PLC0415

        from kdbench.utils.platform import check_platform  # noqa: PLC0415

        check_platform()
        return getattr(import_module(f"kdbench.engine.{_PLACES[name]}"), name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
