"""Lay out a comparison as a table: all metrics of one pair, or methods x pairs as in papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import pandas as pd

from kdbench.analysis.comparison import ComparedPair, Comparison, EpochRule, Result, Row
from kdbench.analysis.stats.paired import t_interval
from kdbench.analysis.tables.entries import LEVEL, accuracy, difference, fixed, gain, with_difference
from kdbench.analysis.tables.notes import compute_notes, provenance, teacher_notes, top1_note
from kdbench.analysis.tables.table import MISSING, Entry, Mark, Table, words

Marks = Literal["clear", "all", "none"]
"""When best and second best are marked: if the interval to the next best excludes zero, always, or never."""
_RULES: dict[Marks, str] = {
    "clear": f"bold: best; underlined: second best; only methods with all records, and only if the {LEVEL} % interval "
    "of the paired difference to the next best excludes zero",
    "all": "bold: best; underlined: second best; only methods with all records; the difference to the next best need "
    "not be significant",
    "none": "",
}


def detail(
    comparison: Comparison, pair: ComparedPair, epoch_rule: EpochRule = "last", baseline: Row | None = None
) -> Table:
    """Make a table of all metrics of one pair: the baseline, then one row per method, the best method last.

    Parameters
    ----------
    baseline
        Row that gains refer to; by default the student-only baseline.
    """
    base = baseline or comparison.student_only
    base_result = comparison.result(base, pair) if base else None
    reference = base_result.values(epoch_rule) if base_result else {}
    results = [(row, result) for row in comparison.rows if (result := comparison.result(row, pair))]
    results.sort(key=lambda item: (item[0] != base, pd.Series(item[1].values(epoch_rule), dtype=float).mean()))
    rows = []
    for row, result in results:
        frame = result.frame
        gains = difference(result.values(epoch_rule), reference) if row != base else {}
        rows.append(
            (
                Entry(row.label),
                _with_notes(accuracy(result.values(epoch_rule), epoch_rule), result, comparison.seeds(pair)),
                Entry(str(len(frame))),
                gain(gains),
                *(_mean(frame[name], digits) for name, digits in _METRICS.items()),
                Entry(str(row.views)),
                _forwards_per_image(frame),
                _mean(frame["train_seconds"] / frame["epochs"], 2),
            )
        )
    heads = ("method", "top-1 %", "n", "gain", "NLL", "ECE %", "agree %", "KL", "views", "teacher", "s/epoch")
    return Table(
        f"{comparison.title}: {_pair_title(pair)}",
        (heads,),
        tuple(rows),
        (
            f"{top1_note(comparison, epoch_rule)}; mean ± standard deviation (ddof 1) over n seeds",
            *([f"gain: over {base.label}, paired by seed, with its {LEVEL} % t interval"] if base else []),
            "agree: predictions equal to the teacher's; KL: KL(teacher || student), in nats",
            "views: views per image and step; teacher: teacher forward passes per image and epoch, 0 with a cache",
            *compute_notes(comparison),
        ),
    )


_METRICS = {"nll": 3, "ece": 2, "agreement": 2, "teacher_kl": 3}


def paper(
    comparison: Comparison,
    baseline: Row | None = None,
    marks: Marks = "clear",
    epoch_rule: EpochRule = "last",
) -> Table:
    """Make a table of methods x pairs, with the teachers and students on top and methods grouped by family.

    Parameters
    ----------
    baseline
        Row that differences refer to; by default the student-only baseline.
    marks
        When best and second best are marked.
    """
    baseline = baseline or comparison.student_only
    rows = [row for row in comparison.rows if row != comparison.student_only]
    complete = {row for row in rows if comparison.complete(row)}
    sizes = [len(result.frame) for row in rows or comparison.rows for result in comparison.results_of(row)]
    counts = Counter(filter(None, sizes))
    usual = counts.most_common(1)[0][0] if counts else 0
    columns = []
    for pair in comparison.pairs:
        results = {row: comparison.result(row, pair) for row in rows}
        values = {row: result.values(epoch_rule) if result else {} for row, result in results.items()}
        reference = comparison.result(baseline, pair) if baseline else None
        row_marks = best_two({row: values[row] for row in rows if row in complete}, marks)
        columns.append(
            [
                _cell(
                    values[row],
                    reference.values(epoch_rule) if reference and row != baseline else {},
                    row_marks.get(row, ""),
                    _missing_notes(results[row], comparison.seeds(pair), usual),
                    epoch_rule,
                )
                for row in rows
            ]
        )
    lines = [_network_line("Teacher", [_teacher_entry(pair) for pair in comparison.pairs])]
    keys: list[Row | None] = [None]
    if comparison.student_only:
        students = [comparison.result(comparison.student_only, pair) for pair in comparison.pairs]
        entries = [accuracy(result.values(epoch_rule) if result else {}, epoch_rule) for result in students]
        lines.append(_network_line("Student", entries, str(comparison.student_only.views)))
        keys.append(comparison.student_only)
    families = [row.family for row in rows]
    for number, row in enumerate(rows):
        first = number == 0 or families[number - 1] != row.family
        labels = words(row.family if first else "", row.label)
        lines.append((*labels, *(column[number] for column in columns), *words(str(row.views))))
    heads = (
        ("", "teacher", *(pair.teacher or MISSING for pair in comparison.pairs), ""),
        ("", "student", *(pair.student for pair in comparison.pairs), "views"),
    )
    return Table(
        comparison.title,
        heads,
        tuple(lines),
        tuple(filter(None, _paper_notes(comparison, baseline, marks, epoch_rule, usual))),
        num_labels=2,
        grouped=True,
        keys=(*keys, *rows),
    )


def best_two(values: Mapping[Row, Mapping[int, float]], marks: Marks) -> dict[Row, Mark]:
    """Mark the best and the second best row of a column, as far as the rule allows it."""
    means = {row: sum(by_seed.values()) / len(by_seed) for row, by_seed in values.items() if by_seed}
    order = sorted(means, key=lambda row: -means[row])
    row_marks: dict[Row, Mark] = {}
    names: tuple[Mark, ...] = ("best", "second")
    for place, mark in enumerate(names):
        if marks == "none" or len(order) <= place:
            break
        if marks == "clear" and not _is_clear([values[row] for row in order[place : place + 2]]):
            break
        row_marks[order[place]] = mark
    return row_marks


def _is_clear(values: Sequence[Mapping[int, float]]) -> bool:
    """Return whether the interval of the difference of two rows lies above zero."""
    gaps = list(difference(*values).values()) if len(values) == 2 else []
    interval = t_interval(gaps, LEVEL / 100) if gaps else None
    return interval is not None and interval.sd > 0 and interval.low > 0


def _cell(
    values: Mapping[int, float],
    reference: Mapping[int, float],
    mark: Mark,
    notes: tuple[str, ...],
    epoch_rule: EpochRule,
) -> Entry:
    entry = replace(accuracy(values, epoch_rule), mark=mark, notes=notes)
    gaps = difference(values, reference)
    return with_difference(entry, sum(gaps.values()) / len(gaps)) if gaps else entry


def _missing_notes(result: Result | None, seeds: set[int], usual: int) -> tuple[str, ...]:
    """Explain why an entry has fewer seeds than it should."""
    if result is None:
        return ("not run",)
    failures = Counter(f"failed ({cell.failure})" if cell.failure else "not finished" for cell in result.unfinished)
    notes = [f"{number} {'seed' if number == 1 else 'seeds'} {failure}" for failure, number in failures.items()]
    missing = seeds - set(result.frame.index) - {cell.config["seed"] for cell in result.unfinished}
    if missing:
        notes.append(f"no record of {'seed' if len(missing) == 1 else 'seeds'} {', '.join(map(str, sorted(missing)))}")
    number = len(result.frame)
    if number and number != usual:
        notes.insert(0, f"n = {number}")
    return ("; ".join(notes),) if notes else ()


def _with_notes(entry: Entry, result: Result, seeds: set[int]) -> Entry:
    return replace(entry, notes=_missing_notes(result, seeds, len(result.frame)))


def _pair_title(pair: ComparedPair) -> str:
    if not pair.teacher:
        return pair.name
    return f"{pair.teacher} ({fixed(pair.teacher_accuracy) or '?'} %, {pair.short_id}) > {pair.student}"


def _network_line(label: str, entries: Sequence[Entry], views: str = "") -> tuple[Entry, ...]:
    """Make a line of the accuracies of networks that were trained without a teacher."""
    return (*words("", label), *entries, *words(views))


def _teacher_entry(pair: ComparedPair) -> Entry:
    text = fixed(pair.teacher_accuracy)
    return Entry(text, {"top-1 %": text}) if text else Entry(MISSING)


def _mean(values: pd.Series[float], digits: int) -> Entry:
    return Entry(fixed(values.mean(), digits) or MISSING)


def _forwards_per_image(frame: pd.DataFrame) -> Entry:
    """Make an entry of the teacher's forward passes per image and epoch."""
    if frame.empty or not frame["teacher"].iloc[0]:
        return Entry(MISSING)
    passes = (frame["teacher_forwards"] / frame["student_views"] * frame["views"]).mean()
    return Entry(fixed(passes, 0 if float(passes).is_integer() else 1))


def _paper_notes(
    comparison: Comparison, baseline: Row | None, marks: Marks, epoch_rule: EpochRule, usual: int
) -> list[str]:
    return [
        f"{top1_note(comparison, epoch_rule)}; mean ± standard deviation (ddof 1), n = {usual} seeds unless noted",
        f"↑ ↓: difference to {baseline.label} in percentage points, paired by seed" if baseline else "",
        _RULES[marks],
        *teacher_notes(comparison),
        *compute_notes(comparison),
        *provenance(comparison),
    ]
