"""What must hold for every method on every kind of network: the checks of ``kdbench validate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cells import METHODS, REFUSED

from kdbench.engine.checks.small import PAIRS
from kdbench.engine.checks.table import CHECKS
from kdbench.engine.checks.watched import Refused, Watched, first_steps_elsewhere
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
def watched_on(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Watched]:
    """Watch a method on a pair; the last one is kept."""
    last: dict[tuple[str, str], Watched] = {}

    def find(method: str, pair: str) -> Watched:
        if (method, pair) not in last:
            last.clear()
            last[method, pair] = Watched(method, pair, tmp_path_factory.mktemp("watched"), METHODS[method])
        return last[method, pair]

    return find


def test_the_table_holds_every_method() -> None:
    assert sorted(METHODS) == method_names()


@pytest.mark.parametrize(("check", "method", "pair"), CASES)
def test_every_check_holds(
    check: str, method: str, pair: str, watched_on: Callable[[str, str], Watched], request: pytest.FixtureRequest
) -> None:
    watched = watched_on(method, pair)
    if check == "processes":
        watched.elsewhere = request.getfixturevalue("elsewhere")[method]
    refusal = REFUSED.get((method, pair)) or REFUSED.get((method, check))
    if refusal is None:
        CHECKS[check].holds(watched)
        return
    with pytest.raises(Refused, match=refusal) as refused:
        CHECKS[check].holds(watched)
    pytest.skip(str(refused.value))


def test_a_trial_needs_no_file_and_no_download(tmp_path: Path) -> None:
    """The images are made, equal in every process."""
    first, second = (Watched("ce", FIRST, tmp_path).dataset for _ in range(2))
    assert first.fingerprint == second.fingerprint
