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
from kdbench.errors import UserError

if TYPE_CHECKING:
    from kdbench.engine.session import Session
    from kdbench.teachers.cards import TeacherCard

ImageSizeOption = Annotated[
    int | None,
    typer.Option(
        help="Side in pixels of the images that it takes: the student's crop and flip, resized from the same image. "
        "[default: the student's; the one of published weights that are imported by name]",
    ),
]
AccuracyHelp = "Expected top-1 on the test set in %."

app = typer.Typer(help="Train, import and list teachers.", no_args_is_help=True)


@app.command("train")
def teacher_train(
    protocol: ProtocolOption,
    network: NetworkOption,
    seed: Annotated[int, typer.Option(help="Seed of the teacher.")] = 0,
    start: Annotated[str | None, typer.Option("--from", help=InitHelp, metavar="FILE|NAME")] = None,
    image_size: ImageSizeOption = None,
    hold_out: Annotated[
        bool,
        typer.Option("--hold-out", help="Leave out the images that the protocol holds out for validation."),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Number of epochs; the schedule keeps its shape. 0: random weights stay, and batch norms get their "
            "statistics. Behind --teacher and in a grid's pairs, NETWORK:EPOCHS is this teacher. [default: the "
            "protocol's]"
        ),
    ] = None,
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
        precision=precision,
        device=device,
        devices=devices,
        download=download,
        save_every=save_every,
        workers=workers,
    )
    init = "" if start is None else bring(session.with_side(image_size), network, start)
    if hold_out and not session.protocol.rules.evaluation.validation:
        raise UserError(
            f"--hold-out: {session.protocol.name} holds no images out: say how many in a protocol of your own, with "
            "validation in its [evaluation]"
        )
    card = train_teacher(session, network, seed, init, image_size, hold_out=hold_out, epochs=epochs)
    echo(f"teacher {card.spec}: {card.percent} on the test set of {card.dataset}")
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
        float | None, typer.Option(help=f"{AccuracyHelp} [default: the published value, if any]")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Which weights, where several in the file fit, e.g. state_dict or model_ema.")
    ] = None,
    image_size: ImageSizeOption = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
    device: DeviceOption = None,
) -> None:
    """Import a checkpoint as a teacher, and measure its accuracy."""
    session = open_session(protocol, runs=runs, data=data, dataset=dataset, device=device, download=download)
    card = session.import_teacher(file, network, expected=accuracy, key=key, image_size=image_size)
    checked = "not checked: no expected value" if card.expected is None else f"expected {card.expected:.2f} %"
    echo(f"teacher {card.spec}: {card.percent} on the test set of {card.dataset} ({card.origin}; {checked})")
    _warn(session, card)


@app.command("import-logits")
def teacher_import_logits(
    file: Annotated[
        Path,
        typer.Argument(
            help="An .npz file with float arrays train_logits and, if there are any, test_logits, or an .npy file with "
            "the former; one row for each image, in the order of 'kdbench data list', and one column for each class."
        ),
    ],
    protocol: ProtocolOption,
    name: Annotated[
        str, typer.Option(help="What to call it behind 'logits:'. [default: the file's name]", show_default=False)
    ] = "",
    accuracy: Annotated[float | None, typer.Option(help=AccuracyHelp)] = None,
    runs: RunsOption = Path("runs"),
    data: DataOption = None,
    dataset: DatasetOption = None,
    download: DownloadOption = False,
) -> None:
    """Import a file of logits as a teacher, '--teacher logits:NAME', for methods that read nothing else.

    They are those of the images as they are: the student sees augmented ones, and is taught the same logits whatever
    crop it sees. Methods that show the teacher several views, or read its features, are unsupported.
    """
    session = open_session(protocol, runs=runs, data=data, dataset=dataset, device="cpu", download=download)
    card, trained = session.import_logits(file, name, expected=accuracy)
    echo(
        f"teacher {card.spec}: {card.percent} on the test set of {card.dataset}, {trained:.2f} % on its training "
        f"images ({card.origin})"
    )
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
                "top-1 %": "" if card.accuracy is None else f"{card.accuracy:.2f}",
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
