"""kdbench: head-to-head benchmarks of knowledge-distillation methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.engine.session import Session, train

__all__ = ["Session", "UserError", "train"]


def __getattr__(name: str) -> Any:
    # torch is imported where it is first needed, so that the command line answers at once.
    if name in {"Session", "train"}:
        from kdbench.engine import session  # noqa: PLC0415

        return getattr(session, name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
