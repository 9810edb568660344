"""The claims ledger: verdicts against values that are known, and what is not compared."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from cells import Typed
from fake_records import fake_record, write_records
from scipy.stats import t, ttest_ind_from_stats
from test_comparison import split

from kdbench.analysis.published.ledger import Claim, against_published, claims
from kdbench.analysis.published.values import PublishedValue, load_published
from kdbench.experiment.protocol import load_protocol

PAIR: dict[str, Any] = {"teacher": "wrn_40_2", "student": "wrn_16_2", "teacher_accuracy": 75.61}
RULES = load_protocol("cifar100-crd-v1")
# Published: KD 74.92 ± 0.28 over 5 runs of the last epoch (CRD's table 1).


def ledger(values: list[float], method: str = "kd", **changes: Any) -> dict[str, Claim]:
    made = [
        fake_record(method, seed, value, **{"protocol": RULES, **PAIR, **changes}) for seed, value in enumerate(values)
    ]
    (found,) = split(*made)
    return {claim.value.source: claim for claim in claims(found, load_published("cifar100"))}


@pytest.mark.parametrize(
    ("values", "verdict"),
    [([74.7, 74.9, 75.2], "agrees"), ([75.8, 75.9, 76.0], "above"), ([73.0, 73.1, 73.3], "below")],
)
def test_verdicts(values: list[float], verdict: str) -> None:
    claim = ledger(values)["crd"]
    assert (claim.value.top1, claim.value.std, claim.value.n) == (74.92, 0.28, 5)
    assert claim.verdict == verdict
    test = ttest_ind_from_stats(sum(values) / 3, (_sd(values)), 3, 74.92, 0.28, 5, equal_var=False)
    assert (test.pvalue < 0.05) == (verdict != "agrees")


def _sd(values: list[float]) -> float:
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def published(**changes: Any) -> PublishedValue:
    values: dict[str, Any] = {
        "method": "KD", "top1": 74.0, "std": None, "n": None, "epoch": "last", "source": "crd", "also_in": (),
        "differs": "", "note": "",
    }  # fmt: skip
    return PublishedValue(**values | changes)


def test_with_deviation_and_runs_the_interval_is_welchs() -> None:
    ours = {1: 74.1, 2: 74.9, 3: 74.4, 4: 75.2}
    found = against_published(ours, published(std=0.3, n=5))
    variance = _sd(list(ours.values())) ** 2 / 4, 0.3**2 / 5
    degrees = sum(variance) ** 2 / (variance[0] ** 2 / 3 + variance[1] ** 2 / 4)
    half = t.ppf(0.975, degrees) * math.sqrt(sum(variance))
    assert found.mean == pytest.approx(0.65)
    assert (found.low, found.high) == pytest.approx((0.65 - half, 0.65 + half))


@pytest.mark.parametrize(("n", "runs"), [(None, 1), (5, 5)])
def test_without_a_deviation_ours_is_taken_for_theirs(n: int | None, runs: int) -> None:
    ours = {1: 74.1, 2: 74.9, 3: 74.4}
    found = against_published(ours, published(n=n))
    half = t.ppf(0.975, 2) * _sd(list(ours.values())) * math.sqrt(1 / 3 + 1 / runs)
    assert found.high - found.low == pytest.approx(2 * half)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"protocol": RULES.override(epochs=30)}, "our rules differ from the protocol: epochs=30"),
        ({"chosen": {"temperature": 2.0}}, "our settings were changed: temperature=2.0"),
    ],
)
def test_other_rules_and_chosen_settings_are_not_comparable(changes: dict[str, Any], why: str) -> None:
    claim = ledger([74.7, 74.9, 75.2], **changes)["crd"]
    assert (claim.verdict, claim.why, claim.difference) == ("not comparable", why, None)


def test_other_sources_are_not_comparable_and_say_why() -> None:
    claim = ledger([74.7, 74.9, 75.2])["sskd"]
    assert claim.verdict == "not comparable"
    assert claim.why == "the source has teachers of its own"


def test_one_seed_has_no_verdict() -> None:
    assert ledger([74.9])["crd"].why == "one seed gives no interval"


def test_a_source_of_best_epochs_is_held_against_best_epochs() -> None:
    found = ledger([75.9, 76.0, 76.1], "dkd")
    best = found["mdistiller"]
    assert best.reported == "best"
    assert best.ours == pytest.approx({0: 76.2, 1: 76.3, 2: 76.4})


def test_a_teacher_of_another_accuracy_is_named() -> None:
    assert ledger([74.7, 74.9, 75.2])["crd"].remarks == ()
    remarks = ledger([74.7, 74.9, 75.2], teacher_accuracy=76.3)["crd"].remarks
    assert remarks == ("our teacher wrn_40_2 has 76.30 %, theirs 75.61 %",)


def test_a_value_that_others_do_not_find_is_called_contested() -> None:
    networks = {"teacher": "resnet56", "student": "resnet20", "teacher_accuracy": 72.34}
    claim = ledger([71.3, 71.4, 71.5], **networks)["crd"]
    assert (claim.value.top1, claim.verdict) == (70.66, "above")
    (remark,) = claim.remarks
    assert remark.startswith("contested: ")
    assert "71.4" in remark
    others = ledger([71.8, 71.9], "dkd", **networks).values()
    assert not any("contested" in text for claim in others for text in claim.remarks)


def test_the_command_prints_every_claim(typed: Typed, tmp_path: Path) -> None:
    values = enumerate([74.7, 74.9, 75.2])
    write_records(tmp_path / "runs", [fake_record("kd", seed, value, protocol=RULES, **PAIR) for seed, value in values])
    code, out, err = typed("claims", "runs")
    assert (code, err) == (0, "")
    (line,) = [line for line in out.splitlines() if "crd, ttm + 8" in line or " crd" in line.split("last")[-1][:12]]
    assert "74.92 ± 0.28" in line
    assert "agrees" in line
    assert "1 agrees, 0 below, 0 above, 2 not comparable" in out
    code, out, _ = typed("claims", "runs", "--format", "csv")
    assert code == 0
    assert "the source has teachers of its own" in out


def test_rules_that_nobody_published_say_so(typed: Typed, tmp_path: Path) -> None:
    write_records(tmp_path / "runs", [fake_record("kd", seed, 70.0) for seed in range(2)])
    code, out, err = typed("claims", "runs")
    assert (code, out) == (2, "")
    assert "no values are published for these rules and pairs: digits-demo-v1" in err
