"""kdbench: head-to-head benchmarks of knowledge-distillation methods."""

from __future__ import annotations

from kdbench.errors import UserError

TYPE_CHECKING = False  # typing's own takes as long to import as all that the command line needs to take Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from kdbench.engine.api import train
    from kdbench.engine.session import Session

__all__ = ["Session", "UserError", "train"]


def __getattr__(name: str) -> Any:
    # torch is imported where it is first needed, so that the command line answers at once, to Ctrl-C as well.
    if name in {"Session", "train"}:
        from kdbench.utils.platform import check_platform  # noqa: PLC0415

        check_platform()
        from kdbench.engine import api, session  # noqa: PLC0415

        return getattr(api if name == "train" else session, name)
    raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
