"""What must hold for every method on every kind of network: the checks of ``kdbench validate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cells import METHODS, REFUSED

from kdbench.engine.checks.rules import CHECKS
from kdbench.engine.checks.small import PAIRS
from kdbench.engine.checks.watched import Refused, Trial, first_steps_elsewhere
from kdbench.experiment.registry import method_names

pytestmark = pytest.mark.once

FIRST = next(iter(PAIRS))
# Ordered so that what several checks look at is made once and then dropped; a refused pair is refused once.
CASES = [
    (check, method, pair)
    for method in METHODS
    for pair in PAIRS
    for check in (["losses"] if (method, pair) in REFUSED else CHECKS)
    if pair == FIRST or CHECKS[check].every_pair
]


@pytest.fixture(scope="module")
def elsewhere() -> dict[str, list[str]]:
    """What every method remembers after its first step in one other process."""
    cells = [(method, FIRST, settings) for method, settings in METHODS.items()]
    return dict(zip(METHODS, first_steps_elsewhere(cells), strict=True))


@pytest.fixture(scope="module")
def trial_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Trial]:
    """The trial of a method on a pair; the last one is kept."""
    last: dict[tuple[str, str], Trial] = {}

    def find(method: str, pair: str) -> Trial:
        if (method, pair) not in last:
            last.clear()
            last[method, pair] = Trial(method, pair, tmp_path_factory.mktemp("trial"), METHODS[method])
        return last[method, pair]

    return find


def test_the_table_holds_every_method() -> None:
    assert sorted(METHODS) == method_names()


@pytest.mark.parametrize(("check", "method", "pair"), CASES)
def test_every_check_holds(
    check: str, method: str, pair: str, trial_of: Callable[[str, str], Trial], request: pytest.FixtureRequest
) -> None:
    trial = trial_of(method, pair)
    if check == "processes":
        trial.elsewhere = request.getfixturevalue("elsewhere")[method]
    refusal = REFUSED.get((method, pair)) or REFUSED.get((method, check))
    if refusal is None:
        CHECKS[check].holds(trial)
        return
    with pytest.raises(Refused, match=refusal) as refused:
        CHECKS[check].holds(trial)
    pytest.skip(str(refused.value))


def test_a_trial_needs_no_file_and_no_download(tmp_path: Path) -> None:
    """The images are made, equal in every process."""
    first, second = (Trial("ce", FIRST, tmp_path).dataset for _ in range(2))
    assert first.fingerprint == second.fingerprint
