"""Marks, places and corrections: what ties, sweeps and equal values may claim."""

from __future__ import annotations

from typing import Any

import pytest
from fake_records import fake_grid, fake_record
from test_comparison import ALONE, split
from test_layouts import column
from test_ledger import ledger

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.selection import Filters, select
from kdbench.analysis.tables.compute import compute_notes
from kdbench.analysis.tables.differences import against, by_pair, holm_note, pooled_table
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table, pairwise_table
from kdbench.experiment.protocol import load_protocol

PAIR = "resnet20 resnet8"
PROTOCOL = load_protocol("cifar100-crd-v1")
PAIRS = ["wrn_40_2>wrn_16_2", "resnet56>resnet20", "vgg13>vgg8"]


def rows(method: str, *top1: float, **changes: Any) -> list[dict[str, Any]]:
    return [fake_record(method, seed, value, **changes) for seed, value in enumerate(top1)]


def marks(*records: dict[str, Any]) -> dict[str, str]:
    (comparison,) = split(*records)
    return {name: entry.mark for name, entry in column(paper(comparison, marks="all"), PAIR).items() if entry.mark}


def test_equal_means_share_a_mark() -> None:
    best, same = rows("kd", 70.0, 72.0), rows("dkd", 72.0, 70.0)
    assert marks(*best, *same, *rows("at", 69.0, 69.0), *rows("pkt", 68.0, 68.0)) == {
        "kd": "best", "dkd": "best", "at": "second",
    }  # fmt: skip
    assert marks(*rows("at", 73.0, 73.0), *best, *same) == {"at": "best", "kd": "second", "dkd": "second"}


def test_equal_means_are_never_clear() -> None:
    """kd and dkd are equal on average, and above at by more than its interval."""
    (comparison,) = split(*rows("kd", 70.0, 72.0, 71.0), *rows("dkd", 72.0, 71.0, 70.0), *rows("at", 1.0, 1.5, 1.2))
    assert {entry.mark for entry in column(paper(comparison), PAIR).values()} == {""}


def test_equal_ranks_share_a_place() -> None:
    records = [*fake_grid(PAIRS, {}, 1, sd=0.0)]
    for number, pair in enumerate(PAIRS):
        teacher, student = pair.split(">")
        shared = {"teacher": teacher, "student": student, "protocol": PROTOCOL, "teacher_id": f"cell:{teacher}"}
        # Each of three methods is first, second and third on one pair; pkt is last on all.
        records += [
            fake_record(method, 1, 80.0 + (place + number) % 3, **shared)
            for place, method in enumerate(("a", "b", "c"))
        ]
        records.append(fake_record("z", 1, 60.0, **shared))
    (comparison,) = split(*records)
    table = leaderboard_table(leaderboard(comparison))
    assert {row[1].text: row[0].text for row in table.rows} == {"a": "1", "b": "1", "c": "1", "ce": "4", "z": "5"}


def sweep(settings: int) -> Comparison:
    gains = {"at": 0.3, "dkd": 0.2}
    records = [*fake_grid(PAIRS, gains | {"kd": 0.1}, 4)]
    for number in range(1, settings):
        for record in fake_grid(PAIRS, {"kd": 0.1}, 4, seed=number):
            if record["method"] != "ce":
                config = record["config"]
                changed = fake_record(
                    "kd", record["seed"], record["top1"], protocol=PROTOCOL, teacher=config["teacher"]["network"],
                    student=record["student"], teacher_id=config["teacher"]["id"], chosen={"temperature": number},
                )  # fmt: skip
                records.append(changed)
    (comparison,) = split(*records)
    return comparison


def test_a_sweep_of_one_method_costs_no_other_method() -> None:
    single, swept = sweep(1), sweep(5)
    before = {versus.row.label: versus for versus in against(single, single.find("ce"))}
    after = {versus.row.label: versus for versus in against(swept, swept.find("ce"))}
    assert {versus.row.method for versus in after.values()} == set(before)
    assert len(after) == len(before) + 4
    least = min(before, key=lambda label: before[label].p)
    assert before[least].holm_p == pytest.approx(min(1, 3 * before[least].p))
    for method in ("at", "dkd"):
        assert after[method].holm_p <= min(1, 3 * after[method].p) + 1e-12
    # The settings of kd pay for their number: each has a fifth of the share of one method.
    kd = min((versus for versus in after.values() if versus.row.method == "kd"), key=lambda versus: versus.p)
    assert kd.holm_p >= min(1, 5 * kd.p) - 1e-12


def test_the_family_of_the_correction_is_named() -> None:
    single, swept = sweep(1), sweep(3)
    note = "Holm p: p corrected for the 3 methods that this table compares with the baseline"
    assert holm_note(against(single, single.find("ce"))) == note
    shared = f"{note}; rows of one method share its part and cost no other method (3 rows of kd)"
    base = swept.find("ce")
    assert shared in pooled_table(swept, base, against(swept, base)).notes
    assert shared in leaderboard_table(leaderboard(swept)).notes
    notes = " | ".join(leaderboard_table(leaderboard(swept)).notes)
    assert "ranks, for 6 methods, each variant a method" in notes
    assert "each variant" not in " | ".join(leaderboard_table(leaderboard(single)).notes)
    assert any(f"all {6 * 5 // 2} comparisons of this table" in note for note in pairwise_table(swept).notes)


def test_a_choice_of_settings_is_marked_even_if_only_the_chosen_is_shown() -> None:
    swept = sweep(3)
    ((chosen,), _) = select([swept], Filters(methods=["kd temperature=2", "at"]))
    base = swept.find("ce")
    note = (
        "one of 3 variants of kd that were run: to choose one by these accuracies is a choice on the test set, and "
        "biased upwards"
    )
    tables = [
        paper(chosen), detail(chosen, chosen.pairs[0]), leaderboard_table(leaderboard(chosen)),
        by_pair(chosen, base, against(chosen, base)), pooled_table(chosen, base, against(chosen, base)),
    ]  # fmt: skip
    for table in tables:
        labels = {row[number].text: row[number].notes for row in table.rows for number in range(table.num_labels)}
        assert labels["kd temperature=2"] == (note,)
        assert labels["at"] == ()


def test_equal_differences_have_no_t_test_in_tables() -> None:
    (comparison,) = split(*ALONE[:2], *rows("kd", 67.0, 68.0))
    base = comparison.find("ce")
    (row,) = by_pair(comparison, base, against(comparison, base)).rows
    assert [entry.text for entry in row[2:]] == ["+2.00", "2", "--", "0.500", "0.500", "0.500"]
    pooled = pooled_table(comparison, base, against(comparison, base))
    assert column(pooled, "mean difference [95 %]")["kd"].text == "+2.00"
    assert column(pooled, "bootstrap [95 %]")["kd"].text == "--"


def test_equal_accuracies_decide_no_claim() -> None:
    claims = ledger([74.9, 74.9, 74.9], "dkd")  # of which no source prints a deviation
    assert {(claim.verdict, claim.why) for claim in claims.values()} == {
        ("not comparable", "equal accuracies of our seeds give no interval")
    }
    assert ledger([74.9, 74.9, 74.9])["crd"].verdict == "agrees"  # CRD prints the deviation of its five runs


def test_a_method_without_a_teacher_reads_no_cache() -> None:
    cached = rows("at", 75.0, 75.0, 75.0)
    for record in cached:
        record["cost"]["teacher_forwards"] = 0
    mutual = rows("mutual", 72.0, 72.0, 72.0, teacher=None)
    (comparison,) = split(*ALONE, *mutual, *rows("kd", 71.0, 71.0, 71.0), *cached)
    (note,) = compute_notes(comparison, comparison.pairs)
    assert note == "unequal compute: kd queried the teacher live; at read its outputs from a cache"


def test_notes_below_a_pair_are_about_that_pair() -> None:
    cached = [fake_record("at", 1, 75.0, student="resnet14")]
    cached[0]["cost"]["teacher_forwards"] = 0
    (comparison,) = split(*rows("kd", 71.0), *cached, *rows("pckd", 75.0, views=4, student="resnet14"))
    notes = {pair.student: compute_notes(comparison, [pair]) for pair in comparison.pairs}
    assert notes["resnet8"] == []
    assert notes["resnet14"] == [
        "unequal compute, in views of each image: 4 for pckd; 1 for the others",
        "unequal compute: pckd queried the teacher live; at read its outputs from a cache",
    ]


def test_views_of_three_kinds_are_one_note() -> None:
    (comparison,) = split(*rows("kd", 71.0), *rows("mlld", 72.0, views=2), *rows("pckd", 75.0, views=4))
    (note,) = compute_notes(comparison, comparison.pairs)
    assert note == "unequal compute, in views of each image: 4 for pckd; 2 for mlld; 1 for the others"
