"""The pictures of a comparison by name: what each is drawn from, and why one cannot be drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd

from kdbench.analysis.comparison import ComparedPair, Comparison
from kdbench.analysis.plots.answers import PairAnswers, read_answers
from kdbench.analysis.plots.budgets import best_of_n_plot
from kdbench.analysis.plots.curves import Curves, read_curves
from kdbench.analysis.plots.drawing import Plot
from kdbench.analysis.plots.embeddings import EMBEDDING, Embedding, read_embedding
from kdbench.analysis.plots.file_names import distinct_names
from kdbench.analysis.plots.lines import QUANTITIES, curves_plot, losses_plot
from kdbench.analysis.plots.planes import tsne_plot
from kdbench.analysis.plots.predicted import classes_plot, correlation_plot, reliability_plot
from kdbench.analysis.plots.standings import cost_plot, differences_plot, ranks_plot
from kdbench.analysis.tables.leaderboard import Leaderboard, leaderboard
from kdbench.experiment.folder import METRICS, PREDICTIONS
from kdbench.experiment.pairs import TeacherSpec
from kdbench.utils.names import safe_name
from kdbench.utils.text import counted

OnProgress = Callable[[str, float], None]
"""Called with the current work and the fraction that is done."""


@dataclass
class Material:
    """What the pictures of a comparison are drawn from; files are read when a picture first needs them."""

    comparison: Comparison
    folders: Mapping[str, str]
    """Folder of each finished cell of the runs, by its id."""
    _kept: dict[ComparedPair, PairAnswers] = field(default_factory=dict)
    """What was read; of many classes that of the last pair alone: those of all pairs would fill the memory."""

    @classmethod
    def of(cls, comparison: Comparison, frame: pd.DataFrame) -> Material:
        """Take the folders of teachers from all records of the runs."""
        return cls(comparison, dict(zip(frame["cell"], frame["folder"], strict=True)))

    @cached_property
    def board(self) -> Leaderboard:
        """The leaderboard."""
        return leaderboard(self.comparison)

    @cached_property
    def curves(self) -> Curves:
        """The curves over epochs."""
        return read_curves(self.comparison)

    def answers(self, pair: ComparedPair) -> PairAnswers:
        """Return what the networks of a pair predict."""
        if pair not in self._kept:
            answers = read_answers(self.comparison, pair, self.teacher_folder(pair))
            if not answers.of_few_classes:
                self._kept.clear()
            self._kept[pair] = answers
        return self._kept[pair]

    def teacher_folder(self, pair: ComparedPair) -> Path | None:
        """Return the folder of the cell that trained a pair's teacher, or else the teacher's own beside the cells."""
        if pair.id_hash in self.folders:
            return Path(self.folders[pair.id_hash])
        for (_, other), result in self.comparison.results.items():
            if other == pair and pair.teacher and len(result.frame):
                protocol = Path(result.frame["folder"].iloc[0]).absolute().parent.parent.parent
                folder = (
                    protocol / "teachers" / f"{safe_name(TeacherSpec.parse(pair.teacher).network)}-{pair.id_hash[:8]}"
                )
                return folder if folder.is_dir() else None
        return None

    def networks(self, pair: ComparedPair) -> dict[str, tuple[Path, str]]:
        """Return folder and hash of weights of a pair's teacher and each method's first seed, by their labels."""
        networks = {}
        teacher = self.teacher_folder(pair)
        if teacher:
            networks[f"teacher {pair.teacher_label}"] = (teacher, pair.teacher_weights)
        for row in self.comparison.rows:
            result = self.comparison.result(row, pair)
            if result is not None and len(result.frame):
                first = result.frame.iloc[0]
                networks[row.label] = (Path(first["folder"]), first["weights"])
        return networks

    def embeddings(self, pair: ComparedPair) -> dict[str, Embedding]:
        """Return the embeddings of a pair's networks that there are, by their labels."""
        read = {label: read_embedding(*network) for label, network in self.networks(pair).items()}
        return {label: embedding for label, embedding in read.items() if embedding}


@dataclass(frozen=True, slots=True)
class Picture:
    """One kind of picture."""

    title: str
    note: str
    """What a reader of the report should know."""
    draw: Callable[[Material, ComparedPair, str], Plot | str]
    """Draw it for a pair under a file's name, or say why not in a sentence."""


def draw_single(name: str, material: Material, base: str) -> Plot | str:
    """Draw a picture of all pairs; a text gives the reason for a missing one.

    Parameters
    ----------
    base
        Beginning of the file's name, that of the comparison.
    """
    return SINGLE[name](material, f"{base}-{name}")


def draw_pairs(
    names: Sequence[str], material: Material, base: str, on_progress: OnProgress = lambda *_: None
) -> Iterator[tuple[str, Plot | str]]:
    """Draw pictures of each pair, and yield each with its name; a text gives the reason for a missing one."""
    pairs = material.comparison.pairs
    pair_names = distinct_names([pair.typed for pair in pairs])
    for number, (pair, pair_name) in enumerate(zip(pairs, pair_names, strict=True)):
        for step, name in enumerate(names):
            on_progress(f"drawing {name} of {pair.name}", (number + step / len(names)) / len(pairs))
            yield name, OF_PAIRS[name].draw(material, pair, f"{base}-{name}-{pair_name}")


def _differences(material: Material, name: str) -> Plot | str:
    baseline = material.comparison.student_only
    results = [standing.versus for standing in material.board.standings if standing.versus]
    plot = differences_plot(material.comparison, baseline, results, name) if baseline else None
    return plot or (
        "No differences to the student-only baseline: on no pair do a method and the baseline share a seed."
    )


def _cost(material: Material, name: str) -> Plot | str:
    return cost_plot(material.board, name) or (
        "No plot of accuracy against cost: fewer than two methods have a record in every pair."
    )


def _ranks(material: Material, name: str) -> Plot | str:
    return ranks_plot(material.board, name) or (
        "No critical-difference diagram: it needs three methods or more with records in all pairs, and two pairs. "
        f"Here are {counted(len(material.board.ranked), 'method')} and "
        f"{counted(len(material.comparison.pairs), 'pair')}."
    )


def _curve(quantity: str) -> Callable[[Material, ComparedPair, str], Plot | str]:
    def draw(material: Material, pair: ComparedPair, name: str) -> Plot | str:
        return curves_plot(material.comparison, pair, material.curves, quantity, name) or _no_metrics(pair)

    return draw


def _losses(material: Material, pair: ComparedPair, name: str) -> Plot | str:
    return losses_plot(material.comparison, pair, material.curves, name) or _no_metrics(pair)


def _no_metrics(pair: ComparedPair) -> str:
    return f"No curves of {pair.name}: none of its cells has a readable {METRICS} in its folder."


def _classes(material: Material, pair: ComparedPair, name: str) -> Plot | str:
    answers, baseline = material.answers(pair), material.comparison.student_only
    plot = classes_plot(material.comparison, pair, answers, name)
    if plot:
        return plot
    rows = [row for row in answers.by_row if row != baseline]
    if baseline is None and rows:
        remedy = f"train {pair.student_label} by itself"
        return f"No gains by class on {pair.name}: there is no student-only baseline; {remedy}."
    if baseline and rows and baseline in answers.by_row:
        return f"No gains by class on {pair.name}: no method and {baseline.label} share a seed."
    return _no_predictions("gains by class", pair, answers)


def _reliability(material: Material, pair: ComparedPair, name: str) -> Plot | str:
    answers = material.answers(pair)
    return reliability_plot(pair, answers, name) or _no_predictions("reliability diagram", pair, answers)


def _correlation(material: Material, pair: ComparedPair, name: str) -> Plot | str:
    answers = material.answers(pair)
    plot = correlation_plot(pair, answers, name)
    if plot:
        return plot
    if answers.by_row:
        return f"No correlations of logits on {pair.name}: {answers.no_teacher or 'the teacher saw other images'}."
    return _no_predictions("correlations of logits", pair, answers)


def _no_predictions(what: str, pair: ComparedPair, answers: PairAnswers) -> str:
    """Name the first file that is missing or damaged, and what makes it."""
    reasons = [f"{path} is missing" for path in answers.missing[:1]] or list(answers.problems[:1])
    reason = reasons[0] if reasons else "no method has a finished cell"
    return (
        f"No {what} on {pair.name}: {reason}. 'kdbench train' and 'kdbench grid run' write {PREDICTIONS} unless they "
        "are told --no-predictions."
    )


def _tsne(material: Material, pair: ComparedPair, name: str) -> Plot | str:
    plot = tsne_plot(pair, material.embeddings(pair), name)
    if plot:
        return plot
    missing = next((folder / EMBEDDING for folder, _ in material.networks(pair).values()), None)
    reason = f"{missing} is missing" if missing else "no method has a finished cell"
    return f"No t-SNE of {pair.name}: {reason}. 'kdbench plot tsne RUNS' makes it."


def _best_of_n(material: Material, pair: ComparedPair, name: str) -> Plot | str:
    return best_of_n_plot(material.comparison, pair, name) or (
        f"No best of n trials on {pair.name}: no search there has ranked its trials. [search] in a grid file makes one."
    )


SINGLE: Mapping[str, Callable[[Material, str], Plot | str]] = {
    "differences": _differences,
    "cost": _cost,
    "ranks": _ranks,
}
"""Pictures of all pairs of a comparison."""
OF_PAIRS: Mapping[str, Picture] = {
    "top1": Picture(
        QUANTITIES["top1"][1],
        "Mean over seeds on the test set, in the epochs that all seeds of a method have. The band spans the lowest to "
        "the highest seed.",
        _curve("top1"),
    ),
    "loss": Picture(
        QUANTITIES["loss"][1],
        "Mean over seeds of the total training loss. The band spans the lowest to the highest seed. Methods minimise "
        "different losses: compare shapes, not heights.",
        _curve("loss"),
    ),
    "losses": Picture(
        "Loss terms by epoch",
        "Each weighted term as it enters the sum that a method minimises: mean over seeds, with a band from the lowest "
        "to the highest seed.",
        _losses,
    ),
    "classes": Picture(
        "Gains by class",
        "Accuracy on the test images of each class less that of the student-only baseline, mean over the seeds of "
        "both.",
        _classes,
    ),
    "reliability": Picture(
        "Reliability",
        "Accuracy by confidence, the images of all seeds pooled; a calibrated network is on the diagonal. Pale bins "
        "have less than 1 % of the images. ECE is the mean over seeds.",
        _reliability,
    ),
    "correlation": Picture(
        "Correlations of logits beside the teacher's",
        "Absolute differences between the correlation matrices of logits of student and teacher on the test set, mean "
        "over seeds (Tian et al., ICLR 2020); paler is closer to the teacher.",
        _correlation,
    ),
    "tsne": Picture(
        "t-SNE of penultimate features",
        "Test images of the first seed's networks; only which points are close means something.",
        _tsne,
    ),
    "best-of-n": Picture(
        "Expected best of n trials",
        "What searches with fewer trials would have found on the held-out images: the mean over all choices of n "
        "trials. Where two curves cross, the better method depends on the budget.",
        _best_of_n,
    ),
}
"""Pictures of each pair."""
