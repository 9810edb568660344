"""Name methods and networks as papers print them: ReviewKD for ``reviewkd``, WRN-40-2 for ``wrn_40_2``.

The TOML file beside a method says it by ``printed_as``, and that beside a network of the user's own, too. Other methods
have the label of their published values, and kdbench's networks the names of ``printed_networks.toml``. A network that
none of these knows keeps its name, without ``timm:``.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import final

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.published.own import read_files
from kdbench.errors import UserError
from kdbench.experiment.beside_code import NETWORK, method_files, own_files
from kdbench.experiment.pairs import TeacherSpec
from kdbench.utils.reading import Missing, Unreadable, read_toml
from kdbench.utils.values import shown

_KEY = "printed_as"
_BRACKETS = re.compile(r"( \(.+\))$")
"""Behind the name of a network of which there are several versions."""


@final
@dataclass(frozen=True, slots=True)
class PrintedNames:
    """Printed names by the typed ones."""

    methods: Mapping[str, str]
    networks: Mapping[str, str]
    problems: tuple[str, ...] = ()
    """Files that cannot be used, each with the reason."""

    def method(self, name: str) -> str:
        """Return the printed name of a method."""
        return self.methods.get(name, name)

    def network(self, name: str) -> str:
        """Return the printed name of a network, or of a teacher, whose epochs and members keep their places."""
        base, brackets, _ = _BRACKETS.split(name) if _BRACKETS.search(name) else (name, "", "")
        return f"{TeacherSpec.parse(base).spelled(self._of_network)}{brackets}" if base else name

    def _of_network(self, name: str) -> str:
        return self.networks.get(name, name.removeprefix("timm:"))

    def comparison(self, comparison: Comparison) -> Comparison:
        """Return a comparison whose labels have printed names; of those that would be alike, the typed ones."""
        methods = _told_apart({row.method for row in comparison.rows}, self.method)
        typed = [network for pair in comparison.pairs for network in (pair.teacher, pair.student) if network]
        networks = _told_apart(typed, self.network)
        rows = {row: _row(row, methods[row.method]) for row in comparison.rows}
        pairs = {pair: _pair(pair, networks) for pair in comparison.pairs}
        return replace(
            comparison,
            rows=tuple(rows.values()),
            pairs=tuple(pairs.values()),
            results={(rows[row], pairs[pair]): result for (row, pair), result in comparison.results.items()},
            student_only=rows.get(comparison.student_only) if comparison.student_only else None,
        )


def read_printed_names() -> PrintedNames:
    """Read the names of kdbench's methods and networks, and of users'; a file that cannot be used is named."""
    files = read_files()
    methods = {each.kdbench: each.label for each in files.methods.values() if each.kdbench}
    methods |= {method: files.methods[name].label for method, name in files.aliases.items()}
    text = (resources.files("kdbench.analysis") / "printed_networks.toml").read_text(encoding="utf-8")
    problems: list[str] = []
    return PrintedNames(
        methods | _said(method_files(), problems),
        tomllib.loads(text) | _said(own_files(NETWORK), problems),
        tuple(problems),
    )


def _said(files: Mapping[str, Path], problems: list[str]) -> dict[str, str]:
    """Return the names that files say; those that cannot be used are added to ``problems``."""
    names = {}
    for typed, file in sorted(files.items()):
        try:
            name = read_toml(file).get(_KEY)
            if name is not None and not (isinstance(name, str) and name.strip()):
                raise UserError(f"{_KEY} = {shown(name)} must be a text")
        except Missing:
            continue
        except Unreadable as error:
            problems.append(f"{file} is left out: it {error}")
        except UserError as error:
            problems.append(f"{file} is left out: {error}")
        else:
            if name is not None:
                names[typed] = name.strip()
    return names


def _told_apart(names: Iterable[str], printed: Callable[[str], str]) -> dict[str, str]:
    """Return printed names by typed ones; those that would be alike stay as they are typed."""
    labels = {name: printed(name) for name in names}
    counts = Counter(labels.values())
    return {name: label if counts[label] == 1 else name for name, label in labels.items()}


def _row(row: Row, name: str) -> Row:
    return replace(row, printed=name, label=name + row.label.removeprefix(row.name))


def _pair(pair: ComparedPair, networks: Mapping[str, str]) -> ComparedPair:
    teacher = networks[pair.teacher] + pair.teacher_label.removeprefix(pair.teacher_network) if pair.teacher else ""
    return replace(pair, teacher_label=teacher, student_label=networks[pair.student])
