"""Differences to a baseline and leaderboards: who is ahead, by how much, and what it is worth."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
from cells import Typed
from fake_records import fake_grid, fake_record, write_records
from scipy.stats import friedmanchisquare, kendalltau, rankdata, t, ttest_rel, wilcoxon
from test_comparison import ALONE, split
from test_layouts import column, records
from test_records import begin

from kdbench.analysis import splitting
from kdbench.analysis.comparison import Comparison
from kdbench.analysis.records import read_records
from kdbench.analysis.tables.differences import against, by_pair, choose_baseline, pooled_table
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table, pairwise_table, stability_notes
from kdbench.analysis.tables.table import Table
from kdbench.errors import UserError
from kdbench.experiment.protocol import load_protocol

PAIRS = ["wrn_40_2>wrn_16_2", "resnet56>resnet20", "resnet110>resnet20", "vgg13>vgg8"]
GAINS = {"kd": 1.0, "dkd": 1.2, "crd": -0.5, "pkt": 0.02}


@pytest.fixture(scope="module")
def found() -> Comparison:
    (one,) = split(*fake_grid(PAIRS, GAINS, 4))
    return one


def scores(found: Comparison, method: str) -> list[list[float]]:
    row = found.find(method)
    return [list(found.results[row, pair].values().values()) for pair in found.pairs]


def of_pair(table: Table, pair: str) -> dict[str, list[str]]:
    """The texts of a pair's rows, by method."""
    rows, own = {}, ""
    for row in table.rows:
        own = row[0].text or own
        if own == pair:
            rows[row[1].text] = [entry.text for entry in row[2:]]
    return rows


def test_each_pair_has_scipys_paired_tests(found: Comparison) -> None:
    base = found.find("kd")
    table = by_pair(found, base, against(found, base))
    for number, pair in enumerate(found.pairs):
        own, other = scores(found, "dkd")[number], scores(found, "kd")[number]
        gaps = [a - b for a, b in zip(own, other, strict=True)]
        low, high = t.interval(0.95, 3, statistics.mean(gaps), statistics.stdev(gaps) / 2)
        shown = of_pair(table, pair.name)["dkd"]
        assert shown[0] == f"{statistics.mean(gaps):+.2f} [{low:+.2f}, {high:+.2f}]"
        assert shown[1] == "4"
        assert float(shown[2].lstrip("<")) == pytest.approx(ttest_rel(own, other).pvalue, abs=6e-4)
        assert float(shown[4]) == pytest.approx(wilcoxon(own, other, method="exact").pvalue, abs=6e-4)
        assert shown[5] == "0.125"
    assert (
        "smallest n = 4: with fewer than 6 seeds, no exact test can reach p = 0.05, however large the differences"
        in table.notes
    )


def test_pooled_differences_weigh_pairs_the_same(found: Comparison) -> None:
    base = found.find("kd")
    versus = {own.row.label: own for own in against(found, base)}
    expected = statistics.mean(
        statistics.mean(own) - statistics.mean(other)
        for own, other in zip(scores(found, "dkd"), scores(found, "kd"), strict=True)
    )
    assert versus["dkd"].mean == pytest.approx(expected)
    assert versus["crd"].outcome == (0, 0, 4)
    assert versus["crd"].smallest_p == 2**-15
    assert versus["crd"].p == 2**-15
    assert versus["crd"].holm_p == pytest.approx(4 * 2**-15)
    texts = column(pooled_table(found, base, list(versus.values())), "mean difference [95 %]")
    assert list(texts) == ["dkd", "pkt", "ce", "crd"]
    assert texts["dkd"].numbers["mean"] == f"{expected:+.2f}"


def test_the_margin_decides_what_a_tie_is(found: Comparison) -> None:
    alone = choose_baseline(found, None)
    outcome = {margin: {o.row.label: o.outcome for o in against(found, alone, margin=margin)} for margin in (0.2, 5.0)}
    assert outcome[0.2]["kd"] == (4, 0, 0)
    assert outcome[5.0]["kd"] == (0, 4, 0)


def test_seeds_that_only_one_of_two_has_do_not_count() -> None:
    (one,) = split(*ALONE, fake_record("kd", 1, 70.0), fake_record("kd", 2, 70.0), fake_record("kd", 9, 99.0))
    (versus,) = against(one, choose_baseline(one, None))
    assert versus.mean == pytest.approx((70 - 66 + 70 - 67) / 2)


def test_one_seed_has_no_interval_and_pairs_may_be_missing() -> None:
    (one,) = split(
        *ALONE, fake_record("kd", 1, 70.0), fake_record("dkd", 1, 70.0, teacher="resnet56", teacher_id="f:1")
    )
    base = choose_baseline(one, None)
    table = pooled_table(one, base, against(one, base))
    places = {row[0].text: row for row in table.rows}
    assert [entry.text for entry in places["kd"][1:4]] == ["1", "1", "+4.00"]
    assert places["kd"][3].notes == ("no interval: at least one pair has a single seed",)
    assert places["kd"][0].notes == ("1 of 2 pairs are missing",)


def test_by_teacher_is_wider_and_needs_three(found: Comparison) -> None:
    base = choose_baseline(found, None)
    narrow, wide = ({o.row.label: o.pooled for o in against(found, base, by_teacher=by)} for by in (False, True))
    assert narrow["kd"] is not None
    assert wide["kd"] is not None
    assert wide["kd"].high - wide["kd"].low > narrow["kd"].high - narrow["kd"].low
    (one,) = split(*records())
    with pytest.raises(
        UserError, match="--by-teacher needs pairs of 3 teachers or more, but crd has pairs of 1: resnet20"
    ):
        against(one, choose_baseline(one, None), by_teacher=True)


def test_pairs_that_share_networks_are_named(found: Comparison) -> None:
    base = choose_baseline(found, None)
    notes = pooled_table(found, base, against(found, base)).notes
    assert any("pairs that share resnet20 are not independent" in note for note in notes)


def test_without_a_student_only_baseline_another_must_be_named() -> None:
    (one,) = split(*(fake_record(method, seed, 70.0) for method in ("kd", "dkd") for seed in range(2)))
    with pytest.raises(
        UserError, match="--baseline takes dkd, kd; or choose other records, --protocol and --rules select"
    ):
        choose_baseline(one, None)


def test_ranks_are_those_of_the_pairs_means(found: Comparison) -> None:
    board = leaderboard(found)
    names = [row.label for row in board.ranked]
    means = np.array([[statistics.mean(own) for own in scores(found, name)] for name in names])
    expected = rankdata(-means, axis=0).mean(axis=1)
    assert {own.row.label: own.rank for own in board.standings} == pytest.approx(
        dict(zip(names, expected, strict=True))
    )
    assert board.ranking is not None
    assert board.ranking.p == pytest.approx(friedmanchisquare(*means).pvalue)
    assert [own.row.label for own in board.standings][:2] == ["dkd", "kd"]
    table = leaderboard_table(board)
    assert any(f"p = {board.ranking.p:.3f}" in note or "p < 0.001" in note for note in table.notes)


def test_methods_without_all_pairs_are_not_ranked(tmp_path: Path) -> None:
    more = [fake_record("at", 1, 90.0, protocol=load_protocol("cifar100-crd-v1"), teacher="vgg13", student="vgg8",
                        teacher_id="cell:vgg13")]  # fmt: skip
    write_records(tmp_path, [*fake_grid(PAIRS, GAINS, 2), *more])
    begin(tmp_path / "begun", 2, protocol=load_protocol("cifar100-crd-v1"), teacher="vgg13", student="vgg8",
          teacher_id="cell:vgg13")  # fmt: skip
    (one,) = splitting.split(read_records(tmp_path))
    table = leaderboard_table(leaderboard(one))
    last = table.rows[-1]
    assert [entry.text for entry in last[:3]] == ["--", "at", "--"]
    assert last[1].notes == ("not ranked: 3 of 4 pairs have no record",)
    assert next(row for row in table.rows if row[1].text == "kd")[1].notes == ("some of its cells are not finished",)


def test_the_leaderboard_shows_what_methods_cost() -> None:
    own = [fake_record("pckd", seed, 75.0, views=4) for seed in range(3)]
    table = leaderboard_table(leaderboard(split(*records(), *own)[0]))
    head = table.heads[0]
    costs = {
        row[1].text: {name: row[head.index(name)].text for name in ("views", "teacher", "time x")} for row in table.rows
    }
    assert costs["pckd"] == {"views": "4", "teacher": "1.0", "time x": "4.00"}
    assert costs["ce"] == {"views": "1", "teacher": "--", "time x": "1.00"}
    assert (
        "ranks are not tested: a test needs at least three methods with records in all pairs, and two pairs"
        in table.notes
    )


def test_times_of_other_devices_are_not_compared() -> None:
    other = [fake_record("at", seed, 75.0) for seed in range(3)]
    for record in other:
        record["environment"]["device"] = "another"
    board = leaderboard(split(*records(), *other)[0])
    times = {own.row.label: own.relative_time for own in board.standings}
    assert np.isnan(times["at"])
    assert times["kd"] == 1.0


def test_rank_stability_across_epochs_and_rules(found: Comparison) -> None:
    (short,) = split(*fake_grid(PAIRS, GAINS, 3, protocol=load_protocol("cifar100-crd-v1").override(epochs=9), seed=1))
    first, second = stability_notes([found, short])
    assert len(first) == 1
    assert "order of methods by the last and by the best-on-test epoch: Kendall's tau" in first[0]
    orders = [{s.row.label: -s.rank for s in leaderboard(one).standings} for one in (found, short)]
    names = list(orders[0])
    tau = kendalltau(*([order[name] for name in names] for order in orders)).statistic
    assert (
        f"order of methods under these rules and under cifar100-crd-v1: Kendall's tau {tau:+.2f} over 5 methods"
        in second[1]
    )


def test_every_two_methods(found: Comparison) -> None:
    table = pairwise_table(found)
    assert len(table.rows) == 10
    assert table.rows[0][0].text == "dkd"
    with pytest.raises(
        UserError, match="--pairwise needs at least three methods with records in all pairs, and two pairs"
    ):
        pairwise_table(split(*records())[0])


def test_commands_print_them(typed: Typed, tmp_path: Path) -> None:
    write_records(tmp_path / "runs", fake_grid(PAIRS, GAINS, 3))
    for words, told in (
        (["leaderboard", "runs"], "critical difference (Nemenyi, 5 %)"),
        (["compare", "runs", "--baseline", "kd", "--methods", "dkd"], "differences to kd, pooled over pairs"),
        (["compare", "runs", "--pairwise", "--by-teacher", "--margin", "1"], "± 1 percentage points"),
    ):
        for form in ("terminal", "markdown", "latex", "csv"):
            code, out, err = typed(*words, "--format", form)
            assert (code, err) == (0, "")
            printed = told.replace("kd", "KD") if form == "latex" else told
            assert printed in out.replace(r"$\pm$", "±").replace(r"\%", "%")
