"""Tables of searches: what each study cost, what fewer trials would have found, and what was chosen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from kdbench.analysis.comparison import ComparedPair, Comparison, Row, settings_text
from kdbench.analysis.searched import tuned_on, tuned_per_pair
from kdbench.analysis.searches import FAILED_SCORE, Search, Trial
from kdbench.analysis.tables.entries import fixed
from kdbench.analysis.tables.table import MISSING, Entry, Table, words
from kdbench.utils.text import counted, quoted

_HELD_OUT = "top-1 on the held-out training images, in %"
_FEW = 4
"""Largest number of pairs whose chosen settings are in a note."""


def searches_tables(searches: Sequence[Search]) -> list[Table]:
    """Make a table of each protocol and data set with a row for each study."""
    return [_studies_table(title, group) for title, group in _by_protocol(searches)]


def trials_tables(searches: Sequence[Search]) -> list[Table]:
    """Make a table of each protocol and data set with a row for each trial, the best of each study first."""
    return [_trials_table(title, group) for title, group in _by_protocol(searches)]


def search_notes(comparison: Comparison, pairs: Sequence[ComparedPair]) -> list[str]:
    """Return notes on the search behind each tuned row on some pairs: its cost, what it chose, and how."""
    by_row = {row: searches for row in comparison.rows if (searches := _searches_of(comparison, row, pairs))}
    if not by_row:
        return []
    searches = list({id(each): each for several in by_row.values() for each in several}.values())
    notes = [_row_note(row, several) for row, several in by_row.items()]
    tuned = [row.label for row in by_row if row.family == "none"]
    if tuned and comparison.student_only:
        compare = quoted("kdbench", "compare", "--baseline", tuned[0])
        notes.append(f"{comparison.student_only.label} has its default settings; {compare} takes the tuned ones")
    closing = _multiples_note(searches), held_out_note(searches), _rule_note(searches), hours_note(searches)
    return [*notes, *filter(None, closing)]


def _searches_of(comparison: Comparison, row: Row, pairs: Sequence[ComparedPair]) -> list[Search]:
    """Return the searches that chose the settings of a row on some pairs."""
    if not row.tuning or not any(comparison.result(row, pair) for pair in pairs):
        return []
    networks = [(pair.teacher_id, pair.student) for pair in pairs]
    return [
        each
        for each in comparison.searches
        if each.chosen and (each.study.method, each.study.method_version) == (row.method, row.version)
        if each.study.fixed == row.changed
        if row.tuning == tuned_on(each.study)
        or (row.tuning == tuned_per_pair(each.study) and any(each.is_for(*names) for names in networks))
    ]


def _row_note(row: Row, searches: Sequence[Search]) -> str:
    trials = ", ".join(dict.fromkeys(map(_budget, searches)))
    places = f" for each of {len(searches)} pairs" if len(searches) > 1 else ""
    hours = f"{hours_text(sum(each.hours for each in searches))} {processor_hours(searches)}"
    if len(searches) > _FEW:
        values = [optimism for each in searches if (optimism := each.study.optimism) is not None]
        mean = fixed(sum(values) / len(values), sign=True) if values else MISSING
        chosen = f"mean optimism {mean}; 'kdbench search' prints what was chosen"
    else:
        chosen = "; ".join(
            f"chosen {f'for {each.study.pair} ' if len(searches) > 1 else ''}{chosen_text(each)}, optimism "
            f"{optimism_text(each)}"
            for each in searches
        )
    return f"{row.label}: {trials}{places}, {hours}; {chosen}"


def _budget(search: Search) -> str:
    first, *further = search.study.rungs
    failed = f" ({len(search.failed):,} failed)" if search.failed else ""
    again = "".join(f", the better half again with {epochs}" for epochs in further)
    return f"{counted(search.num_trials, 'trial')}{failed} x {counted(first, 'epoch')}{again}"


def _by_protocol(searches: Sequence[Search]) -> Iterable[tuple[str, list[Search]]]:
    groups: dict[tuple[str, str], list[Search]] = {}
    for each in searches:
        groups.setdefault((each.study.protocol["name"], each.study.protocol["dataset"]), []).append(each)
    names = [name for name, _ in groups]
    for (name, dataset), group in groups.items():
        yield f"{name}, with dataset={dataset}" if names.count(name) > 1 else name, group


def _studies_table(title: str, searches: Sequence[Search]) -> Table:
    most = max(len(each.study.first_scores) for each in searches)
    numbers = list(itertools.takewhile(lambda number: number <= most, (2**power for power in range(64))))
    heads = ("method", "pair", "study", "trials", "epochs", processor_hours(searches))
    best = [f"best of {number} %" for number in numbers]
    return Table(
        f"{title}: searches of settings",
        ((*heads, *best, "chosen settings", "chosen %", "optimism"),),
        tuple(
            (
                *words(each.method, each.study.pair, str(each.study.study), trials_text(each)),
                *words(rungs_text(each), hours_text(each.hours)),
                *(Entry(fixed(each.best_of(number)) or MISSING) for number in numbers),
                *words(chosen_text(each), fixed(each.chosen.mean) if each.chosen else MISSING, optimism_text(each)),
            )
            for each in searches
        ),
        tuple(filter(None, _studies_notes(searches))),
        num_labels=2,
    )


def _studies_notes(searches: Sequence[Search]) -> list[str]:
    rungs = any(len(each.study.rungs) > 1 for each in searches)
    failed = any(None in each.study.first_scores.values() for each in searches)
    return [
        f"best of n: {_HELD_OUT}, expected of the best of n trials, the mean over all choices of n of them"
        + ("; after the epochs of the first rung" if rungs else "")
        + (f"; a failed trial counts as {FAILED_SCORE:g} %" if failed else ""),
        f"chosen %: {_HELD_OUT}, mean over the seeds with which the best trials were run; optimism: by how many points "
        "the chosen trial was better with the seed that it was found with than with the further ones",
        _multiples_note(searches),
        _rule_note(searches),
        held_out_note(searches),
        hours_note(searches),
    ]


def _rule_note(searches: Sequence[Search]) -> str:
    return f"the rule: {'; or: '.join(dict.fromkeys(each.study.rule for each in searches))}"


def _multiples_note(searches: Sequence[Search]) -> str:
    names = dict.fromkeys(name for each in searches for name in each.study.rules)
    return f"{', '.join(names)}: what that of the protocol is multiplied with" if names else ""


def _trials_table(title: str, searches: Sequence[Search]) -> Table:
    rows = []
    for each in searches:
        for place, trial in enumerate(each.trials()):
            labels = f"{each.label} {each.study.pair}" if place == 0 else "", str(trial.number)
            first = trial.scores[0] if trial.scores else None
            mean = trial.mean if len(trial.scores) > 1 else math.nan
            scores = fixed(math.nan if first is None else first) or MISSING, fixed(mean) or MISSING
            rank = str(trial.rank) if trial.rank else MISSING
            rows.append(
                words(*labels, trial_text(trial), rank, str(trial.epochs or MISSING), *scores, _outcome(each, trial))
            )
    return Table(
        f"{title}: trials",
        (("search", "trial", "settings", "rank", "epochs", "held-out %", "mean of seeds %", "outcome"),),
        tuple(rows),
        (
            f"held-out %: {_HELD_OUT}, with the first seed in the last rung that the trial ran; mean of seeds %: with "
            "the further ones, of the best trials",
            "settings: what the trial sets; trial 0 is the default",
            *filter(None, [_multiples_note(searches), _rule_note(searches), held_out_note(searches)]),
        ),
        num_labels=3,
        grouped=True,
    )


def _outcome(search: Search, trial: Trial) -> str:
    if trial.failure:
        return trial.failure if trial.failure.startswith("failed") else f"failed: {trial.failure}"
    if search.chosen and search.chosen.number == trial.number:
        return "chosen"
    return "" if trial.scores else "not finished"


def trial_text(trial: Trial) -> str:
    """Write what a trial changes as ``name=value`` words."""
    return settings_text(trial.changes) or "default"


def chosen_text(search: Search) -> str:
    """Write the settings that a search chose."""
    return trial_text(search.chosen) if search.chosen else "none yet"


def optimism_text(search: Search) -> str:
    """Write the optimism of a selection in points, with its sign."""
    optimism = search.study.optimism
    return MISSING if optimism is None else fixed(optimism, sign=True)


def trials_text(search: Search) -> str:
    """Write the number of trials of a search, and how many have ended or failed."""
    ended = "" if search.study.first_scores else f"{search.num_ended:,} of "
    return f"{ended}{search.num_trials:,}" + (f", {len(search.failed):,} failed" if search.failed else "")


def rungs_text(search: Search) -> str:
    """Write the epochs of a search, rung by rung."""
    return ", ".join(map(str, search.study.rungs))


def hours_text(hours: float) -> str:
    """Write hours with three significant digits."""
    return f"{hours:.3g}" if hours < 1000 else f"{hours:,.0f}"


def processor_hours(searches: Sequence[Search]) -> str:
    """Return the unit of hours: GPU-hours where all trials were trained on GPUs."""
    on_gpu = {value for each in searches for value in each.frame["on_gpu"].unique()}
    return "hours" if len(on_gpu) != 1 else "GPU-hours" if on_gpu == {True} else "CPU-hours"


def hours_note(searches: Sequence[Search]) -> str:
    """Return a note on what the hours of searches are."""
    devices = sorted({device for each in searches for device in each.frame["device"].unique()})
    lost = "; the hours of failed trials are not known" if any(each.failed for each in searches) else ""
    return f"hours: of training on {', '.join(devices)}, further seeds among them{lost}" if devices else ""


def held_out_note(searches: Sequence[Search]) -> str:
    """Return a note on the images by which settings were chosen, and the teachers that have seen them."""
    shares = sorted({each.study.protocol.get("validation") or 0 for each in searches})
    seen = {
        teacher
        for each in searches
        if each.study.teacher
        for teacher in each.frame.loc[
            each.frame["teacher_validation"] != each.study.protocol.get("validation"), "teacher"
        ].unique()
    }
    names = f"teachers {', '.join(sorted(seen))} were" if len(seen) > 1 else f"teacher {', '.join(seen)} was"
    teachers = f"; the {names} trained on them as well" if seen else ""
    percent = " or ".join(f"{100 * share:g}" for share in shares)
    return f"settings were chosen on {percent} % of the training images of each class, held out{teachers}"
