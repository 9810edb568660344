"""Puts a method through the generic checks, and says what does not hold, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from kdbench.checks import CHECKS, Broken
from kdbench.registry import method_source
from kdbench.trial import PAIRS
from kdbench.watched import Refused, Trial

Outcome = Literal["ok", "refused", "FAILS"]


@final
@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one check on one pair."""

    check: str
    pair: str
    outcome: Outcome
    reason: str = ""


def judge(check: str, trial: Trial) -> Verdict:
    """Run one check."""
    try:
        CHECKS[check].holds(trial)
    except Refused as refusal:
        return Verdict(check, trial.pair, "refused", str(refusal))
    except Broken as failure:
        return Verdict(check, trial.pair, "FAILS", str(failure))
    except Exception as error:
        return Verdict(check, trial.pair, "FAILS", method_source(trial.method).place_of(error))
    return Verdict(check, trial.pair, "ok")


def validate(method: str, folder: Path, observe: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """Run all checks on every pair that the method works on.

    Parameters
    ----------
    folder
        For states; what lies there is of no use afterwards.
    observe
        Is told what is done next.
    """
    verdicts: list[Verdict] = []
    once = True
    for number, pair in enumerate(PAIRS):
        trial = Trial(method, pair, folder / str(number))
        for name, check in CHECKS.items():
            if not (check.every_pair or once):
                continue
            observe(f"{name} on {pair_text(pair)}")
            verdicts.append(judge(name, trial))
            if name == next(iter(CHECKS)) and verdicts[-1].outcome == "refused":
                break
        else:
            once = False
    return verdicts


def pair_text(pair: str) -> str:
    """A pair of ``PAIRS`` in networks' names."""
    return ">".join(PAIRS[pair])


def rows(verdicts: list[Verdict]) -> list[dict[str, Any]]:
    """A table: one row a check, one column a pair."""
    found = {(verdict.check, verdict.pair): verdict.outcome for verdict in verdicts}
    refused = {v.pair for v in verdicts if v.outcome == "refused" and v.check == next(iter(CHECKS))}
    return [
        {"check": name, "what must hold": check.what}
        | {pair: "refused" if pair in refused else found.get((name, pair), "") for pair in PAIRS}
        for name, check in CHECKS.items()
    ]


def remarks(verdicts: list[Verdict]) -> Iterator[str]:
    """Why checks failed or were refused; what several checks or pairs say alike is said once."""
    said: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts:
        if verdict.reason:
            said.setdefault((verdict.outcome, verdict.reason), []).append(verdict)
    for (outcome, reason), alike in said.items():
        names = ", ".join(dict.fromkeys(verdict.check for verdict in alike))
        pairs = ", ".join(dict.fromkeys(pair_text(verdict.pair) for verdict in alike))
        if outcome == "refused":
            what = pairs if names == next(iter(CHECKS)) else f"{names} on {pairs}"
            yield f"refused, {what}: {reason}"
        else:
            yield f"FAILS, {names} on {pairs}: {reason}"
            yield f"    {CHECKS[alike[0].check].remedy}"
