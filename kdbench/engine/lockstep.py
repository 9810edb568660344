"""The one training loop: cells of one protocol and seed in lockstep over the same batches.

The loop owns data, teacher, saving and failure; a `Run` owns one cell; a method owns its loss. What cells have in
common (the augmented images of a plan, the teacher's outputs for them) is made once a step. Each cell's numbers are
those that it has alone: it gets the same tensors, and its random streams are its own.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, final

import tomli_w
import torch
from torch import Tensor

from kdbench.data.batches import Batches, DeviceData
from kdbench.engine.graphs import StepGraphs
from kdbench.engine.progress import Diverged, Observer
from kdbench.engine.run import Options, Run
from kdbench.errors import Interrupted, UserError
from kdbench.experiment.cell import Cell
from kdbench.experiment.folder import CONFIG, FAILURE, STATE, read_record
from kdbench.method import ViewPlan
from kdbench.net import Outputs, Part
from kdbench.teachers.outputs import Reader, TeacherSource
from kdbench.utils.device import Span
from kdbench.utils.files import write_atomic, write_json
from kdbench.utils.leases import MAX_CRASHES, Busy, Killed, Lease, Leases, Superseded
from kdbench.utils.signals import Stop

_DRAIN_EVERY = 50
"""Steps between two looks at the losses; each look waits for the device."""
_OBSERVE_EVERY = 0.5
"""Seconds between two reports to the observers."""

Outcome = dict[str, Any] | Exception
"""A cell's record, or why there is none."""
Observers = Callable[[Cell], Observer]
Group = tuple[TeacherSource | None, ViewPlan]
"""Runs of one group have the same images and the same teacher outputs."""
Inputs = tuple[dict[ViewPlan, Tensor], dict[Group, tuple[dict[Part, Tensor], Span]]]
"""What a step needs: view ids of each plan, and teacher outputs as far as they were looked up, with the time."""


def quietly(_: Cell) -> Observer:
    """Observe nothing."""
    return lambda _: None


def train_cells(
    cells: Sequence[Cell],
    data: Callable[[], DeviceData],
    source: Callable[[Cell], TeacherSource | None],
    options: Options,
    observers: Observers = quietly,
) -> list[Outcome]:
    """Run cells of one protocol and seed to their end, from their saved states where there are some.

    Data and teachers are loaded only if a cell is not done. A cell that fails does not stop the others: the error is
    its outcome. A ``UserError`` is the user's to mend, any other exception a mistake in a method or in kdbench.

    Raises
    ------
    Interrupted
        A signal came; the states are saved.
    """
    devices = [options.device] if options.device.type == "cuda" else []
    outcomes = Outcomes(cells)
    with Leases(options.scheduler) as leases, Stop() as stop, torch.random.fork_rng(devices):
        held: list[tuple[Cell, Lease]] = []
        for cell in cells:  # all at once, before anything is loaded: another process takes what comes next
            folder = cell.folder(options.runs)
            with outcomes.of(cell):
                record = read_record(folder, cell)
                if record is None:
                    lease = leases.hold(folder, mark=_mark(folder))
                    record = read_record(folder, cell)
                if record is None:
                    held.append((cell, lease))
                else:
                    outcomes.set(cell, record)
        batches: Batches | None = None
        runs: list[Run] = []
        for cell, lease in held:
            folder = cell.folder(options.runs)
            with outcomes.of(cell, folder, lease.check):
                (folder / FAILURE).unlink(missing_ok=True)
                if lease.crashes >= MAX_CRASHES:
                    raise Killed(
                        f"{cell} failed: {lease.crashes} processes in a row died before they could save "
                        "anything of it. Was it out of memory? Type the same command to try again"
                    )
                batches = batches or Batches(data(), cell.protocol, cell.seed)
                run = Run(cell, batches, source(cell), options, lease.check)
                write_config(folder, run)
                run.resume()
                runs.append(run)
        if batches and runs:
            Lockstep(runs, batches, outcomes, options).train(stop, observers)
    return outcomes.list()


def _mark(folder: Path) -> int:
    """A number that changes whenever a cell's state is saved."""
    state = folder / STATE
    return state.stat().st_mtime_ns if state.exists() else 0


def write_config(folder: Path, run: Run) -> None:
    """Write what a cell is, and where its teacher's outputs come from."""
    settings = run.cell.settings
    config = run.cell.identity() | {"id": run.cell.id, "source": settings.source, "chosen": settings.chosen}
    if run.source:
        config["teacher_outputs"] = run.source.kind
    write_atomic(folder / CONFIG, tomli_w.dumps(config))


@final
class Outcomes:
    """What became of each cell."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._cells = cells
        self._found: dict[str, Outcome] = {}

    def set(self, cell: Cell, outcome: Outcome) -> None:
        """Note a cell's record or error."""
        self._found[cell.id] = outcome

    def has(self, cell: Cell) -> bool:
        """Whether a cell has ended."""
        return cell.id in self._found

    def list(self) -> list[Outcome]:
        """Outcomes in the order of the cells."""
        return [self._found[cell.id] for cell in self._cells]

    @contextlib.contextmanager
    def of(self, cell: Cell, folder: Path | None = None, permit: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Turn what goes wrong inside into the cell's outcome; the reason is left in the cell's folder, if it is given.

        Parameters
        ----------
        permit
            Raises if this process may not write any more.
        """
        failure: dict[str, Any] = {}
        try:
            yield
            return
        except UserError as error:
            self.set(cell, error)
            if isinstance(error, Busy | Superseded):
                return
            failure = {"reason": error.reason, "text": str(error)}
            if isinstance(error, Diverged):
                failure |= error.failure
        except torch.OutOfMemoryError as error:
            text = str(error).splitlines()[0]
            self.set(cell, UserError(f"{cell} failed: out of memory ({text}); its last state is kept in {folder}"))
            failure = {"reason": "out of memory", "text": text}
        except Exception as error:
            self.set(cell, error)
            text = f"{type(error).__name__}: {error}"
            failure = {"reason": "error", "text": text, "traceback": traceback.format_exc()}
        if folder:
            with contextlib.suppress(UserError):  # a full disk must not hide the reason
                write_json(folder / FAILURE, failure, permit=permit)


@final
class Lockstep:
    """Runs that take each step together. Those that are ahead wait until the others have caught up."""

    def __init__(self, runs: list[Run], batches: Batches, outcomes: Outcomes, options: Options) -> None:
        self.batches, self.outcomes, self.options = batches, outcomes, options
        self.active = list(runs)
        for run in runs:
            run.together = len(runs)
        self.readers: dict[Group, Reader] = {}
        self._saved = self._observed = time.monotonic()
        self.graphs = StepGraphs(self) if options.compile and options.device.type == "cuda" else None

    def train(self, stop: Stop, observers: Observers) -> None:
        """Run every epoch that is left."""
        observe = {run.cell.id: observers(run.cell) for run in self.active}
        for run in self.active:
            observe[run.cell.id](run.progress())
        while self.active:
            epoch = min(run.epoch for run in self.active)
            behind = [run for run in self.active if run.epoch == epoch]
            self._run_epoch(epoch, behind, stop, observe)
            for run in self._still(behind):
                with self.attempt(run):
                    run.end_epoch()
                    if run.done:
                        self.outcomes.set(run.cell, run.finish())
                observe[run.cell.id](run.progress())
            self.active = self._still(self.active)

    def _run_epoch(self, epoch: int, behind: list[Run], stop: Stop, observe: dict[str, Observer]) -> None:
        with Span(self.options.device) as beginning:
            self.batches.begin(epoch)
        for run in behind:
            run.begin_epoch()
            run.spans += [beginning] if run.plan.num_strong else []  # what takes long is to make the strong views
        self.open_readers(behind)
        for step in range(min(run.step for run in behind), self.batches.steps):
            joined = [run for run in self._still(behind) if run.step == step]
            if not joined:
                continue
            self.tick(step, joined)
            now = time.monotonic()
            save = now - self._saved >= self.options.save_every or stop.signum is not None
            if save or step + 1 == self.batches.steps or (step + 1) % _DRAIN_EVERY == 0:
                self._each(joined, Run.drain)
            if now - self._observed >= _OBSERVE_EVERY:
                for run in self._still(joined):
                    observe[run.cell.id](run.progress())
                self._observed = now
            if save:
                self._each(joined, Run.save)
                self._saved = time.monotonic()
                if stop.signum is not None:
                    self._interrupt(epoch, step + 1, stop.signum)
        if self.graphs:
            self.graphs.drop()

    def open_readers(self, runs: list[Run]) -> None:
        """Let runs be given what they need of their teachers from now on."""
        needs: dict[Group, frozenset[Part]] = {}
        for run in runs:
            needs[run.group] = needs.get(run.group, frozenset()) | run.needs
        self.readers = {
            (source, plan): source.reader(self.batches, plan, parts)
            for (source, plan), parts in needs.items()
            if source
        }

    def tick(self, step: int, joined: list[Run]) -> None:
        """Do one step of the runs that are there."""
        index = self.batches.index(step)
        try:
            if self.graphs and len(index) == self.batches.batch_size and self.graphs.replay(step, joined):
                return
            shared = self.share(index, self.inputs(step, joined))
        except Exception as error:  # what they share fails for all of them
            for run in joined:
                with self.attempt(run):
                    raise error
            return
        for run in joined:
            images, outputs, spans = shared[run.group]
            with self.attempt(run):
                run.begin_step()
                with Span(self.options.device) as own:
                    values = run.update(images, index, outputs.narrowed(run.needs))
                run.spans += [*spans, own]
                run.count(values)

    def inputs(self, step: int, joined: list[Run]) -> Inputs:
        """Look up what a step needs."""
        groups = dict.fromkeys(run.group for run in joined)
        plans = {plan for _, plan in groups}
        whole = [p for p in plans if not any(other != p and other.begins_with(p) for other in plans)]
        looked_up = {}
        for group in groups:
            with Span(self.options.device) as span:
                found = self.readers[group].inputs(step) if group in self.readers else {}
            looked_up[group] = found, span
        return {plan: self.batches.ids(step, plan) for plan in whole}, looked_up

    def share(self, index: Tensor, inputs: Inputs) -> dict[Group, tuple[Tensor, Outputs, list[Span]]]:
        """Make what runs have in common: images and teacher outputs of each group, with the time they took."""
        device = self.options.device
        ids, looked_up = inputs
        images: dict[ViewPlan, tuple[Tensor, Span]] = {}
        for plan, views in ids.items():
            with Span(device) as span:
                images[plan] = self.batches.images(index, views, plan), span
        shared = {}
        for group, (known, looking) in looked_up.items():
            _, plan = group
            made, augmenting = next(found for longer, found in images.items() if longer.begins_with(plan))
            own = made[: plan.num_views * len(index)]
            with Span(device) as asking:
                outputs = self.readers[group].outputs(own, known) if group in self.readers else Outputs("teacher")
            shared[group] = own, outputs, [augmenting, looking, asking]
        return shared

    def _still(self, runs: list[Run]) -> list[Run]:
        return [run for run in runs if not self.outcomes.has(run.cell)]

    def attempt(self, run: Run) -> contextlib.AbstractContextManager[None]:
        """Let what goes wrong inside end this run alone."""
        return self.outcomes.of(run.cell, run.folder, run.permit)

    def _each(self, runs: list[Run], action: Callable[[Run], None]) -> None:
        for run in self._still(runs):
            with self.attempt(run):
                action(run)

    def _interrupt(self, epoch: int, step: int, signum: int) -> None:
        left = self._still(self.active)
        if left:
            names = str(left[0].cell) if len(left) == 1 else f"{len(left)} cells"
            verb = "is" if len(left) == 1 else "are"
            where = f"saved in {f'epoch {epoch}' if epoch > 0 else 'pre-training'} after step {step}"
            raise Interrupted(f"{names} {verb} {where}: type the same command to go on", signum)
