"""Plot what students predict: gains by class, calibration, and how their logits correlate, beside the teacher's.

Legend: ``K`` classes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdbench.analysis.comparison import ComparedPair, Comparison, Row
from kdbench.analysis.plots.answers import NUM_BINS, Answers, PairAnswers
from kdbench.analysis.plots.drawing import COLOURS, INK, Plot, label, narrow_label
from kdbench.analysis.plots.figures import SMALL, panels
from kdbench.analysis.tables.entries import fixed

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GAIN, LOSS = COLOURS[0], COLOURS[1]
_IN_ORDER = 25
"""Largest number of classes that are shown in their order; more are sorted by their gains."""
_RARE = 0.01
"""Share of images below which a bin is pale."""
_MAX_CELLS = 200
"""Largest number of rows of a heat map; of more classes, neighbours are averaged."""


def classes_plot(comparison: Comparison, pair: ComparedPair, answers: PairAnswers, name: str) -> Plot | None:
    """Plot the gain in accuracy over the student-only baseline of each class, mean over common seeds."""
    baseline = comparison.student_only
    if baseline is None:
        return None
    gains = {
        row: gains_of_row
        for row in answers.by_row
        if row != baseline and (gains_of_row := class_gains(answers, row, baseline))
    }
    if not gains:
        return None
    num_classes = len(next(iter(gains.values()))[0])
    in_order = num_classes <= _IN_ORDER
    figure, axes = panels(len(gains), 1, 1.0, extra=0.55)
    entries = []
    for panel, (row, (gain, num_seeds)) in zip(axes, gains.items(), strict=True):
        order = np.arange(num_classes) if in_order else np.argsort(-np.nan_to_num(gain, nan=-np.inf), kind="stable")
        values = np.nan_to_num(gain[order])
        if in_order:
            panel.bar(range(num_classes), values, 0.8, color=[GAIN if value > 0 else LOSS for value in values])
        else:
            edges = np.arange(num_classes + 1) - 0.5
            panel.stairs(values.clip(0), edges, fill=True, color=GAIN, linewidth=0)
            panel.stairs(values.clip(None, 0), edges, fill=True, color=LOSS, linewidth=0)
        panel.axhline(0, color=INK, linewidth=0.7)
        panel.grid(visible=False, axis="x")
        better, worse = int((gain > 0).sum()), int((gain < 0).sum())
        mean = fixed(float(np.nanmean(gain)), sign=True)
        summary = f"mean {mean}, better in {better} of {num_classes} classes, worse in {worse}"
        panel.set_title(f"{label(row.label)}: {summary}", fontsize=SMALL)
        best, worst = int(np.nanargmax(gain)), int(np.nanargmin(gain))
        entries.append(
            f"{row.label} {mean} (n = {num_seeds}), most in class {best} ({fixed(float(gain[best]), sign=True)}), "
            f"least in class {worst} ({fixed(float(gain[worst]), sign=True)})"
        )
    _share_y(axes)
    if in_order:
        axes[-1].set_xticks(range(num_classes))
    axes[-1].set_xlim(-0.5, num_classes - 0.5)
    figure.supxlabel("class" if in_order else f"{num_classes} classes, in each panel sorted by gain", fontsize=11)
    figure.supylabel(f"gain over {label(baseline.label)}, percentage points", fontsize=11)
    title = f"Gains over {baseline.label} by class, {pair.name}"
    description = (
        f"Accuracy on the test images of each class less that of {baseline.label}, percentage points, mean over the n "
        f"seeds of both: {'; '.join(entries)}."
    )
    return Plot(name, title, description, figure)


def class_gains(answers: PairAnswers, row: Row, baseline: Row) -> tuple[NDArray[np.float64], int] | None:
    """Return the gain in accuracy of each class ``(K,)``, mean over common seeds, and their number; None without any.

    A class without test images is nan.
    """
    ours, theirs = answers.by_row[row], answers.by_row.get(baseline, {})
    seeds = [seed for seed in ours if seed in theirs and ours[seed].test_set == theirs[seed].test_set]
    if not seeds:
        return None
    return np.mean([ours[seed].class_accuracy - theirs[seed].class_accuracy for seed in seeds], axis=0), len(seeds)


def reliability_plot(pair: ComparedPair, answers: PairAnswers, name: str) -> Plot | None:
    """Plot accuracy against confidence in the bins of the expected calibration error, the images of all seeds pooled.

    The number in the title of each panel is the mean over seeds of the error, as records have it.
    """
    networks: dict[str, list[Answers]] = {row.label: list(by_seed.values()) for row, by_seed in answers.by_row.items()}
    if not networks:
        return None
    if answers.teacher:
        networks = {f"teacher {pair.teacher_label}": [answers.teacher], **networks}
    figure, axes = panels(len(networks), 3, 1.0, extra=0.65, square=True)
    entries = []
    for panel, (text, seeds) in zip(axes, networks.items(), strict=True):
        error = float(np.mean([calibration_error(each) for each in seeds]))
        _draw_bins(panel, seeds)
        panel.set_title(f"{narrow_label(text)}\nECE {fixed(error)} %", fontsize=SMALL)
        entries.append(f"{text} {fixed(error)} % (n = {len(seeds)})")
    axes[0].set(xlim=(0, 1), ylim=(0, 1), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
    figure.supxlabel("confidence (largest probability)", fontsize=11)
    figure.supylabel("accuracy on the test set", fontsize=11)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=min(3, len(networks)), fontsize=SMALL)
    title = f"Reliability, {pair.name}"
    description = (
        f"Accuracy by confidence in {NUM_BINS} bins; a calibrated network is on the diagonal. Bins with under "
        f"{100 * _RARE:g} % of the images are pale. Expected calibration error, mean over n seeds: "
        f"{'; '.join(entries)}."
    )
    return Plot(name, title, description, figure)


def calibration_error(answers: Answers) -> float:
    """Return the expected calibration error in percent: of the predictions in each bin, |correct - confidence|."""
    return 100 * float(np.abs(answers.correct - answers.confidences).sum() / answers.counts.sum())


def correlation_plot(pair: ComparedPair, answers: PairAnswers, name: str) -> Plot | None:
    """Plot how far the correlations between the logits of classes are from the teacher's (Tian et al., ICLR 2020)."""
    if not answers.differences:
        return None
    means = {row: _mean_off_diagonal(matrix) for row, matrix in answers.differences.items()}
    matrices = {row: _reduced(matrix) for row, matrix in answers.differences.items()}
    # Single cells far above all others would make all others pale.
    highest = float(np.nanquantile(np.concatenate([*map(np.ravel, matrices.values())]), 0.995)) or 1.0
    figure, axes = panels(len(matrices), 3, 1.0, extra=0.75, square=True)
    num_classes = len(next(iter(answers.differences.values())))
    image = None
    for panel, (row, matrix) in zip(axes, matrices.items(), strict=True):
        image = panel.imshow(
            matrix, cmap="Blues", vmin=0, vmax=highest, interpolation="none",
            extent=(-0.5, num_classes - 0.5, num_classes - 0.5, -0.5), aspect="auto",
        )  # fmt: skip
        panel.grid(visible=False)
        panel.set_title(f"{narrow_label(row.label)}\nmean {fixed(means[row], 3)}", fontsize=SMALL)
        panel.spines[["top", "right"]].set_visible(True)
        panel.set_xlabel("class", fontsize=SMALL)
        panel.set_ylabel("class", fontsize=SMALL)
        panel.label_outer(remove_inner_ticks=False)
    ticks = sorted({0, num_classes // 2, num_classes - 1})
    axes[0].set(xticks=ticks, yticks=ticks)
    assert image
    bar = figure.colorbar(image, ax=axes, location="bottom", aspect=40, shrink=0.7, pad=0.03, extend="max")
    bar.set_label("difference of correlations, teacher and student (absolute)", size=SMALL)
    bar.ax.tick_params(labelsize=SMALL)
    bar.outline.set_visible(False)
    title = f"Correlations of logits beside the teacher's, {pair.name}"
    entries = "; ".join(
        f"{row.label} {fixed(means[row], 3)} (n = {len(answers.by_row[row])})" for row in answers.differences
    )
    reduced = "" if num_classes <= _MAX_CELLS else " Neighbouring classes are averaged."
    description = (
        "Absolute differences between the correlations, over the test set, of the logits of each two classes in "
        f"student and teacher {pair.teacher_label}, mean over n seeds; paler is closer to the teacher. Mean over "
        f"pairs of different classes: {entries}.{reduced}"
    )
    return Plot(name, title, description, figure)


def _draw_bins(axes: Axes, seeds: Iterable[Answers]) -> None:
    """Draw the pooled bins: accuracies as bars, what the confidence differs from them as hatched bars, the diagonal."""
    counts, confidences, correct = (
        np.sum([getattr(each, key) for each in seeds], axis=0) for key in ("counts", "confidences", "correct")
    )
    filled = counts > 0
    centres = ((np.arange(NUM_BINS) + 0.5) / NUM_BINS)[filled]
    accuracy, confidence = correct[filled] / counts[filled], confidences[filled] / counts[filled]
    common = counts[filled] >= _RARE * counts.sum()
    for shown, alpha, text in ((common, 1.0, "accuracy"), (~common, 0.3, None)):
        axes.bar(
            centres[shown], accuracy[shown], 1 / NUM_BINS, color=COLOURS[5], edgecolor=INK, linewidth=0.4, alpha=alpha,
            label=text, zorder=2,
        )  # fmt: skip
        axes.bar(
            centres[shown], (confidence - accuracy)[shown], 0.6 / NUM_BINS, accuracy[shown], color="none",
            hatch="//////", edgecolor=COLOURS[1], linewidth=0.6, alpha=alpha,
            label="gap to the mean confidence" if text else None, zorder=3,
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, linestyle=(0, (3, 2)), label="calibrated", zorder=4)


def _share_y(axes: Iterable[Axes]) -> None:
    """Give all panels the same range of values."""
    limits = np.array([panel.get_ylim() for panel in axes])
    for panel in axes:
        panel.set_ylim(limits[:, 0].min(), limits[:, 1].max())


def _mean_off_diagonal(matrix: NDArray[np.float32]) -> float:
    """Return the mean over pairs of different classes; nan without any that is known."""
    different = matrix[~np.eye(len(matrix), dtype=bool)]
    different = different[~np.isnan(different)]
    return float(different.mean(dtype=np.float64)) if len(different) else float("nan")


def _reduced(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """Average square blocks of a matrix that is too large to be seen entry by entry."""
    size = -(-len(matrix) // _MAX_CELLS)
    if size == 1:
        return matrix
    starts = np.arange(0, len(matrix), size)
    sums = np.add.reduceat(np.add.reduceat(np.nan_to_num(matrix), starts, axis=0), starts, axis=1)
    known = (~np.isnan(matrix)).astype(np.float32)
    numbers = np.add.reduceat(np.add.reduceat(known, starts, axis=0), starts, axis=1)
    return np.divide(sums, np.maximum(numbers, 1), dtype=np.float32)
