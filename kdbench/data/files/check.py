"""Read and decode every image of a listing, to find the broken ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from torch.utils.data import Dataset

from kdbench.data.decoding.decode import Files, Unusable, quietly, rgb
from kdbench.data.decoding.processes import Processes
from kdbench.errors import UserError
from kdbench.utils.text import one_line

_BATCH = 32
"""Images that a process decodes before it reports."""


def faults(listing: Files, num_workers: int) -> Iterator[str | None]:
    """Decode each image in turn, and yield what is wrong with it, with its name; None for an image that is fine.

    Parameters
    ----------
    num_workers
        Processes beside this one; with 0 of them, this one decodes.

    Raises
    ------
    UserError
        A process was ended from outside.
    """
    batches = [range(first, min(first + _BATCH, len(listing))) for first in range(0, len(listing), _BATCH)]
    processes = Processes(_Faults(listing), batches, num_workers)
    try:
        for batch in processes.results():
            yield from batch
    except ChildProcessError as error:
        raise UserError(f"{error}; type the same command to check again") from None
    finally:
        processes.close()


@final
class _Faults(Dataset["list[str | None]"]):
    """What is wrong with images, by their positions."""

    def __init__(self, listing: Files) -> None:
        self._listing = listing

    def __getitem__(self, images: range) -> list[str | None]:
        return [self._fault(index) for index in images]

    def _fault(self, index: int) -> str | None:
        name = self._listing.name(index)
        try:
            with quietly():
                rgb(self._listing.read(index))
        except Unusable as error:
            return f"{name} {error}"
        except UserError as error:
            return str(error)
        except OSError as error:
            return f"{name} cannot be read: {error.strerror or one_line(error)}"
        return None
