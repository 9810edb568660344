"""``kdbench new`` and ``kdbench validate``: write and check your own methods, networks and protocols."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kdbench.cli.options import DEMO, command_line, echo
from kdbench.errors import UserError
from kdbench.experiment.own_folders import METHODS, OWN, folders_of, is_of_kdbench, named

if TYPE_CHECKING:
    from kdbench.experiment.own_code import CodeSource

KINDS = ("method", "network", "protocol")
_WORDS = "[method|network|protocol] NAME"


def new(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            help="What to start, a method if nothing else is said, and its name: lower-case letters, digits and _; of "
            "a protocol also - and .",
            metavar=_WORDS,
        ),
    ],
    folder: Annotated[
        Path | None,
        typer.Option(
            "--dir",
            help="Folder that holds your methods/, networks/ and protocols/, as --own names it, or a folder of methods "
            "that --methods names. Made if it does not exist. [default: that of --own, or else this one]",
            metavar="DIR",
        ),
    ] = None,
) -> None:
    """Start a method, network or protocol of your own from a file that works as it is.

    A method has a recipe file beside it. Nothing is overwritten.
    """
    from kdbench.experiment.templates import write_start

    kind, name = _kind_and_name(words, "new")
    target = _target(kind, folder)
    _check_free(kind, name, target)
    for file in write_start(kind, name, target, {"BASE": DEMO}):
        echo(f"wrote {file}")
    place = [] if _is_searched(kind, target) else ["--own", target.parent]
    echo("Change it, then type:")
    for line in _next_words(kind, name):
        echo(f"  {command_line(context, *place, *line)}")


def validate(
    words: Annotated[
        list[str],
        typer.Argument(
            help="What to check, a method if nothing else is said, and its name; 'kdbench list methods', 'list "
            "networks' and 'list protocols' list them.",
            metavar=_WORDS,
        ),
    ],
) -> None:
    """Check that a method, network or protocol follows the rules of all others.

    A method is trained for a few steps on small pairs, a network is built for images of several sizes, and of a
    protocol each key is checked and all rules are printed. The exit code is 1 if a check fails.
    """
    from kdbench.cli import checking

    kind, name = _kind_and_name(words, "validate")
    holds = {"method": checking.check_method, "network": checking.check_network, "protocol": checking.check_protocol}
    raise typer.Exit(0 if holds[kind](name) else 1)


def _kind_and_name(words: Sequence[str], command: str) -> tuple[str, str]:
    """Return what the words of a command name, a method where no kind is given."""
    if len(words) == 2 and words[0] in KINDS:
        return words[0], words[1]
    if len(words) == 1 and words[0] not in KINDS:
        return KINDS[0], words[0]
    if len(words) == 1:
        raise UserError(f"which {words[0]}? Type 'kdbench {command} {words[0]} NAME'")
    raise UserError(f"{' '.join(words)!r} is no {_WORDS}: type 'kdbench {command} {_WORDS}'")


def _target(kind: str, folder: Path | None) -> Path:
    """Return the folder of the new files: one of ``--methods`` itself, or that of the kind in any other folder."""
    if folder is None:
        folder = named(OWN)[0] if named(OWN) else Path()
    elif kind == "method" and folder.absolute() in named(METHODS):
        return folder
    return folder / f"{kind}s"


def _is_searched(kind: str, folder: Path) -> bool:
    """Return whether files in a folder are found as it is: options name it, or it holds kdbench's own methods."""
    return is_of_kdbench(folder) or folder.absolute() in folders_of(f"{kind}s")  # type: ignore[arg-type]


def _check_free(kind: str, name: str, target: Path) -> None:
    """Raise UserError where there can be no such name, or something else has it."""
    from kdbench.utils.names import squeeze

    if kind == "protocol":
        from kdbench.experiment.protocol import flaw_of_name, protocol_files

        flaw = flaw_of_name(name)
        places: dict[str, tuple[str, Path | None]] = {o: (str(file), file) for o, file in protocol_files().items()}
    else:
        sources, flaw = _code(kind, name)
        places = {other: (source.origin, source.file) for other, source in sources.items()}
    if flaw:
        raise UserError(f"{name!r} cannot be the name of a {kind}: {flaw}")
    for other, (origin, file) in places.items():
        if squeeze(other) == squeeze(name) and (file is None or file.absolute().parent != target.absolute()):
            raise UserError(f"the name is taken by {kind} {other} ({origin}): choose another name")


def _code(kind: str, name: str) -> tuple[Mapping[str, CodeSource], str]:
    """Return all methods, or all networks but timm's, by name, and why there can be none of a new name."""
    from kdbench.experiment.beside_code import METHOD, NETWORK

    if kind == "method":
        from kdbench.experiment.registry import method_sources

        return method_sources(), METHOD.flaw_of_name(name)
    from kdbench.models import network_sources

    return network_sources(), NETWORK.flaw_of_name(name)


def _next_words(kind: str, name: str) -> Iterator[tuple[Any, ...]]:
    """Yield the commands to type after a start was written."""
    from kdbench.experiment.pairs import Pair
    from kdbench.experiment.protocol import load_protocol

    protocol = load_protocol(DEMO)
    pair = Pair.parse(protocol.demo.pair)
    yield ("validate", name) if kind == "method" else ("validate", kind, name)
    if kind == "protocol":
        train = "--protocol", name, "--student", pair.student, "--method", protocol.baseline
        yield ("train", *train)
        return
    methods = [*protocol.demo.methods[:2], *([name] if kind == "method" else [])]
    student = name if kind == "network" else pair.student
    yield "teacher", "train", "--protocol", DEMO, "--network", pair.teacher
    options = [word for method in methods for word in ("--method", method)]
    yield ("train", "--protocol", DEMO, "--teacher", pair.teacher, "--student", student, *options)
