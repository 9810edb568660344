"""The options and arguments of every command, from the annotations of its function."""

from __future__ import annotations

import typing
from dataclasses import dataclass
from typing import Any

import typer

from kdbench.cli.app import app


@dataclass(frozen=True)
class Parameter:
    """An option or an argument of a command."""

    name: str
    option: str
    """As it is typed; empty for an argument."""
    is_flag: bool
    is_number: bool


def parameters_of(function: Any) -> list[Parameter]:
    """The parameters of a command, from the annotations of its function."""
    parameters = []
    for name, hint in typing.get_type_hints(function, include_extras=True).items():
        if typing.get_origin(hint) is typing.Annotated:
            kind, info = typing.get_args(hint)[:2]
            is_option = isinstance(info, typer.models.OptionInfo)
            spellings = [each for each in (info.default, *(info.param_decls or ())) if str(each).startswith("--")]
            option = str([*spellings, f"--{name.replace('_', '-')}"][0]) if is_option else ""
            kinds = set(typing.get_args(kind)) | {kind}
            parameters.append(Parameter(name, option, bool in kinds, not kinds.isdisjoint((int, float, list[int]))))
    return parameters


def all_parameters() -> dict[str, list[Parameter]]:
    """The parameters of every command, by its name with that of its group before it."""
    functions = {}
    apps = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    for prefix, each in apps:
        for command in each.registered_commands:
            functions[f"{prefix}{command.name}"] = command.callback
    return {name: parameters_of(function) for name, function in functions.items()}
