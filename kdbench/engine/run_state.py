"""A run on disk: its state while it is in progress, and its weights and record when it is done."""

from __future__ import annotations

from typing import Any

from kdbench.engine.record import Counts, make_record
from kdbench.engine.run import Run
from kdbench.errors import UserError
from kdbench.experiment.folder import CONFIG, METRICS, PRETRAINING, RECORD, STATE, WEIGHTS
from kdbench.experiment.registry import method_source
from kdbench.models.weights import save_weights
from kdbench.utils.checkpoint import load_state, save_state
from kdbench.utils.files import unfinished_writes, write_json


def save(run: Run) -> None:
    """Save everything that the rest of a run depends on; random streams are functions of the position."""
    state = {"cell": run.cell.id, "method_source": method_source(run.cell.method).text, **run.state()}
    save_state(run.folder / STATE, state, permit=run.permit)


def resume(run: Run) -> None:
    """Continue from a saved state, if there is one.

    Raises
    ------
    UserError
        The state is damaged, belongs to another cell, or is of other code of a user's method.
    """
    path = run.folder / STATE
    state = load_state(path)
    if state is None:
        return
    if state["cell"] != run.cell.id:
        raise UserError(f"{path} belongs to cell {state['cell'][:8]}, not {run.cell.id[:8]}: move it away")
    source = method_source(run.cell.method)
    if source.changed_since(state.get("method_source", "")):
        raise UserError(
            f"{source.where} has changed since {run.folder} was begun: raise VERSION in it to begin anew, put "
            "it back to resume, or delete that folder"
        )
    run.load(state)


def finish(run: Run) -> dict[str, Any]:
    """Save the weights, write the record and drop the state, which is not needed any more."""
    digest = save_weights(run.folder / WEIGHTS, run.student, permit=run.permit)
    batches, tally = run.batches, run.tally
    counts = Counts(
        num_images=min(batches.num_images, batches.steps * run.cell.protocol.batch_size),
        views_per_image=run.group.plan.num_views,
        student_epochs=sum(phase.epochs for phase in run.phases if phase.reads.student),
        teacher_epochs=sum(phase.epochs for phase in run.phases if phase.reads.teacher),
        extra_parameters=run.extra_parameters,
        teacher_outputs=run.source.kind if run.source else None,
        cells_together=run.num_lockstep,
        compiled=run.options.compile,
    )
    card = run.source.teacher.card if run.source else None
    record = make_record(
        run.cell, run.data.dataset, card, tally.history, tally.seconds, counts, digest, run.options.device
    )
    write_json(run.folder / RECORD, record, permit=run.permit)
    # What a process that was killed while it wrote has left goes as well.
    begun = [run.folder / name for name in (CONFIG, METRICS, PRETRAINING, WEIGHTS, STATE, RECORD)]
    leftovers = [path for file in begun for path in unfinished_writes(file)]
    leftovers += [run.folder / f"{STATE}{which}" for which in ("", ".previous", ".new")]
    for path in leftovers:
        path.unlink(missing_ok=True)
    return record
