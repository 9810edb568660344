"""Make the studies of a grid: one for each method, pair and repetition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdbench.experiment.cell import Cell
from kdbench.search.choices import stored_points
from kdbench.search.files import STUDY
from kdbench.search.points import points
from kdbench.search.study import SHARE, Point, Study
from kdbench.space import Searched


def make_study(
    number: int,
    default: Cell,
    *,
    fixed: Mapping[str, Any],
    space: Mapping[str, Searched],
    rules: Mapping[str, Searched],
    rungs: tuple[int, ...],
    share: float,
    trials: int,
    runs: Path,
) -> Study:
    """Make a study, with the points that its file has where there is one.

    Parameters
    ----------
    share
        Share of the training images that the protocol holds out; trials hold out a tenth where it holds out none.

    Raises
    ------
    UserError
        A setting cannot have a value of the space.
    """
    study = Study(
        number=number,
        default=replace(default, protocol=default.protocol.override(epochs=rungs[-1], validation=share or SHARE)),
        fixed=dict(fixed),
        space={name: searched for name, searched in space.items() if name not in fixed},
        rules=dict(rules),
        points=(),
        rungs=rungs,
    )
    made = stored_points(study.folder(runs) / STUDY)[: trials - 1]
    if len(made) < trials - 1:
        axes = study.space | {f"protocol.{name}": searched for name, searched in rules.items()}
        drawn = points(axes, number, trials - 1)[len(made) :]
        made += [
            Point({name: each[name] for name in study.space}, {name: each[f"protocol.{name}"] for name in rules})
            for each in drawn
        ]
    study = replace(study, points=tuple(made))
    _ = study.trials  # a value that the method cannot have is reported here
    return study
