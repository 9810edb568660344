"""Small data sets as arrays and files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdbench.errors import UserError

RNG = np.random.default_rng(0)


def small_arrays() -> dict[str, Any]:
    """12 training and 6 test images of 4 x 5 pixels, in 3 classes."""
    return {
        "train_images": np.arange(12 * 4 * 5 * 3, dtype=np.uint8).reshape(12, 4, 5, 3),
        "train_labels": np.array([0, 1, 2, 2, 1, 0, 0, 0, 1, 1, 2, 2]),
        "test_images": np.arange(6 * 4 * 5 * 3, dtype=np.uint8).reshape(6, 4, 5, 3) + 1,
        "test_labels": np.array([2, 2, 1, 1, 0, 0]),
    }


def write_npz(folder: Path, **arrays: Any) -> Path:
    path = folder / "small.npz"
    np.savez_compressed(path, **arrays)
    return path


def message(call: Callable[[], object]) -> str:
    """The one line that a user sees."""
    with pytest.raises(UserError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    return text
