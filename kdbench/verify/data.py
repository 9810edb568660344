"""The data sets that cells were trained on, opened where their records name them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from kdbench.data.datasets import EMBEDDED
from kdbench.data.files.names import Report
from kdbench.data.images import Dataset
from kdbench.data.place import FOLDERS, MAX_WORKERS, DataPlace
from kdbench.errors import UserError
from kdbench.experiment.protocol import Protocol
from kdbench.utils.values import argument, whole_number


class NotOpened(UserError):
    """Data that the user named cannot be opened, whatever they are needed for."""


@final
@dataclass(slots=True)
class DataSets:
    """Data sets by what protocols say of them; the last one stays open, since those of neighbours are often equal.

    Parameters
    ----------
    data
        What ``--data`` takes.

    Raises
    ------
    UserError
        It names nothing.
    """

    data: str | None
    download: bool
    workers: int | None
    report: Report
    _open: dict[object, Dataset] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        place = DataPlace.parse(self.data)
        if place.given and place.kind is None and not self.download and not Path(place.path).is_dir():
            raise UserError(f"there is no folder {place.path}: name the folder of data sets with --data DIR")
        if self.workers is not None:
            with argument("--workers"):
                whole_number(self.workers, 0, MAX_WORKERS)

    def place(self, protocol: Protocol) -> DataPlace:
        """Return where a protocol's data are looked for.

        Raises
        ------
        UserError
            They have no name by which they could be found, and ``data`` is none of their kind.
        """
        place = DataPlace.parse(self.data)
        kind, colon, _ = protocol.dataset.partition(":")
        if place.kind == kind or (place.kind is None and not colon and kind not in EMBEDDED):
            return place
        if colon:
            word = "npz:FILE" if kind == "npz" else f"{kind}:DIR"
            raise UserError(f"its data are {protocol.dataset}: name them with --data {word}")
        return DataPlace()

    def open(self, protocol: Protocol, image_size: tuple[int, int] | None, fingerprint: str | None) -> Dataset:
        """Open the data of a protocol as a network saw them.

        Parameters
        ----------
        image_size
            Height and width of its images; those of the data where it is None.
        fingerprint
            Hash that the data must have; None where it is not known.

        Raises
        ------
        NotOpened
            The user named them, and they cannot be opened.
        UserError
            They are not here, or they are other data.
        """
        key = protocol.dataset, protocol.rules.augmentation
        if key not in self._open:
            place = self.place(protocol)
            download = self.download and place.kind is None and protocol.dataset not in {*FOLDERS, *EMBEDDED}
            try:
                opened = place.open(protocol, download=download, num_workers=self.workers, report=self.report)
            except UserError as error:
                raise (NotOpened(str(error)) if place.kind else error) from None
            self._open = {key: opened}
        dataset = self._open[key]
        if fingerprint is not None and dataset.fingerprint != fingerprint:
            raise UserError(f"{dataset.name} is not its data ({protocol.dataset}): name those with --data")
        if image_size is not None and dataset.shape.image_size != image_size:
            return dataset.with_side(image_size[0])
        return dataset
