"""How much a method weighs the terms by which the student's logits follow the teacher's, from the file beside it.

The table ``[logit_weight]`` of ``NAME.toml`` says it by the method's settings, so that it is known of every record, and
without the method's code.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from kdbench.config import BASE
from kdbench.errors import UserError
from kdbench.experiment.beside_code import method_files
from kdbench.utils.reading import Missing, Unreadable, read_toml
from kdbench.utils.values import number, shown

UNIT = "the batch mean of T^2 KL"
USUAL = 0.9
"""That of plain distillation, kd, by default."""
_TABLE, _NOTE = "logit_weight", "note"
CONSTANT = "constant"
"""In place of a setting: a weight that the method's code fixes."""
Range = tuple[float, float]


@final
@dataclass(frozen=True, slots=True)
class LogitWeight:
    """The total weight of a method's logit terms, as a sum of settings and of products of settings."""

    factors: Mapping[str, Range]
    """Lowest and highest factor of each setting, or of a product such as ``a * b``; the two differ where the factor
    depends on images or the time."""
    note: str
    """What else a reader should know; may be empty."""

    def total(self, settings: Mapping[str, Any]) -> Range | None:
        """Return the lowest and the highest total with some settings; None if one is missing or no number.

        ``base`` in place of numbers is the total of the method that a method is built on.
        """
        if BASE in self.factors and isinstance(settings.get(BASE), str):
            return _total_of_base(settings)
        try:
            weights = {
                term: math.prod(1.0 if name == CONSTANT else number(settings.get(name)) for name in names_in(term))
                for term in self.factors
            }
        except ValueError:
            return None
        low, high = (sum(weights[name] * factor[end] for name, factor in self.factors.items()) for end in (0, 1))
        return low, high

    @property
    def formula(self) -> str:
        """The sum in words: ``kd_weight``, or ``0 to 1 delta + 2``; ``0`` for no terms."""
        if BASE in self.factors:
            return "that of the base"
        parts = (
            (range_text(factor) if name == CONSTANT or factor != (1, 1) else "", name if name != CONSTANT else "")
            for name, factor in self.factors.items()
        )
        return " + ".join(" ".join(filter(None, part)) for part in parts) or "0"


def _total_of_base(settings: Mapping[str, Any]) -> Range | None:
    base = settings[BASE]
    weight = logit_weights([base]).get(base)
    own = {key.removeprefix(f"{base}."): value for key, value in settings.items() if key.startswith(f"{base}.")}
    return weight.total(own) if weight else None


def names_in(term: str) -> list[str]:
    """Return the settings of which a term of the sum is the product."""
    return [name.strip() for name in term.split("*")]


def range_text(span: Range) -> str:
    """Write a range: ``0.9`` or ``0 to 9``."""
    low, high = (f"{end:.4g}" for end in span)
    return low if low == high else f"{low} to {high}"


def read_logit_weight(file: Path) -> LogitWeight | None:
    """Read what the file beside a method says; None if it does not say it.

    Raises
    ------
    UserError
        It is no TOML, or its table is not one of factors.
    """
    try:
        table = read_toml(file).get(_TABLE)
    except Missing:
        return None
    except Unreadable as error:
        raise UserError(f"{file} {error}") from None
    if table is None:
        return None
    if not isinstance(table, dict) or not isinstance(table.get(_NOTE, ""), str):
        raise UserError(f"{file}: [{_TABLE}] needs settings with their factors, and {_NOTE} with a text")
    factors = {}
    for name, value in table.items():
        if name != _NOTE:
            factors[name] = _factor(value, f"{file}: [{_TABLE}] {name}")
    return LogitWeight(factors, table.get(_NOTE, ""))


def _factor(value: Any, where: str) -> Range:
    values = value if isinstance(value, list) else [value, value]
    try:
        low, high = map(number, values)
    except ValueError:
        rule = "a factor, or a list of the lowest and the highest"
        raise UserError(f"{where} must be {rule}, not {shown(value)}") from None
    if low > high:
        raise UserError(f"{where} must be a list of the lowest and the highest factor, not {shown(value)}")
    return low, high


def logit_weights(methods: Collection[str]) -> dict[str, LogitWeight]:
    """Return what the files beside methods of kdbench, of users' folders and of packages say, without loading any.

    Methods without such a file are left out, and those whose file does not say it or cannot be read.
    """
    files, weights = method_files(), {}
    for method in methods:
        with contextlib.suppress(UserError):
            if method in files and (weight := read_logit_weight(files[method])):
                weights[method] = weight
    return weights
