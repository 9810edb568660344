"""What searches cost and chose: their tables, and the notes below tables of the runs that are compared."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_records import fake_grid
from searched_runs import SCORES, write_compared, write_search

from kdbench.analysis.comparison import Comparison
from kdbench.analysis.published.ledger import claims
from kdbench.analysis.published.tables import with_published
from kdbench.analysis.published.values import load_published
from kdbench.analysis.records import Records, as_frame, read_records
from kdbench.analysis.searches import Search, searches_of
from kdbench.analysis.splitting import split
from kdbench.analysis.stats.best_of import expected_best
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table
from kdbench.analysis.tables.render import render
from kdbench.analysis.tables.searches import search_notes, searches_tables, trials_tables


def only_search(runs: Path) -> Search:
    (search,) = searches_of(read_records(runs))
    return search


@pytest.mark.parametrize("number", [1, 2, 3, 5, 7])
def test_the_expected_best_is_the_mean_over_all_subsets(number: int) -> None:
    scores = np.random.default_rng(3).normal(70, 2, 7).round(1).tolist()
    scores[2] = scores[5]  # a tie
    subsets = [max(subset) for subset in itertools.combinations(scores, number)]
    assert expected_best(scores, number) == pytest.approx(sum(subsets) / len(subsets), abs=1e-9)


def test_the_expected_best_of_many_trials_is_finite() -> None:
    scores = [float(number) for number in range(3000)]
    assert expected_best(scores, 3000) == 2999
    assert expected_best(scores, 1) == pytest.approx(1499.5)
    assert math.isfinite(expected_best(scores, 1500))


def test_a_study_is_a_row(tmp_path: Path) -> None:
    write_search(tmp_path)
    (table,) = searches_tables([only_search(tmp_path)])
    row = dict(zip(table.heads[0], (entry.text for entry in table.rows[0]), strict=True))
    scores = [score[0] or 0.0 for score in SCORES.values()]
    assert (row["method"], row["pair"], row["trials"], row["epochs"]) == ("kd", "resnet20>resnet8", "5, 1 failed", "2")
    assert row["best of 1 %"] == f"{np.mean(scores):.2f}"
    pairs = [max(pair) for pair in itertools.combinations(scores, 2)]
    assert row["best of 2 %"] == f"{np.mean(pairs):.2f}"
    assert "best of 8 %" not in row
    assert row["chosen settings"] == "temperature=3.0"
    assert (row["chosen %"], row["optimism"]) == ("63.00", "+0.00")
    assert float(row["CPU-hours"]) == pytest.approx(10 * 20 / 3600, rel=0.01)  # ten records of twenty seconds
    assert any("a failed trial counts as 0 %" in note for note in table.notes)
    assert any("the teacher resnet20 was trained on them as well" in note for note in table.notes)


def test_each_trial_is_a_row_in_the_order_of_the_choice(tmp_path: Path) -> None:
    write_search(tmp_path)
    (table,) = trials_tables([only_search(tmp_path)])
    rows = [tuple(entry.text for entry in row) for row in table.rows]
    assert [row[1] for row in rows] == ["2", "1", "3", "0", "4"]
    assert rows[0][2:] == ("temperature=3.0", "1", "2", "63.00", "63.00", "chosen")
    assert rows[3][2:] == ("default", "4", "2", "60.00", "--", "")
    assert rows[4][2:] == ("temperature=5.0", "5", "2", "--", "--", "failed: diverged")


def test_trials_are_known_before_any_choice(tmp_path: Path) -> None:
    scores = {number: score[:1] for number, score in SCORES.items()}
    folder = write_search(tmp_path, scores, ends=False)
    study = json.loads((folder / "study.json").read_text())
    study["points"].append({"settings": {"temperature": 9.0}, "multiples": {}})
    (folder / "study.json").write_text(json.dumps(study))
    search = only_search(tmp_path)
    (table,), (trials,) = searches_tables([search]), trials_tables([search])
    row = dict(zip(table.heads[0], (entry.text for entry in table.rows[0]), strict=True))
    assert (row["trials"], row["chosen settings"]) == ("5 of 6, 1 failed", "none yet")
    assert [row[5].text for row in trials.rows] == ["60.00", "64.00", "63.00", "62.00", "--", "--"]
    assert [row[7].text for row in trials.rows] == ["", "", "", "", "failed: diverged", "not finished"]


def test_trials_of_further_rungs_rank_before_those_that_were_left_out(tmp_path: Path) -> None:
    folder = write_search(tmp_path, {number: (60.0 + number,) for number in range(4)}, ends=False, rungs=[1, 2])
    for step, epochs, trials in (("rung-2", 1, (3, 2, 1, 0)), ("best", 2, (2, 3)), ("chosen", 2, (3, 2))):
        ranking = [{"trial": trial, "cells": [f"{step}{trial}"], "top1": [60.0 + trial]} for trial in trials]
        values = {"epochs": epochs, "ranking": ranking, "settings": {"temperature": 4.0}, "rules": {}}
        (folder / f"4-trials-{step}.json").write_text(json.dumps(values))
    search = only_search(tmp_path)
    assert [(trial.number, trial.epochs) for trial in search.trials()] == [(3, 2), (2, 2), (1, 1), (0, 1)]
    assert search.best_of(4) == 63.0
    assert "1, 2" in render(searches_tables([search]), "terminal")


def compared(runs: Path) -> Comparison:
    for method, trial in (("ce", 0), ("ce", 1), ("kd", 0), ("kd", 2)):
        write_compared(runs, method, trial, top1=70.0 + trial)
    (comparison,) = split(read_records(runs))
    return comparison


def test_rows_of_a_method_stand_together_and_notes_name_their_search(tmp_path: Path) -> None:
    scores = {0: (60.0, 60.0, 60.0), 1: (64.0, 61.0, 62.0)}
    write_search(tmp_path, used_on=["cell:other"])
    write_search(tmp_path, scores, method="ce", teacher=None)
    write_compared(tmp_path, "kd", 0, teacher_id="cell:other")
    write_compared(tmp_path, "kd", 2, teacher_id="cell:other")
    comparison = compared(tmp_path)
    assert [row.label for row in comparison.rows] == [
        "ce", "ce (tuned per pair)", "kd", "kd (tuned on resnet20>resnet8)", "kd (tuned per pair)",
    ]  # fmt: skip
    assert comparison.student_only
    assert comparison.student_only.label == "ce"
    notes = search_notes(comparison, comparison.pairs)
    line = "5 trials (1 failed) x 2 epochs, 0.0556 CPU-hours; chosen temperature=3.0, optimism +0.00"
    assert f"kd (tuned on resnet20>resnet8): {line}" in notes
    assert f"kd (tuned per pair): {line}" in notes
    assert any(note.startswith("ce (tuned per pair): 2 trials x 2 epochs") for note in notes)
    assert any("kdbench compare --baseline" in note for note in notes)
    board = leaderboard_table(leaderboard(comparison))
    tables = [paper(comparison), detail(comparison, comparison.pairs[0]), board]
    assert all({*search_notes(comparison, comparison.pairs[:1])} & {*table.notes} for table in tables)
    assert [row[1].text.partition(" (tuned")[0] for row in board.rows] in (
        ["ce"] * 2 + ["kd"] * 3,
        ["kd"] * 3 + ["ce"] * 2,
    )
    assert [row[1].text for row in board.rows if row[1].text.startswith("kd")] == [
        "kd", "kd (tuned on resnet20>resnet8)", "kd (tuned per pair)",
    ]  # fmt: skip
    other = next(pair for pair in comparison.pairs if pair.teacher_id == "cell:other")
    assert not any(note.startswith("kd (tuned per pair)") for note in search_notes(comparison, [other]))


def test_a_search_that_keeps_other_settings_is_not_that_of_a_row(tmp_path: Path) -> None:
    """Two searches of one method, as of ``dot`` over two bases: each has its trials and its rows."""
    folder = write_search(tmp_path)
    other = json.loads((folder / "study.json").read_text()) | {"id": "4567abcd" * 8, "fixed": {"base": "dkd"}}
    for path in folder.iterdir():
        copy = folder.with_name("kd-resnet8-study1-4567abcd") / path.name
        copy.parent.mkdir(exist_ok=True)
        values = json.loads(path.read_text()) | {"ranking": []}
        copy.write_text(json.dumps(other if path.name == "study.json" else values))
    comparison = compared(tmp_path)
    plain, based = sorted(comparison.searches, key=lambda each: each.label)
    assert (plain.label, based.label) == ("kd", "kd base=dkd")
    assert (len(plain.frame) > 0, len(based.frame)) == (True, 0)
    (note,) = [each for each in search_notes(comparison, comparison.pairs) if each.startswith("kd (tuned per pair)")]
    assert "for each of" not in note


def test_the_best_is_marked_apart_among_rows_of_each_tuning(tmp_path: Path) -> None:
    scores = {0: (60.0, 60.0, 60.0), 1: (64.0, 61.0, 62.0)}
    write_search(tmp_path)
    write_search(tmp_path, scores, method="ce", teacher=None)
    table = paper(compared(tmp_path), marks="all")
    marks = {row[1].text: row[2].mark for row in table.rows}
    assert marks == {
        "Teacher": "", "Student": "", "ce (tuned per pair)": "second", "kd": "best", "kd (tuned per pair)": "best",
    }  # fmt: skip


def test_without_a_search_there_is_no_note(tmp_path: Path) -> None:
    comparison = compared(tmp_path)
    assert search_notes(comparison, comparison.pairs) == []
    assert not any("apart" in note for note in paper(comparison).notes)


def test_tuned_rows_are_not_compared_with_published_values() -> None:
    """Values are published at published settings."""
    (comparison,) = split(Records(as_frame(fake_grid(["resnet56>resnet20"], {"kd": 1.0}, 3)), [], []))
    published = load_published("cifar100")
    rows = {row: replace(row, tuning="tuned per pair" if row.method == "kd" else "") for row in comparison.rows}
    results = {(rows[row], pair): result for (row, pair), result in comparison.results.items()}
    tuned = replace(comparison, rows=tuple(rows.values()), results=results)
    assert {claim.row.method for claim in claims(comparison, published) if not claim.why} == {"ce", "kd"}
    reasons = {claim.why for claim in claims(tuned, published) if claim.row.method == "kd"}
    assert reasons == {"a search chose our settings: tuned per pair"}
    tables = [with_published(paper(each), each, published, beside=True) for each in (comparison, tuned)]
    assert ["[" in str(table.rows[-1]) for table in tables] == [True, False]
