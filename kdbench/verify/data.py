"""The data sets that cells were trained on, opened where the user names them."""

from __future__ import annotations

from collections.abc import Sequence
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
    """Data sets by what protocols say of them; those of the last protocol stay open, as the next is often equal.

    Parameters
    ----------
    data
        What ``--data`` takes, each.

    Raises
    ------
    UserError
        One names nothing.
    """

    data: Sequence[str]
    download: bool
    workers: int | None
    report: Report
    _places: list[DataPlace] = field(default_factory=list, init=False)
    _open: dict[object, Dataset] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._places = [DataPlace.parse(word) for word in self.data]
        for place in self._places:
            if place.kind is None and not self.download and not Path(place.path).is_dir():
                raise UserError(f"there is no folder {place.path}: name the folder of data sets with --data DIR")
        if self.workers is not None:
            with argument("--workers"):
                whole_number(self.workers, 0, MAX_WORKERS)

    def places(self, protocol: Protocol) -> list[DataPlace]:
        """Return where a protocol's data may be.

        Raises
        ------
        UserError
            They have no name by which they could be found, and the user names none of their kind.
        """
        kind, colon, _ = protocol.dataset.partition(":")
        if not colon and kind in EMBEDDED:
            return [DataPlace()]
        places = [place for place in self._places if place.kind == kind or (place.kind is None and not colon)]
        if colon and not places:
            word = "npz:FILE" if kind == "npz" else f"{kind}:DIR"
            raise UserError(f"its data are {protocol.dataset}: name them with --data {word}")
        return places or [DataPlace()]

    def open(
        self, protocol: Protocol, image_size: tuple[int, int] | None, fingerprint: str | None
    ) -> tuple[Dataset, DataPlace]:
        """Open the data of a protocol as a network saw them.

        Parameters
        ----------
        image_size
            Height and width of its images; those of the data where it is None.
        fingerprint
            Hash that the data must have; None where it is not known.

        Returns
        -------
        tuple
            The data, and where they are.

        Raises
        ------
        NotOpened
            The user named them, and they cannot be opened.
        UserError
            They are not here, or what is here are other data.
        """
        places = self.places(protocol)
        keys = [(place, protocol.dataset, protocol.rules.augmentation) for place in places]
        self._open = {key: self._open[key] for key in keys if key in self._open}
        for key, place in zip(keys, places, strict=True):
            if key not in self._open:
                self._open[key] = self._opened(place, protocol)
            dataset = self._open[key]
            if place.rule(dataset) in (None, protocol.dataset) and fingerprint in (None, dataset.fingerprint):
                other_size = image_size is not None and dataset.shape.image_size != image_size
                return dataset.with_side(image_size[0]) if other_size and image_size else dataset, place
        names = " and ".join(dataset.name for dataset in self._open.values())
        raise UserError(f"{names} {'is' if len(keys) == 1 else 'are'} not its data: name those with --data")

    def _opened(self, place: DataPlace, protocol: Protocol) -> Dataset:
        download = self.download and place.kind is None and protocol.dataset not in {*FOLDERS, *EMBEDDED}
        try:
            return place.open(protocol, download=download, num_workers=self.workers, report=self.report)
        except UserError as error:
            raise (NotOpened(str(error)) if place.kind else error) from None
