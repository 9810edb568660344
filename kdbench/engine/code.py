"""The code behind a cell: of its method, and of networks that are the user's."""

from __future__ import annotations

from kdbench.experiment.cell import Cell
from kdbench.experiment.own_code import CodeSource
from kdbench.experiment.registry import method_source
from kdbench.models import own_network


def code_of(cell: Cell) -> dict[str, CodeSource]:
    """Return where a cell's code comes from, by the dotted field of a record that holds it."""
    sources = {
        "method_source": method_source(cell.method),
        "student_source": own_network(cell.student),
        "teacher.source": own_network(cell.teacher.network) if cell.teacher else None,
    }
    return {field: source for field, source in sources.items() if source}


def changed_code(cell: Cell, texts: dict[str, object]) -> list[CodeSource]:
    """Return what of the user's code has changed since a record or a state was made that says these texts of it."""
    sources = code_of(cell).items()
    return list(dict.fromkeys(source for field, source in sources if source.changed_since(str(texts.get(field, "")))))
