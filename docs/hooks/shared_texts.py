"""Parameters that share a text in a docstring, ``low, high``, with a type and default each in the documentation."""

from __future__ import annotations

from typing import Any

import griffe


class SharedTexts(griffe.Extension):
    """Look up each parameter by its name; griffe gives all that share a text the type of the first."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Correct what has been parsed of a function's or class's docstring."""
        if obj.docstring is None or not (obj.is_function or obj.is_class):
            return
        own = _own(obj)
        for section in obj.docstring.parsed:
            if section.kind is griffe.DocstringSectionKind.parameters:
                for parameter in section.value:
                    parameter.annotation, parameter.value = own.get(parameter.name, (None, None))


def _own(obj: griffe.Object) -> dict[str, tuple[Any, Any]]:
    """Return types and defaults by name: those of a call, or the fields of a dataclass."""
    function = obj if obj.is_function else obj.members.get("__init__")
    if function is not None:
        return {parameter.name: (parameter.annotation, parameter.default) for parameter in function.parameters}
    return {name: (field.annotation, field.value) for name, field in obj.attributes.items()}
