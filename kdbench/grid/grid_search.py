"""The search of a grid: its studies, the cells that are known of it, and the slots of those that are not yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import final

from kdbench.engine.session import Session
from kdbench.experiment.cell import Cell
from kdbench.experiment.pairs import Pair
from kdbench.grid.file import GridFile, error_context
from kdbench.search.choices import Choices, write_study
from kdbench.search.files import CHOSEN
from kdbench.search.making import make_study
from kdbench.search.slots import FINAL, Slot, final_slots, first_cells, slots_of, stage_place
from kdbench.search.study import Study


@final
class GridSearch:
    """The studies of a grid, and what follows from them."""

    def __init__(self, studies: Sequence[Study], slots: Sequence[Slot], runs: Path) -> None:
        self.studies = studies
        self.cells = tuple(cell for study in studies for cell in first_cells(study))
        self.waiting = list({slot.key: slot for slot in slots}.values())
        """Slots whose cell is not known yet, in the order of their stages."""
        self.known: dict[str, Cell] = {}
        """Cells of the other slots, by the slot's key."""
        self._slots = {slot.key: slot for slot in slots}
        self._runs = runs

    @classmethod
    def of(cls, file: GridFile, session: Session, by_row: Mapping[tuple[Pair, str], Sequence[Cell]]) -> GridSearch:
        """Make the studies of a grid's file.

        Parameters
        ----------
        by_row
            The cells of each pair and method without a search.

        Raises
        ------
        UserError
            A setting cannot have a value of its space.
        """
        search, runs = file.search, session.runs
        if search is None:
            return cls([], [], runs)
        studies: dict[str, Study] = {}
        of_row: dict[tuple[Pair, str], list[Study]] = {}
        for pair in search.on:
            for method in file.methods:
                for number in range(1, search.studies + 1):
                    with error_context(file.path, f"[search.space.{method}]", {}):
                        default, settings = _as_the_grid(by_row[pair, method])[0], file.settings.get(method, {})
                        study = make_study(
                            number,
                            default,
                            # What changes no result stands in no record.
                            fixed={key: each[0] for key, each in settings.items() if key in default.settings.chosen},
                            space=search.spaces[method],
                            rules=search.rules,
                            rungs=search.rungs,
                            share=session.protocol.rules.evaluation.validation,
                            trials=search.trials,
                            runs=runs,
                        )
                    # Pairs of one student share the study of a method without a teacher.
                    study = studies.setdefault(study.id, study)
                    of_row.setdefault((pair, method), []).append(study)
        slots = [slot for study in studies.values() for slot in slots_of(study)]
        for (pair, method), targets in by_row.items():
            for tuned_on in dict.fromkeys((search.on[0], pair)):
                for study in of_row.get((tuned_on, method), ()):
                    slots += final_slots(study, _as_the_grid(targets))
        return cls(list(studies.values()), slots, runs)

    def refresh(self) -> list[Cell]:
        """Look which of the waiting cells are known by now, and return them."""
        choices = Choices(self._runs, writes=False)
        cells = {slot.key: cell for slot in self.waiting if (cell := slot.cell(choices))}
        self.known |= cells
        self.waiting = [slot for slot in self.waiting if slot.key not in cells]
        return list(cells.values())

    @property
    def trial_ids(self) -> set[str]:
        """Ids of the trials that are known: what they fail with stops nothing, they rank last."""
        later = (cell.id for key, cell in self.known.items() if self._slots[key].stage != FINAL)
        return {*(cell.id for cell in self.cells), *later}

    def stages(self) -> dict[str, tuple[list[Cell], int]]:
        """Return the cells of each stage that are known, and the number of those that are not, in their order."""
        stages: dict[str, tuple[list[Cell], int]] = {}
        if self.cells:
            stages["trials"] = list(self.cells), 0
        for key, slot in self._slots.items():
            cells, waiting = stages.setdefault(slot.stage, ([], 0))
            known = [self.known[key]] if key in self.known else []
            stages[slot.stage] = [*cells, *known], waiting + (not known)
        return {name: stages[name] for name in sorted(stages, key=stage_place)}

    def write(self) -> None:
        """Write the studies' files, and the choices that can be made by now."""
        choices = Choices(self._runs, writes=True)
        for study in self.studies:
            targets = [slot.target for slot in self._slots.values() if slot.study is study and slot.target]
            write_study(study, targets, self._runs)
            choices.taken(study, CHOSEN)


def _as_the_grid(row: Sequence[Cell]) -> list[Cell]:
    """Return the cells of a row that have the epochs of the grid, if some have."""
    return [cell for cell in row if not cell.names_epochs] or list(row)
