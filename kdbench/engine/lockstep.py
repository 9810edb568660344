"""The one training loop: cells of one protocol and seed in lockstep over the same batches.

The loop owns data, teacher, saving and failure; a `Run` owns one cell; a method owns its loss. What cells have in
common (the augmented images of a plan, the teacher's outputs for them) is made once a step. Each cell's numbers are
those that it has alone: it gets the same tensors, and its random streams are its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import final

from torch import Tensor

from kdbench.data.batches import Batches
from kdbench.engine.graphs import StepGraphs
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import Observer, Observers
from kdbench.engine.run import Run
from kdbench.engine.run_state import finish, save
from kdbench.engine.shared import Group, Shared, SharedInputs
from kdbench.errors import Interrupted
from kdbench.utils.device import Span
from kdbench.utils.signals import Stop

_FLUSH_EVERY = 50
"""Steps between two looks at the losses; each look waits for the device."""
_OBSERVE_EVERY = 0.5
"""Seconds between two reports to the observers."""


@final
class Lockstep:
    """Runs that take each step together. Those that are ahead wait until the others have caught up.

    Parameters
    ----------
    runs
        Of one protocol and one seed, those of the batches: order and views of the images are functions of both, and
        equal for all methods.
    """

    def __init__(self, runs: list[Run], batches: Batches, outcomes: Outcomes, options: Options) -> None:
        for run in runs:
            assert run.cell.protocol == runs[0].cell.protocol, f"{run.cell} has another protocol than {runs[0].cell}"
            assert run.cell.seed == batches.seed, f"{run.cell} is given the images of seed {batches.seed}"
            run.join(len(runs))
        self.outcomes, self.options = outcomes, options
        self.shared = SharedInputs(batches, options.device)
        self.active = list(runs)
        self._saved = self._observed = time.monotonic()
        self.graphs = StepGraphs(self.shared, outcomes) if options.compile and options.device.type == "cuda" else None

    def train(self, stop: Stop, observers: Observers) -> None:
        """Run every epoch that is left."""
        observe = {run.cell.id: observers(run.cell) for run in self.active}
        for run in self.active:
            run.start_clock()
            observe[run.cell.id](run.progress())
        while self.active:
            epoch = min(run.stream_epoch for run in self.active)
            behind = [run for run in self.active if run.stream_epoch == epoch]
            self._run_epoch(behind, stop, observe)
            for run in self._still(behind):
                with self.outcomes.attempt(run):
                    run.end_epoch()
                    if run.done:
                        self.outcomes.set(run.cell, finish(run))
                observe[run.cell.id](run.progress())
            self.active = self._still(self.active)

    def begin_epoch(self, runs: list[Run]) -> None:
        """Begin an epoch of runs that stand in the same one."""
        with Span(self.options.device) as beginning:
            self.shared.batches.begin(runs[0].stream_epoch)
        for run in runs:
            with self.outcomes.attempt(run):
                # What takes long is to make the strong views.
                run.begin_epoch([beginning] if run.group.plan.num_strong else [])
        self.open_readers(runs)

    def open_readers(self, runs: list[Run]) -> None:
        """Let runs be given what they need of their teachers in the phases that they are in."""
        self.shared.open((run.group, run.needs) for run in runs)

    def _run_epoch(self, behind: list[Run], stop: Stop, observe: dict[str, Observer]) -> None:
        self.begin_epoch(behind)
        num_steps = self.shared.batches.steps
        for step in range(min(run.step for run in behind), num_steps):
            joined = [run for run in self._still(behind) if run.step == step]
            if not joined:
                continue
            self.tick(step, joined)
            now = time.monotonic()
            due = now - self._saved >= self.options.save_every or stop.signum is not None
            if due or step + 1 == num_steps or (step + 1) % _FLUSH_EVERY == 0:
                self._each(joined, Run.flush_losses)
            if now - self._observed >= _OBSERVE_EVERY:
                for run in self._still(joined):
                    observe[run.cell.id](run.progress())
                self._observed = now
            if due:
                self._each(joined, save)
                self._saved = time.monotonic()
                if stop.signum is not None:
                    self._interrupt(behind[0], step + 1, stop.signum)
        if self.graphs:
            self.graphs.drop()

    def tick(self, step: int, joined: list[Run]) -> None:
        """Do one step of the runs that are there."""
        batches = self.shared.batches
        index = batches.index(step)
        try:
            if self.graphs and len(index) == batches.batch_size and self.graphs.replay(step, joined):
                return
        except Exception as error:  # what is recorded fails for all of them
            for run in joined:
                self.outcomes.fail(run, error)
            return
        shared = self._shared(step, index, joined)
        for run in self._still(joined):
            given = shared[run.group]
            with self.outcomes.attempt(run):
                run.begin_step()
                with Span(self.options.device) as updating:
                    values = run.update(given.images, index, given.teacher)
                run.count(values, [*given.spans, updating])

    def _shared(self, step: int, index: Tensor, runs: list[Run]) -> Mapping[Group, Shared]:
        """Make what runs share; where that fails, each group's apart, so that no run fails with another group's error.

        Images are functions of the seed and the epoch: they are the same when they are made again.
        """
        groups = list(dict.fromkeys(run.group for run in runs))
        try:
            return self.shared.make(index, self.shared.look_up(step, groups))
        except Exception as error:
            if len(groups) == 1:
                for run in runs:
                    self.outcomes.fail(run, error)
                return {}
        made: dict[Group, Shared] = {}
        for group in groups:
            made |= self._shared(step, index, [run for run in runs if run.group == group])
        return made

    def _still(self, runs: list[Run]) -> list[Run]:
        return [run for run in runs if not self.outcomes.has(run.cell)]

    def _each(self, runs: list[Run], action: Callable[[Run], None]) -> None:
        for run in self._still(runs):
            with self.outcomes.attempt(run):
                action(run)

    def _interrupt(self, behind: Run, step: int, signum: int) -> None:
        left = self._still(self.active)
        if left:
            names = str(left[0].cell) if len(left) == 1 else f"{len(left)} cells"
            verb = "is" if len(left) == 1 else "are"
            where = "pre-training" if behind.phase.pretraining else f"epoch {behind.epoch}"
            raise Interrupted(
                f"{names} {verb} saved in {where} after step {step}: type the same command to resume", signum
            )
