"""Train the first epochs of cells again from nothing."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from kdbench.engine.devices import device_of, share_machine
from kdbench.engine.divergence import Diverged
from kdbench.engine.environment import environment
from kdbench.engine.progress import Progress
from kdbench.engine.session import Session
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, METRICS, PRETRAINING
from kdbench.models.starts import read_start
from kdbench.teachers.cards import folder_of, list_teachers
from kdbench.utils.device import prepare_process
from kdbench.utils.reading import read_toml
from kdbench.verify.cells import cell_of
from kdbench.verify.conditions import conditions, disagreements, recorded
from kdbench.verify.data import DataSets, NotOpened
from kdbench.verify.findings import Finding
from kdbench.verify.first_epochs import Trained, compare, rows_in
from kdbench.verify.measuring import OnProgress
from kdbench.verify.stored import StoredCell


@final
@dataclass(frozen=True, slots=True)
class Training:
    """Trains first epochs in a folder that is thrown away.

    Parameters
    ----------
    places
        Folders of runs in which teachers, their caches and weights to start from are looked for.
    device
        What the user names; None for a GPU if there is one.
    epochs
        How many of the first ones, those of pre-training among them.
    """

    places: tuple[Path, ...]
    datasets: DataSets
    device: str | None
    epochs: int
    on_progress: OnProgress

    def prepare(self, record: Mapping[str, Any]) -> tuple[Cell, Path]:
        """Return the cell of a record, and the folder of runs that has what it begins from.

        Raises
        ------
        UserError
            It cannot be trained again here.
        """
        cell = cell_of(record)
        self.datasets.places(cell.protocol)
        for place in self.places[:-1]:
            with contextlib.suppress(UserError):
                _check_beginnings(cell, place)
                return cell, place
        _check_beginnings(cell, self.places[-1])
        return cell, self.places[-1]

    def finding(self, stored: StoredCell) -> Finding:
        """Train a cell's first epochs, and compare them."""
        try:
            cell, place = self.prepare(stored.record)
            trained = self._train(cell, place, stored.record)
        except NotOpened:
            raise
        except Diverged as error:
            return Finding(str(stored.folder), "first epochs", "differs", str(error))
        except UserError as error:
            return Finding(str(stored.folder), "first epochs", "not checked", str(error))
        return Finding(str(stored.folder), "first epochs", *compare(stored, trained))

    def _train(self, cell: Cell, place: Path, record: Mapping[str, Any]) -> Trained:
        compiled = self._compiles(record)
        devices, device = self._devices(record, compiling=compiled)
        size = tuple(record["input"]["size"]) if "input" in record else None
        dataset, data = self.datasets.open(cell.protocol, size, record["data_fingerprint"])
        epochs = min(self.epochs, len(cell.epochs))

        def observe(progress: Progress) -> None:
            self.on_progress(str(cell), min(1.0, progress.fraction * len(cell.epochs) / epochs))

        threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory(prefix="kdbench-verify-") as text:
            runs = Path(text)
            _link(place, runs, cell.protocol.name)
            session = Session(
                protocol=cell.protocol,
                runs=runs,
                data=data,
                device=device,
                compile=compiled,
                given=dataset,
                workers=share_machine(devices, None, self.datasets.workers),
                report=self.datasets.report,
                devices=devices,
                predictions=False,
                max_epochs=epochs,
            )
            cached = record["cost"].get("teacher_outputs") == "cache"
            try:
                outcome = session.run(cell, observe, cache="ready" if cached else "off")
                now = environment(device)
            except Interrupted as error:
                raise Interrupted("stopped: nothing is kept of what was trained again", error.signum) from None
            finally:
                torch.set_num_threads(threads)
            folder = cell.folder(runs)
            outputs = read_toml(folder / CONFIG).get("teacher_outputs")
            here = conditions(now, devices=devices, compiled=compiled, outputs=outputs)
            return Trained(
                outcome.get("first_losses") or [],
                {name: rows_in(folder / name) for name in (PRETRAINING, METRICS)},
                outcome.get("weights"),
                list(disagreements(recorded(record), here)),
            )

    def _compiles(self, record: Mapping[str, Any]) -> bool:
        """Return whether to compile, as the cell was, where it ran on a device of the same type."""
        name = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        same = record["environment"].get("device_type") == name.partition(":")[0]
        return same and bool(record["cost"].get("compiled"))

    def _devices(self, record: Mapping[str, Any], *, compiling: bool) -> tuple[int, torch.device]:
        """Return as many devices as have computed the cell, and the first of them; one where there are fewer."""
        numbers = record["cost"].get("devices", [1])
        if len(numbers) == 1 and numbers[0] > 1:
            with contextlib.suppress(UserError):
                return numbers[0], prepare_process(device_of(self.device, numbers[0], None, compiling=compiling))
        return 1, prepare_process(device_of(self.device, 1, None, compiling=compiling))


def _check_beginnings(cell: Cell, runs: Path) -> None:
    """Raise UserError unless a folder of runs has the teachers of a cell and the weights that it starts from."""
    ids = {card.id for card in list_teachers(runs, cell.protocol.name)}
    for member in cell.teacher.members if cell.teacher else ():
        if member.id not in ids:
            raise UserError(
                f"no teacher {member.spec} in {folder_of(runs, cell.protocol.name)}: name a folder of runs that has it "
                "with --weights"
            )
    if cell.init:
        read_start(runs, cell.student, cell.init)


def _link(runs: Path, scratch: Path, protocol: str) -> None:
    """Let a new folder of runs have the teachers, caches and weights to start from of another one."""
    for name in (f"{protocol}/teachers", "teacher-cache", "init"):
        if (runs / name).is_dir():
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            (scratch / name).symlink_to((runs / name).absolute(), target_is_directory=True)
