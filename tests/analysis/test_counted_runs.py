"""Which runs a number rests on, and that tables say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_records import fake_record, write_records
from test_comparison import DIGITS, split
from test_layouts import column
from test_records import begin

from kdbench.analysis import splitting
from kdbench.analysis.comparison import Comparison
from kdbench.analysis.plots.curves import Curve, Curves
from kdbench.analysis.plots.lines import curves_plot
from kdbench.analysis.plots.standings import differences_plot
from kdbench.analysis.records import read_records
from kdbench.analysis.tables.differences import against, pooled_table
from kdbench.analysis.tables.layouts import detail, paper
from kdbench.analysis.tables.leaderboard import leaderboard, leaderboard_table

TEACHER_RUN = fake_record("ce", 0, 67.4, teacher=None, student="resnet14")
ALONE = [fake_record("ce", seed, top1, teacher=None, student="resnet14") for seed, top1 in ((1, 74.4), (2, 68.8))]
TAUGHT_BY_IT = [fake_record("kd", seed, 40.0 + seed, teacher="resnet14", teacher_id=f"cell:{TEACHER_RUN['cell']}")
                for seed in (1, 2)]  # fmt: skip


def students(seeds: tuple[int, ...] = (1, 2), **changes: Any) -> list[dict[str, Any]]:
    return [fake_record("kd", seed, 50.0 + seed, student="resnet14", **changes) for seed in seeds]


def student_only(comparison: Comparison, student: str = "resnet14") -> dict[int, float]:
    (pair, *_) = [pair for pair in comparison.pairs if pair.student == student]
    assert comparison.student_only
    return comparison.results[comparison.student_only, pair].values()


def test_a_run_that_made_a_teacher_is_no_run_of_the_student() -> None:
    (comparison,) = split(TEACHER_RUN, *ALONE, *TAUGHT_BY_IT, *students())
    assert student_only(comparison) == {1: 74.4, 2: 68.8}
    table = paper(comparison)
    assert column(table, "resnet20 resnet14")["Student"].text == "71.60 ± 3.96"
    (versus,) = against(comparison, comparison.find("ce"))
    assert versus.mean == pytest.approx((51.0 + 52.0) / 2 - 71.6)
    assert column(leaderboard_table(leaderboard(comparison)), "top-1 %")["ce"].text == "71.60"
    note = "the own run of the teacher resnet14 (seed 0) is not a run of the student resnet14"
    assert note in table.notes
    for pair in comparison.pairs:
        assert (note in detail(comparison, pair).notes) == (pair.student == "resnet14")


def test_a_network_that_teaches_itself_is_two_roles() -> None:
    teacher = fake_record("ce", 0, 90.0, teacher=None)
    own = {"teacher": "resnet8", "teacher_id": f"cell:{teacher['cell']}"}
    baseline = [fake_record("ce", seed, 70.0 + seed, teacher=None) for seed in (1, 2, 3)]
    (comparison,) = split(teacher, *baseline, *(fake_record("kd", seed, 75.0, **own) for seed in (1, 2, 3)))
    assert student_only(comparison, "resnet8") == {1: 71.0, 2: 72.0, 3: 73.0}


def test_a_run_with_the_seed_of_other_runs_of_its_network_counts() -> None:
    """It was trained as a student, too, by 'train --seed 0'."""
    (comparison,) = split(TEACHER_RUN, *ALONE, *TAUGHT_BY_IT, *students((0, 1, 2)))
    assert student_only(comparison) == {0: 67.4, 1: 74.4, 2: 68.8}
    assert not any("own run" in note for note in paper(comparison).notes)
    other_settings = fake_record("ce", 0, 71.0, teacher=None, student="resnet14", chosen={"label_smoothing": 0.1})
    (comparison,) = split(TEACHER_RUN, *ALONE, *TAUGHT_BY_IT, *students(), other_settings)
    assert student_only(comparison) == {0: 67.4, 1: 74.4, 2: 68.8}


def test_seeds_and_teachers_of_unfinished_cells_count(tmp_path: Path) -> None:
    write_records(tmp_path / "seed", [TEACHER_RUN, *ALONE, *TAUGHT_BY_IT, *students()])
    begin(tmp_path / "seed" / "begun", 0, student="resnet14")
    (comparison,) = splitting.split(read_records(tmp_path / "seed"))
    assert student_only(comparison) == {0: 67.4, 1: 74.4, 2: 68.8}
    write_records(tmp_path / "teacher", [TEACHER_RUN, *ALONE, *students()])
    begin(tmp_path / "teacher" / "begun", 1, teacher="resnet14", teacher_id=f"cell:{TEACHER_RUN['cell']}")
    (comparison,) = splitting.split(read_records(tmp_path / "teacher"))
    assert student_only(comparison) == {1: 74.4, 2: 68.8}


def test_other_rules_do_not_make_a_teacher_a_student() -> None:
    short = DIGITS.override(epochs=3)
    (comparison, other) = split(TEACHER_RUN, *ALONE, *TAUGHT_BY_IT, *students(), *students((0,), protocol=short))
    assert student_only(comparison) == {1: 74.4, 2: 68.8}
    assert other.student_only is None


def test_the_students_runs_and_those_of_a_difference_are_noted() -> None:
    alone = fake_record("ce", 1, 70.0, teacher=None)
    (comparison,) = split(alone, *(fake_record("kd", seed, 71.0 + seed) for seed in (1, 2, 3)))
    entries = column(paper(comparison), "resnet20 resnet8")
    assert (entries["Student"].text, entries["Student"].notes) == ("70.00", ("n = 1; no record of seeds 2, 3",))
    assert entries["kd"].text == "73.00 ± 1.00 ↑2.00"
    assert entries["kd"].notes == ("difference: n = 1, seed 1 only",)
    assert entries["kd"].numbers["difference n"] == "1"
    (pair,) = comparison.pairs
    table = detail(comparison, pair)
    assert column(table, "gain")["kd"].text == "+2.00"
    assert column(table, "gain")["kd"].notes == ("gain: n = 1, seed 1 only",)
    assert column(table, "top-1 %")["ce"].notes == ("no record of seeds 2, 3",)


def test_a_students_runs_beyond_those_of_the_methods_are_noted() -> None:
    alone = [fake_record("ce", seed, 70.0 + seed, teacher=None) for seed in (1, 2, 3, 4)]
    (comparison,) = split(*alone, *(fake_record("kd", seed, 75.0) for seed in (1, 2)))
    entries = column(paper(comparison), "resnet20 resnet8")
    assert entries["Student"].notes == ("n = 4",)
    assert entries["kd"].notes == ()
    assert column(paper(comparison, comparison.find("kd")), "resnet20 resnet8")["Student"].notes == ("n = 4",)


def test_a_baseline_without_a_common_seed_gives_no_difference() -> None:
    (comparison,) = split(fake_record("ce", 1, 70.0, teacher=None), fake_record("kd", 2, 71.0))
    entries = column(paper(comparison), "resnet20 resnet8")
    assert entries["Student"].notes == ("no record of seed 2",)
    assert (entries["kd"].text, entries["kd"].notes) == ("71.00", ("no difference: no seed in common",))


def test_a_leaderboards_gain_over_fewer_runs_than_its_accuracy_is_noted() -> None:
    (comparison,) = split(ALONE[0], *students((1, 2, 3)), fake_record("dkd", 1, 60.0, student="resnet14"))
    gains = column(leaderboard_table(leaderboard(comparison)), "gain [95 %]")
    assert gains["kd"].notes[-1] == "gain: n = 1 of 3 runs"
    assert not any("gain" in note for note in gains["dkd"].notes)


def test_pooled_differences_have_the_number_of_runs() -> None:
    (comparison,) = split(*ALONE, *students((1, 2, 3)), *TAUGHT_BY_IT, fake_record("ce", 1, 30.0, teacher=None))
    base = comparison.find("ce")
    (versus,) = against(comparison, base)
    table = pooled_table(comparison, base, [versus])
    assert [column(table, name)["kd"].text for name in ("pairs", "n")] == ["2", "3"]
    assert column(table, "mean difference [95 %]")["kd"].numbers["n"] == "3"
    assert column(table, "P(better) %")["kd"].notes == ("all runs, not only those of common seeds: 5 against 3",)
    figure = differences_plot(comparison, base, [versus], "name")
    assert figure
    assert "(n = 3)" in figure.description


@pytest.mark.parametrize(("curves", "names"), [((3, 3), ["ce", "kd"]), ((2, 3), ["ce (n = 2)", "kd (n = 3)"])])
def test_curves_over_other_numbers_of_runs_say_so(curves: tuple[int, int], names: list[str]) -> None:
    records = [*(fake_record("ce", seed, 70.0, teacher=None) for seed in range(3))]
    records += [fake_record("kd", seed, 75.0) for seed in range(3)]
    (comparison,) = split(*records)
    curve = Curve((1, 2), (60.0, 70.0), (1.0, 0.5))
    by_folder = {}
    for row, number in zip(comparison.rows, curves, strict=True):
        frame = comparison.results[row, comparison.pairs[0]].frame
        frame["folder"] = [f"{row.label} {seed}" for seed in frame.index]
        by_folder |= dict.fromkeys(frame["folder"][:number], curve)
    plot = curves_plot(comparison, comparison.pairs[0], Curves(by_folder, 6, 0, ()), "top1", "name")
    assert plot
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert f"ce 70.00 (n = {curves[0]})" in plot.description


def test_many_seeds_are_listed_in_part() -> None:
    alone = [fake_record("ce", seed, 70.0, teacher=None) for seed in range(12)]
    (comparison,) = split(*alone, *(fake_record("kd", seed, 75.0) for seed in range(20)))
    (note,) = column(paper(comparison), "resnet20 resnet8")["kd"].notes
    assert note == "difference: n = 12, seeds 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more only"
