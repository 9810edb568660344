"""The pages of the commands, made of what ``--help`` prints."""

from __future__ import annotations

import re
from typing import Any

import typer
from marking import code, escaped, paragraphs, prose, table

from kdbench.cli.app import app

Command = Any
"""Of typer, which names the class differently from version to version."""


def commands() -> dict[str, Command]:
    """Return the commands, and groups of commands, by name."""
    return _members(_root())


def index() -> str:
    """Return a table of the commands, and the options that stand before each of them."""
    rows = [
        (f"[kdbench {name}]({name}.md)", prose(_first_paragraph(command)), ", ".join(map(code, _members(command))))
        for name, command in commands().items()
    ]
    heads = ("command", "what it does", "of these")
    return "\n\n".join([table(heads, rows), "## Options of every command", *_parameters(_root(), "kdbench")])


def markdown(name: str) -> str:
    """Return the page of a command, or of a group with a section for each of its commands."""
    command = commands()[name]
    parts = [f"# kdbench {name}", paragraphs(command.help or "")]
    if not (members := _members(command)):
        parts += _usage(command, f"kdbench {name}")
    for member, each in members.items():
        full = f"kdbench {name} {member}"
        parts += [f"## {full}", paragraphs(each.help or ""), *_usage(each, full)]
    return "\n\n".join(parts) + "\n"


def split_default(text: str) -> tuple[str, str]:
    """Split an option's help into its sentences and what stands in brackets behind them, such as its default."""
    found = re.fullmatch(r"(.*?)((?:\s*\[[^\[\]]*\])*)", text, re.DOTALL)
    assert found
    return found[1], "; ".join(each.removeprefix("default: ") for each in re.findall(r"\[([^\[\]]*)\]", found[2]))


def _root() -> Command:
    return typer.main.get_command(app)


def _members(command: Command) -> dict[str, Command]:
    """Return the commands of a group; none of a command."""
    return dict(getattr(command, "commands", {}))


def _first_paragraph(command: Command) -> str:
    return (command.help or "").partition("\n\n")[0]


def _usage(command: Command, full: str) -> list[str]:
    pieces = command.collect_usage_pieces(typer.Context(command, info_name=full))
    return [f"```text\n{full} {' '.join(pieces)}\n```", *_parameters(command, full)]


def _parameters(command: Command, full: str) -> list[str]:
    """Return a table of the arguments and one of the options; no table where there are none."""
    context = typer.Context(command, info_name=full)
    rows: dict[str, list[tuple[str, str, str]]] = {"argument": [], "option": []}
    for parameter in command.params:
        spelled, text = parameter.get_help_record(context)
        words, default = split_default(text)
        rows[parameter.param_type_name].append((code(spelled), prose(words), escaped(default)))
    return [table((kind, "what it is", "default"), found) for kind, found in rows.items() if found]
