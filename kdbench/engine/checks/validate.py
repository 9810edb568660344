"""Puts a method through the generic checks, and says what does not hold, where, and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kdbench.engine.checks.rules import Broken
from kdbench.engine.checks.small import PAIRS
from kdbench.engine.checks.table import CHECKS
from kdbench.engine.checks.verdicts import Verdict
from kdbench.engine.checks.watched import Refused, Watched
from kdbench.engine.divergence import Diverged
from kdbench.errors import UserError
from kdbench.experiment.pairs import Pair
from kdbench.experiment.registry import method_source
from kdbench.net import Undeclared


def judge(check: str, watched: Watched) -> Verdict:
    """Run one check."""
    try:
        CHECKS[check].holds(watched)
    except Refused as refusal:
        return Verdict(check, watched.pair, "refused", str(refusal))
    except Broken as failure:
        return Verdict(check, watched.pair, "FAILS", str(failure), CHECKS[check].remedy)
    except Exception as error:
        is_line = isinstance(error, UserError) and not isinstance(error, Diverged)
        reason = str(error) if is_line else method_source(watched.method).place_of(error)
        remedy = "Mend that line first: other checks need steps." if error is watched.outcome else CHECKS[check].remedy
        return Verdict(check, watched.pair, "FAILS", reason, remedy)
    return Verdict(check, watched.pair, "ok")


def validate(method: str, folder: Path, observe: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """Run all checks on every pair that the method works on.

    Parameters
    ----------
    folder
        For states; what lies there is of no use afterwards.
    observe
        Called with what is done next.
    """
    verdicts: list[Verdict] = []
    once = True
    for number, pair in enumerate(PAIRS):
        observe(f"steps on {pair_text(pair)}")
        watched = Watched(method, pair, folder / str(number))
        if isinstance(watched.outcome, Exception):  # no other check can run on the pair
            verdicts.append(judge("reads" if isinstance(watched.outcome, Undeclared) else "losses", watched))
            continue
        for name, check in CHECKS.items():
            if check.every_pair or once:
                observe(f"{name} on {pair_text(pair)}")
                verdicts.append(judge(name, watched))
        once = False
    return verdicts


def pair_text(pair: str) -> str:
    """Return a pair of ``PAIRS`` in networks' names."""
    return str(Pair.of(*PAIRS[pair]))
