"""A run on disk: its state while it is in progress, and its weights and record when it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdbench.engine.code import changed_code, code_of
from kdbench.engine.optim import load_optimizer
from kdbench.engine.record import Counts, make_record
from kdbench.engine.run import Run
from kdbench.errors import UserError
from kdbench.experiment.folder import PREDICTIONS, RECORD, STATE, WEIGHTS
from kdbench.experiment.predictions import write_predictions
from kdbench.models.weights import save_weights
from kdbench.utils.checkpoint import load_state, save_state, state_names
from kdbench.utils.files import sweep, write_json
from kdbench.utils.leases import tidy
from kdbench.utils.scheduler import Scheduler

_STATES = state_names(STATE)


def state_of(run: Run) -> dict[str, Any]:
    """Return everything that the rest of a run depends on; random streams are functions of the position."""
    return {
        "epoch": run.stream_epoch,
        "step": run.step,
        "student": run.student.backbone.state_dict(),
        "method": run.method.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": run.step_update.scaler.state_dict(),
        "devices": list(run.devices),
        **run.tally.state(),
    }


def restore(run: Run, state: Mapping[str, Any]) -> None:
    """Let a run continue from what `state_of` returned."""
    run.student.backbone.load_state_dict(state["student"])
    run.method.load_state_dict(state["method"])
    run.step_update.scaler.load_state_dict(state["scaler"])
    phase = next(phase for phase in run.phases if phase.holds(state["epoch"]))
    run.enter(phase, phase.epoch_of(state["epoch"]), state["step"])
    load_optimizer(run.optimizer, state["optimizer"])
    before = tuple(state.get("devices", (1,)))  # kdbench 0.1 had one
    run.devices = before if before[-1:] == run.devices else before + run.devices
    run.tally.load(state)


def save(run: Run) -> None:
    """Save the state of a run."""
    code = {field: source.text for field, source in code_of(run.cell).items()}
    state = {"cell": run.cell.id, **code, **state_of(run)}
    save_state(run.folder / STATE, state, permit=run.permit)


def resume(run: Run) -> None:
    """Continue from a saved state, if there is one.

    Raises
    ------
    UserError
        The state is damaged, belongs to another cell, or is of other code of the user's.
    """
    path = run.folder / STATE
    state = load_state(path)
    if state is None:
        return
    if state["cell"] != run.cell.id:
        raise UserError(f"{path} belongs to cell {state['cell'][:8]}, not {run.cell.id[:8]}: move it away")
    for source in changed_code(run.cell, state):
        raise UserError(
            f"{source.where} has changed since {run.folder} was begun: raise VERSION in it to begin anew, put "
            "it back to resume, or delete that folder"
        )
    restore(run, state)


def finish(run: Run) -> dict[str, Any]:
    """Save weights and predictions, write the record and drop the state, which is not needed any more."""
    digest = save_weights(run.folder / WEIGHTS, run.student, permit=run.permit)
    batches, tally = run.batches, run.tally
    if tally.predictions:
        predictions = write_predictions(run.folder, tally.predictions, permit=run.permit)
    else:
        predictions = None
        (run.folder / PREDICTIONS).unlink(missing_ok=True)  # of a record that was deleted
    counts = Counts(
        num_images=min(batches.num_images, batches.steps * batches.schedule.batch_size),
        num_trained=batches.num_images,
        views_per_image=run.feed.plan.num_views,
        student_epochs=sum(phase.epochs for phase in run.phases if phase.reads.student),
        teacher_epochs=sum(phase.epochs for phase in run.phases if phase.reads.teacher),
        extra_parameters=run.extra_parameters,
        teacher_outputs=run.source.kind if run.source else None,
        live_teachers=run.source.num_live if run.source else 0,
        computed_logits=any(run.source.computed(phase.reads.teacher) for phase in run.phases) if run.source else False,
        cells_together=run.num_lockstep,
        devices=run.devices,
        compiled=run.options.compile,
    )
    teacher = run.source.described() if run.source else None
    record = make_record(
        run.cell, run.data.dataset, teacher, tally, counts, run.student, digest, predictions, run.options.device
    )
    write_json(run.folder / RECORD, record, permit=run.permit)
    sweep(run.folder, held=True)
    for name in _STATES:
        with contextlib.suppress(OSError):  # the cell has ended, whatever is left of its states
            (run.folder / name).unlink(missing_ok=True)
    return record


def tidy_ended(folder: Path, scheduler: Scheduler) -> None:
    """Remove what a process that was killed right after the end of its cell has left in the cell's folder."""
    tidy(folder, scheduler, unused=_STATES if (folder / RECORD).exists() else ())
