"""Read and decode every image of a listing, to find the broken ones."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import final

from torch.utils.data import DataLoader, Dataset

from kdbench.data.decode import Unusable, quietly, rgb
from kdbench.data.listing import Listing
from kdbench.errors import UserError
from kdbench.utils.text import one_line

_BATCH = 32
"""Images that a process decodes before it reports."""


def faults(listing: Listing, num_workers: int) -> Iterator[str | None]:
    """Decode each image in turn, and yield what is wrong with it, with its name; None for an image that is fine.

    Parameters
    ----------
    num_workers
        Processes beside this one; with 0 of them, this one decodes.
    """
    loader = DataLoader(_Faults(listing), batch_size=_BATCH, num_workers=num_workers, collate_fn=list)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork beside threads
        batches = iter(loader)
    for batch in batches:
        yield from batch


@final
class _Faults(Dataset["str | None"]):
    def __init__(self, listing: Listing) -> None:
        self._listing = listing

    def __len__(self) -> int:
        return len(self._listing)

    def __getitem__(self, index: int) -> str | None:
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
