"""Slots: cells of a search that are known once the trials before them have ended."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import final

from kdbench.experiment.cell import Cell
from kdbench.search.choices import Choices
from kdbench.search.study import Study

FINAL = "final"
"""Name of the last stage: what was chosen is trained on all images, with the seeds that are compared."""


@final
@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place for one of the trials that a step takes, or for a run of the settings that were chosen."""

    study: Study
    stage: str
    """``rung-2``, ``best`` or ``final``."""
    rank: int
    """Which of the trials that were taken, from 0."""
    seed: int
    target: Cell | None = None
    """Of a final run: the default cell of its pair."""

    @property
    def key(self) -> str:
        """A text that is this slot's alone."""
        target = f" {self.target.id[:16]}" if self.target else ""
        return f"{self.study.id[:16]} {self.study.num_trials} {self.stage} {self.rank} seed {self.seed}{target}"

    def __str__(self) -> str:
        study = self.study
        what = "the chosen settings" if self.stage == FINAL else f"{self.stage}, number {self.rank + 1}"
        cell = self.target or study.default
        return f"{cell.method} {study.pair} study {study.number}: {what}, seed {self.seed}"

    def cell(self, choices: Choices) -> Cell | None:
        """Return the cell, or None as long as it is not known."""
        taken = choices.taken(self.study, "chosen" if self.stage == FINAL else self.stage)
        return None if taken is None else self._cell(taken[self.rank])

    @cached_property
    def stand_in(self) -> Cell:
        """The cell that this would be if trials were ranked by their numbers: as costly, and with the same images."""
        return self._cell(list(self.study.trials)[self.rank])

    def _cell(self, trial: int) -> Cell:
        if self.target:
            return self.study.final(trial, self.target)
        rung = int(self.stage.removeprefix("rung-")) - 1 if self.stage.startswith("rung-") else -1
        return self.study.trial(trial, rung % len(self.study.rungs), self.seed)


def stage_place(stage: str) -> tuple[int, str]:
    """Return the place of a stage in the order in which they run: trials, further rungs, the best, the final runs."""
    return ["trials", "rung", "best", FINAL].index(stage.partition("-")[0]), stage


def first_cells(study: Study) -> list[Cell]:
    """Return the cells of a study that are known from the beginning: all trials in the first rung."""
    return [study.trial(number, 0, study.seeds[0]) for number in study.trials]


def slots_of(study: Study) -> list[Slot]:
    """Return the slots of a study before its final runs, in the order of their stages."""
    *rungs, best, chosen = study.steps
    slots = [
        Slot(study=study, stage=step.name, rank=rank, seed=study.seeds[0])
        for step in rungs
        for rank in range(step.number)
    ]
    seeds = study.seeds[1 : chosen.num_seeds]
    return slots + [
        Slot(study=study, stage=best.name, rank=rank, seed=seed) for seed in seeds for rank in range(best.number)
    ]


def final_slots(study: Study, targets: Iterable[Cell]) -> list[Slot]:
    """Return the slots of the runs of what a study chose, for the default cells of pairs and seeds."""
    return [Slot(study=study, stage=FINAL, rank=0, seed=target.seed, target=target) for target in targets]
