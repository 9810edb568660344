"""Run one cell with one call from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdbench.engine.inits import bring
from kdbench.engine.progress import Observer
from kdbench.engine.session import Session
from kdbench.teachers.plan import CacheMode


def train(
    protocol: str,
    *,
    student: str,
    method: str,
    teacher: str | None = None,
    seed: int = 1,
    settings: dict[str, Any] | None = None,
    init: str | Path | None = None,
    cache: CacheMode = "auto",
    observer: Observer = lambda _: None,
    runs: str | Path = "runs",
    data: str | Path | None = None,
    dataset: str | None = None,
    epochs: int | None = None,
    precision: str | None = None,
    device: str | None = None,
    devices: int = 1,
    download: bool = False,
    save_every: float = 60.0,
    workers: int | None = None,
    compile: bool = False,  # noqa: A002 - the word users know
) -> dict[str, Any]:
    """Run one cell, or find its record; what ``kdbench train`` does.

    Parameters
    ----------
    protocol, student, method, teacher
        Names; ``teacher`` may be ``NETWORK@HASH`` or ``NETWORK:EPOCHS``. A method that reads no teacher ignores it.
    seed
        Decides the student's initial weights, the order of the images and their views.
    settings
        Hyper-parameters that differ from the method's recipe.
    init
        Weights that the student's training starts from, a file or published ones by name; fresh ones by default.
    cache
        ``auto``, ``on`` or ``off``: see `Session.run_all`.
    observer
        Is called with a `kdbench.engine.progress.Progress` while training.
    runs, data, dataset, epochs, precision, device, devices, download, save_every, workers, compile
        See `Session.open`.

    Returns
    -------
    dict
        The record: accuracy, calibration, fidelity, cost, configuration and environment.

    Raises
    ------
    kdbench.UserError
        A name does not exist, or the cell cannot be run; nothing is lost.
    """
    session = Session.open(
        protocol,
        runs=runs,
        data=data,
        dataset=dataset,
        epochs=epochs,
        precision=precision,
        device=device,
        devices=devices,
        download=download,
        save_every=save_every,
        workers=workers,
        compile=compile,
    )
    start = "" if init is None else bring(session, student, init)[0]
    cell = session.cell(method=method, student=student, teacher=teacher, seed=seed, settings=settings, init=start)
    return session.run(cell, observer, cache=cache)
