"""Plot the embeddings of a pair's networks side by side (t-SNE of penultimate features)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kdbench.analysis.comparison import ComparedPair
from kdbench.analysis.plots.drawing import CLASS_COLOURS, INK, Look, Plot, look_of, narrow_label
from kdbench.analysis.plots.embeddings import NUM_CLASSES, PER_CLASS, Embedding
from kdbench.analysis.plots.figures import SMALL, legend_below, panels


def tsne_plot(pair: ComparedPair, embeddings: Mapping[str, Embedding], name: str) -> Plot | None:
    """Plot the embeddings of networks, by their labels; None without any."""
    if not embeddings:
        return None
    classes = sorted({int(each) for embedding in embeddings.values() for each in np.unique(embedding.labels)})
    colours = (*CLASS_COLOURS, INK)
    style = {
        each: Look(colours[number % len(colours)], look_of(number).marker, "") for number, each in enumerate(classes)
    }
    figure, axes = panels(len(embeddings), 3, 1.0, extra=0.5, square=True, share=False)
    for panel, (text, embedding) in zip(axes, embeddings.items(), strict=True):
        for each in np.unique(embedding.labels).tolist():
            x, y = embedding.points[embedding.labels == each].T
            look = style[each]
            panel.scatter(x, y, s=9, marker=look.marker, color=look.colour, alpha=0.75, linewidths=0)
        panel.set(xticks=(), yticks=())
        panel.grid(visible=False)
        panel.spines[["top", "right"]].set_visible(True)
        panel.set_title(narrow_label(text), fontsize=SMALL)
    legend_below(figure, {f"class {each}": look for each, look in style.items()})
    num_classes = max(embedding.num_classes for embedding in embeddings.values())
    of = f" of {num_classes}" if num_classes > NUM_CLASSES else ""
    description = (
        f"t-SNE of the penultimate features of up to {PER_CLASS} test images of each of {len(classes)}{of} classes, of "
        f"{', '.join(embeddings)}. Only which points are close means something: axes have no unit, and sizes of groups "
        "and distances between them are not those of the features."
    )
    return Plot(name, f"t-SNE of penultimate features, {pair.name}", description, figure)
