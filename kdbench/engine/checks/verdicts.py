"""What became of checks, as a table and as lines below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from kdbench.engine.checks.table import Check

Outcome = Literal["ok", "refused", "FAILS"]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one check on one pair, or on images of one size."""

    check: str
    pair: str
    outcome: Outcome
    reason: str = ""
    remedy: str = ""


def rows(verdicts: Sequence[Verdict], checks: Mapping[str, Check[Any]], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Return a table: one row a check, one column a pair or a size."""
    outcomes = {(verdict.check, verdict.pair): verdict.outcome for verdict in verdicts}
    refused = {verdict.pair for verdict in verdicts if _refuses(verdict, checks)}
    return [
        {"check": name, "what must hold": check.what}
        | {pair: "refused" if pair in refused else outcomes.get((name, pair), "") for pair in columns}
        for name, check in checks.items()
    ]


def remarks(verdicts: Sequence[Verdict], checks: Mapping[str, Check[Any]]) -> Iterator[str]:
    """Return why checks failed or refused; what is the same in several columns is one line."""
    columns_of: dict[Verdict, list[str]] = {}
    for verdict in verdicts:
        if verdict.reason:
            columns_of.setdefault(replace(verdict, pair=""), []).append(verdict.pair)
    for verdict, columns in columns_of.items():
        where = ", ".join(columns)
        place = where if _refuses(verdict, checks) else f"{verdict.check} on {where}"
        yield f"{verdict.outcome}, {place}: {verdict.reason}"
        if verdict.remedy:
            yield f"    {verdict.remedy}"


def _refuses(verdict: Verdict, checks: Mapping[str, Check[Any]]) -> bool:
    """Return whether the column is refused as a whole."""
    return verdict.outcome == "refused" and verdict.check == next(iter(checks))
