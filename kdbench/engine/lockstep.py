"""The one training loop: cells of one protocol and seed in lockstep over the same batches.

The loop owns data, teacher, saving and failure; a `Run` owns one cell; a method owns its loss. What cells have in
common (the augmented images of a plan, the teacher's outputs for them) is made once a step. Each cell's numbers are
those that it has alone: it gets the same tensors, and its random streams are its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import final

from kdbench.data.batches import Batches
from kdbench.data.groups import Group
from kdbench.engine.evaluation import evaluate_runs, validation_metrics
from kdbench.engine.graphs import StepGraphs
from kdbench.engine.options import Options
from kdbench.engine.outcomes import Outcomes
from kdbench.engine.progress import Observer, Observers
from kdbench.engine.run import Run
from kdbench.engine.run_state import finish, save
from kdbench.engine.shared import Feed, Shared, SharedInputs
from kdbench.errors import Interrupted
from kdbench.utils.device import Span
from kdbench.utils.signals import Stop

_FLUSH_EVERY = 50
"""Steps between two looks at the losses; each look waits for the device."""
_OBSERVE_EVERY = 0.5
"""Seconds between two reports to the observers."""
_BETWEEN_SAVES = 19
"""Times as long as the last save took there is none: saving takes at most a twentieth of the time."""


@final
class Lockstep:
    """Runs that take each step together. Those that are ahead wait until the others have caught up.

    Parameters
    ----------
    runs
        Of one protocol and one seed, those of the batches: order and views of the images are functions of both, and
        equal for all methods. Only the optimiser's rules may differ, as they do where a search tries learning rates.
    """

    def __init__(self, runs: list[Run], batches: Batches, outcomes: Outcomes, options: Options) -> None:
        first = runs[0].cell.protocol
        for run in runs:
            alike = first.rules == replace(run.cell.protocol.rules, optimizer=first.rules.optimizer)
            assert alike, f"{run.cell} has another protocol than {runs[0].cell}"
            assert run.cell.seed == batches.seed, f"{run.cell} is given the images of seed {batches.seed}"
            run.num_lockstep = len(runs)
        self.runs, self.outcomes, self.options = tuple(runs), outcomes, options
        self.shared = SharedInputs(batches, options.device)
        self.active = list(runs)
        self._saved = self._observed = time.monotonic()
        self._save_pause = options.save_every
        """Seconds from one save to the next."""
        self.graphs = StepGraphs(self.shared, outcomes) if options.compile and options.device.type == "cuda" else None

    def train(self, stop: Stop, observers: Observers) -> None:
        """Run every epoch that is left, or those that the options ask for."""
        observe = {run.cell.id: observers(run.cell) for run in self.active}
        for run in self.active:
            run.start_clock()
            observe[run.cell.id](run.progress())
        while self.active:
            epoch = min(run.stream_epoch for run in self.active)
            behind = [run for run in self.active if run.stream_epoch == epoch]
            self._run_epoch(behind, stop, observe)
            self.outcomes.agree(self.runs, self.options.ranks)
            self._each(behind, Run.share_statistics)
            metrics = self._evaluate(self._still(behind))
            for run in self._still(behind):
                with self.outcomes.attempt(run):
                    run.end_epoch(metrics.get(run.cell.id, {}))
                    if run.done:
                        self.outcomes.set(run.cell, finish(run) if self.options.ranks.leads else {})
                    elif run.num_epochs_done == self.options.max_epochs:
                        self.outcomes.set(run.cell, {"first_losses": run.tally.first_losses})
                observe[run.cell.id](run.progress())
            self.outcomes.agree(self.runs, self.options.ranks)
            self.active = self._still(self.active)

    def begin_epoch(self, runs: list[Run]) -> None:
        """Begin an epoch of runs that stand in the same one."""
        with Span(self.options.device) as beginning:
            self.shared.batches.begin(runs[0].stream_epoch)
        for run in runs:
            with self.outcomes.attempt(run):
                # What takes long is to make the strong views.
                run.begin_epoch([beginning] if run.feed.plan.num_strong else [])
        self.open_readers(runs)

    def open_readers(self, runs: list[Run]) -> None:
        """Let runs be given what they need of their teachers in the phases that they are in."""
        self.shared.open((run.feed, run.needs) for run in runs)

    def _run_epoch(self, behind: list[Run], stop: Stop, observe: dict[str, Observer]) -> None:
        self.begin_epoch(behind)
        num_steps = self.shared.batches.steps
        for step in range(min(run.step for run in behind), num_steps):
            joined = [run for run in self._still(behind) if run.step == step]
            if not joined:
                continue
            self.tick(step, joined)
            now = time.monotonic()
            wishes = self.options.ranks.leads and now - self._saved >= self._save_pause, stop.signum or 0
            due, signum = self.options.ranks.highest(wishes)
            due = due or signum
            if due or step + 1 == num_steps or (step + 1) % _FLUSH_EVERY == 0:
                self._each(joined, Run.flush_losses)
            if now - self._observed >= _OBSERVE_EVERY:
                for run in self._still(joined):
                    observe[run.cell.id](run.progress())
                self._observed = now
            if due:
                if self.options.ranks.leads:
                    self._save(joined)
                if signum:
                    self._interrupt(behind[0], step + 1, signum)
        if self.graphs:
            self.graphs.drop()

    def tick(self, step: int, joined: list[Run]) -> None:
        """Do one step of the runs that are there."""
        if self.graphs and self.shared.batches.layout.is_full(step) and self.graphs.replay(step, joined):
            return
        joined = self._still(joined)
        for run in joined:
            run.begin_step()
        for group in self.shared.batches.groups(step):
            still = self._still(joined)
            shared = self._shared(group, still)
            for run in self._still(still):
                given = shared[run.feed]
                with self.outcomes.attempt(run), Span(self.options.device) as adding:
                    run.begin_group(group)
                    run.add(group, given.images, given.teacher)
                run.tally.time([*given.spans, adding])
        self.outcomes.agree(self.runs, self.options.ranks)
        for run in self._still(joined):
            with self.outcomes.attempt(run):
                with Span(self.options.device) as updating:
                    values = run.update()
                run.count(values, [updating])

    def _shared(self, group: Group, runs: list[Run]) -> Mapping[Feed, Shared]:
        """Make what runs share; where that fails, each feed's apart, so that no run fails with another feed's error.

        Images are functions of the seed and the epoch: they are the same when they are made again.
        """
        feeds = list(dict.fromkeys(run.feed for run in runs))
        try:
            return self.shared.make(group.index, self.shared.look_up(group, feeds))
        except Exception as error:
            if len(feeds) == 1:
                for run in runs:
                    self.outcomes.fail(run, error)
                return {}
        made: dict[Feed, Shared] = {}
        for feed in feeds:
            made |= self._shared(group, [run for run in runs if run.feed == feed])
        return made

    def _evaluate(self, runs: list[Run]) -> Mapping[str, dict[str, float]]:
        """Measure the runs whose epoch is the protocol's."""
        measured = [run for run in runs if not run.phase.pretraining]
        batches, ranks = self.shared.batches, self.options.ranks
        if not measured:
            return {}
        metrics = evaluate_runs(measured, batches.data.evaluation, self.outcomes, ranks)
        if batches.validation is None or not (measured := self._still(measured)):
            return metrics
        labels = batches.validation_labels
        held_out = evaluate_runs(measured, batches.validation, self.outcomes, ranks, validation=labels)
        return {cell: values | validation_metrics(held_out.get(cell, {})) for cell, values in metrics.items()}

    def _still(self, runs: list[Run]) -> list[Run]:
        return [run for run in runs if not self.outcomes.has(run.cell)]

    def _each(self, runs: list[Run], action: Callable[[Run], None]) -> None:
        for run in self._still(runs):
            with self.outcomes.attempt(run):
                action(run)

    def _save(self, runs: list[Run]) -> None:
        """Save states; those that take long to write are saved less often, unless each step is to be saved."""
        began = time.monotonic()
        self._each(runs, save)
        self._saved = time.monotonic()
        if self.options.save_every:
            self._save_pause = max(self.options.save_every, _BETWEEN_SAVES * (self._saved - began))

    def _interrupt(self, behind: Run, step: int, signum: int) -> None:
        left = self._still(self.active)
        if left:
            names = str(left[0].cell) if len(left) == 1 else f"{len(left)} cells"
            verb = "is" if len(left) == 1 else "are"
            where = "pre-training" if behind.phase.pretraining else f"epoch {behind.epoch}"
            raise Interrupted(
                f"{names} {verb} saved in {where} after step {step}: type the same command to resume", signum
            )
