"""Controls: students without a teacher that were trained for longer, or with label smoothing, beside the methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from fake_records import fake_record, write_records
from test_comparison import DIGITS, split
from test_layouts import column

from kdbench.analysis import splitting
from kdbench.analysis.published.ledger import claims
from kdbench.analysis.published.tables import with_published
from kdbench.analysis.published.values import load_published
from kdbench.analysis.records import read_records
from kdbench.analysis.tables.differences import against, choose_baseline
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol

LONGER = DIGITS.override(epochs=3 * DIGITS.epochs)
LABEL = f"ce ({LONGER.epochs} epochs)"


def alone(top1: float, seeds: int = 2, **changes: Any) -> list[dict[str, Any]]:
    return [fake_record("ce", seed, top1 + seed, **{"teacher": None} | changes) for seed in range(1, seeds + 1)]


def taught(top1: float, **changes: Any) -> list[dict[str, Any]]:
    return [fake_record("kd", seed, top1 + 2 * seed, **changes) for seed in (1, 2)]


def test_a_longer_training_stands_in_the_same_table() -> None:
    (comparison,) = split(*alone(50.0), *alone(55.0, protocol=LONGER), *taught(60.0))
    assert comparison.title == DIGITS.name
    assert [row.label for row in comparison.rows] == ["ce", LABEL, "kd"]
    assert comparison.student_only
    assert comparison.student_only.label == "ce"
    (pair,) = comparison.pairs
    table = detail(comparison, pair)
    assert column(table, "top-1 %")[LABEL].text == "56.50 ± 0.71"
    assert column(table, "top-1 %")["ce"].text == "51.50 ± 0.71"
    assert not column(table, "method")[LABEL].notes, "its length was not chosen by these accuracies"
    assert f"unequal compute, in epochs: {LONGER.epochs} for {LABEL}; {DIGITS.epochs} for the others" in table.notes
    assert LABEL in column(paper(comparison), "resnet20 resnet8")
    assert LABEL in column(leaderboard_table(leaderboard(comparison)), "top-1 %")
    means = {versus.row.label: versus.mean for versus in against(comparison, comparison.find("ce"))}
    assert means == pytest.approx({LABEL: 5.0, "kd": 11.5})
    (control, *_) = against(comparison, choose_baseline(comparison, LABEL))
    assert control.mean == pytest.approx(-5.0), "it may be chosen to compare with"


def test_it_is_no_baseline_where_it_is_all_there_is() -> None:
    for controls in (alone(55.0, protocol=LONGER), alone(55.0, chosen={"label_smoothing": 0.1})):
        (comparison,) = split(*controls, *taught(60.0))
        (_, control) = sorted(comparison.rows, key=lambda row: row.method == "ce")
        assert control.label in (LABEL, "ce label_smoothing=0.1")
        assert comparison.student_only is None
        with pytest.raises(UserError, match="no student-only baseline: choose a row to compare with, --baseline takes"):
            choose_baseline(comparison, None)


def test_what_is_no_control_stays_a_comparison_of_its_own() -> None:
    usual = [*alone(50.0), *taught(60.0)]
    shorter = DIGITS.override(epochs=1)
    others = {
        "a method at that length": [*alone(55.0, protocol=LONGER), *taught(60.0, protocol=LONGER)],
        "a shorter training": alone(40.0, protocol=shorter),
        "another rule as well": alone(55.0, protocol=LONGER.override(learning_rate=0.7)),
        "another student": alone(55.0, protocol=LONGER, student="resnet14"),
        "other data": alone(55.0, protocol=LONGER, data_fingerprint="e" * 64),
    }
    for what, records in others.items():
        comparisons = split(*usual, *records)
        assert len(comparisons) == 2, what
        assert not any(row.epochs for comparison in comparisons for row in comparison.rows), what
        assert all(comparison.student_only for comparison in comparisons), what


def test_of_two_lengths_with_methods_each_has_the_longer_control() -> None:
    middle = DIGITS.override(epochs=2 * DIGITS.epochs)
    records = [*taught(60.0), *alone(52.0, protocol=middle), *taught(60.0, protocol=middle)]
    first, second = split(*records, *alone(55.0, protocol=LONGER))
    assert [row.label for row in first.rows] == [LABEL, "kd"]
    assert [row.label for row in second.rows] == ["ce", LABEL, "kd"]
    assert second.student_only
    assert not second.student_only.epochs


def test_unfinished_controls_are_counted_in_their_row(tmp_path: Path) -> None:
    write_records(tmp_path, [*alone(50.0), *taught(60.0), *alone(55.0, seeds=1, protocol=LONGER)])
    begun = [*alone(0.0, seeds=4, protocol=LONGER)[1:], *alone(0.0, seeds=3)[2:]]
    for number, record in enumerate(begun):
        folder = tmp_path / "begun" / str(number)
        folder.mkdir(parents=True)
        config = record["config"] | {"id": record["cell"], "chosen": {}}
        (folder / "config.toml").write_text(tomli_w.dumps(config))
    (comparison,) = splitting.split(read_records(tmp_path))
    unfinished = {row.label: len(result.unfinished) for (row, _), result in comparison.results.items()}
    assert unfinished == {"ce": 1, LABEL: 3, "kd": 0}


def test_published_values_are_not_of_controls() -> None:
    rules = load_protocol("cifar100-crd-v1")
    longer = rules.override(epochs=391)
    pair = {"teacher": "wrn_40_2", "student": "wrn_16_2", "teacher_accuracy": 75.61}
    records = [fake_record("kd", seed, 74.0 + seed, **{"protocol": rules, **pair}) for seed in (1, 2)]
    records += [*alone(73.0, protocol=rules, student="wrn_16_2"), *alone(73.5, protocol=longer, student="wrn_16_2")]
    (comparison,) = split(*records)
    published = load_published("cifar100")
    reasons = {(claim.row.label, claim.value.source): claim.why for claim in claims(comparison, published)}
    assert {label for label, _ in reasons} == {"ce", "ce (391 epochs)", "kd"}
    assert reasons["ce", "crd"] == ""
    assert reasons["ce (391 epochs)", "crd"] == "our rules differ from the protocol: epochs=391"
    table = with_published(paper(comparison), comparison, published, beside=True)
    entries = column(table, "wrn_40_2 wrn_16_2")
    assert "[" in entries["kd"].text
    assert "[" not in entries["ce (391 epochs)"].text
