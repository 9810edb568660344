"""``kdbench teacher``: train, import and list teachers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdbench.cli.options import (
    DataOption,
    DatasetOption,
    DeviceOption,
    DevicesOption,
    DownloadOption,
    EpochsOption,
    InitHelp,
    NetworkOption,
    PrecisionOption,
    ProtocolOption,
    RunsOption,
    SaveEveryOption,
    WorkersOption,
    echo,
    next_command,
    print_rows,
)
from kdbench.cli.running import bring, open_session, train_teacher

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.teachers.cards import TeacherCard

app = typer.Typer(help="Train, import and list teachers.", no_args_is_help=True)


@app.command("train")
def teacher_train(
    protocol: ProtocolOption,
    network: NetworkOption,
    seed: Annotated[int, typer.Option(help="Seed of the teacher.")] = 0,
    start: Annotated[str | None, typer.Option("--from", help=InitHelp, metavar="FILE|NAME")] = None,
    epochs: EpochsOption = None,
    precision: PrecisionOption = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
    devices: DevicesOption = 1,
    save_every: SaveEveryOption = 60.0,
    workers: WorkersOption = None,
) -> None:
    """Train a network on the labels only, and make it a teacher."""
    session = open_session(
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
    )
    init = "" if start is None else bring(session, network, start)
    card = train_teacher(session, network, seed, init)
    echo(f"teacher {card.spec}: {card.accuracy:.2f} % on the test set of {card.dataset}")
    _warn(session, card)


@app.command("import")
def teacher_import(
    file: Annotated[
        str,
        typer.Argument(
            help="Checkpoint with a state dict (torch.save or safetensors), or published weights by name, e.g. "
            "torchvision:resnet34.IMAGENET1K_V1."
        ),
    ],
    protocol: ProtocolOption,
    network: NetworkOption,
    accuracy: Annotated[
        float | None, typer.Option(help="Expected top-1 on the test set in %. [default: the published value, if any]")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Which weights, where several in the file fit, e.g. state_dict or model_ema.")
    ] = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
) -> None:
    """Import a checkpoint as a teacher, and measure its accuracy."""
    session = open_session(protocol, runs=runs, data=data, dataset=dataset, device=device, download=download)
    card = session.import_teacher(file, network, expected=accuracy, key=key)
    checked = "not checked: no expected value" if card.expected is None else f"expected {card.expected:.2f} %"
    echo(f"teacher {card.spec}: {card.accuracy:.2f} % on the test set of {card.dataset} ({card.origin}; {checked})")
    _warn(session, card)


@app.command("list")
def teacher_list(
    context: typer.Context,
    protocol: Annotated[str | None, typer.Option(help="Only teachers under these training rules.")] = None,
    runs: RunsOption = Path("runs"),
) -> None:
    """List the teachers in a folder of runs."""
    from kdbench.experiment.protocol import load_protocol
    from kdbench.teachers.cards import protocols_with_teachers, read_cards

    names = protocols_with_teachers(runs) if protocol is None else [load_protocol(protocol).name]
    read = [(name, *read_cards(runs, name)) for name in names]
    cards = [(name, card) for name, whole, _ in read for card in whole]
    damaged = [error for _, _, errors in read for error in errors.values()]
    for error in damaged:
        echo(f"left out: {error}")
    if not cards and not damaged:
        train, imported = (
            next_command(context, "teacher", verb, keep=("protocol", "runs")) for verb in ("train", "import")
        )
        echo(f"no teachers in {runs}: type {train} or {imported} to make one")
        return
    print_rows(
        [
            {
                "protocol": name,
                "teacher": card.spec,
                "data": card.dataset,
                "top-1 %": f"{card.accuracy:.2f}",
                "weights": card.weights[:8],
                "origin": card.origin,
            }
            for name, card in cards
        ]
    )


def _warn(session: Session, card: TeacherCard) -> None:
    """Print what is doubtful about a new teacher's accuracy."""
    from kdbench.teachers.load import doubts

    if text := doubts(card, session.protocol, session.dataset):
        echo(f"warning: {text}")
