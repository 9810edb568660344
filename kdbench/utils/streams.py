"""Random streams: every random choice has its own, derived from the seed and a purpose.

A consumer that draws more numbers changes nothing for another, and a stream can be opened again at any time without
replaying what came before it. All purposes, with what follows them:

=====================================  ===========================================================================
``"init"``, ``WHAT``                   initial weights of the student, a teacher to be loaded, or a method's heads
``"method"``, epoch, step              a method's own draws (``Batch.generator``) in a step
``"step"``, epoch, step                torch's global generator in a step: dropout and the like
``"order"``, epoch                     the order of the training images
``"flip"``, epoch                      which images are mirrored
``"crop"``, epoch, row                 crop positions of one view
``"strong"``, epoch, row               one strongly augmented view
``"crop-box"``, image, crop            box and flip of an image file's crop with a number; of seed 0 in every run
``"strong-box"``, epoch, image, row    box and flip of a strongly augmented view of an image file
``"strong-image"``, epoch, image, row  the strong operations on it
``"digits"``                           the split of the embedded digits
=====================================  ===========================================================================

The two boxes are keys of SHA-512 in counter mode; the others are seeds of PyTorch's generators.
Epochs are those of the protocol, counted from 1; pre-training counts down to it, so that its last epoch is 0.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator

import torch


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Return the seed of one stream, in [0, 2**63).

    Parameters
    ----------
    seed
        The seed of the run.
    *purpose
        What the stream is for, e.g. ``"order", epoch``. Texts and numbers are told apart, and so are their
        boundaries: ``("a", "b")`` is another stream than ``("ab",)``, ``1`` another than ``"1"``.

    Raises
    ------
    TypeError
        For a part that is neither text nor whole number: it might not look the same in another process.
    """
    parts = [seed, *purpose]
    if not all(type(part) in (str, int) for part in parts):
        raise TypeError(f"a stream is named by texts and whole numbers, not by {parts}")
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, *purpose: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a generator at the beginning of the stream ``(seed, *purpose)``.

    The same stream gives other numbers on another kind of device. PyTorch's CPU generator reads only the low
    32 bits of the seed, so of n CPU streams two coincide with probability about n**2 / 2**33.
    """
    return torch.Generator(device).manual_seed(stream_seed(seed, *purpose))


@contextlib.contextmanager
def seeded(seed: int, *purpose: str | int) -> Iterator[None]:
    """Make PyTorch's global CPU generator draw from the stream ``(seed, *purpose)`` inside the context."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, *purpose))
        yield
