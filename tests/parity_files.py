"""Reads and compares the stored reference values under tests/parity (see the README there)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "parity"
INPUTS = ("in.", "hp.", "w.", "buf_before.")
"""Prefixes of arrays that a case starts from; every other array is a result."""


@dataclass(frozen=True)
class Case:
    """One stored case: arrays by name, and how closely they must be met."""

    name: str
    arrays: dict[str, np.ndarray]
    meta: dict[str, Any]

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if "f32" in self.name or self.meta.get("dtype") == "float32" else torch.float64

    @property
    def file(self) -> str:
        return self.name.partition("/")[2]

    @property
    def results(self) -> set[str]:
        """Names of the arrays that the reference computed."""
        return {key for key in self.arrays if not key.startswith(INPUTS)}

    def tensor(self, key: str, *, grad: bool = False) -> torch.Tensor:
        """An array as a tensor, floats in the case's dtype."""
        value = torch.from_numpy(np.array(self.arrays[key]))
        if value.is_floating_point():
            value = value.to(self.dtype).requires_grad_(grad)
        return value

    def value(self, key: str) -> float:
        """A stored scalar."""
        return float(self.arrays[key].item())

    def group(self, prefix: str, *, grad: bool = False) -> dict[str, torch.Tensor]:
        """All tensors below a prefix, named without it."""
        return {k.removeprefix(prefix): self.tensor(k, grad=grad) for k in self.arrays if k.startswith(prefix)}

    def check(self, key: str, actual: torch.Tensor | float | None) -> None:
        """Assert max|a - ref| <= rtol * max|ref|, with the floors of parity/README.md."""
        assert actual is not None, f"{self.name}: {key} was not computed"
        assert key not in self.meta.get("nonfinite_arrays", []), f"{self.name}: {key} is not finite in the reference"
        reference = np.asarray(self.arrays[key], dtype=np.float64)
        value = torch.as_tensor(actual, dtype=torch.float64).detach().cpu().numpy()
        assert value.shape == reference.shape or value.size == reference.size == 1, (
            f"{self.name}: {key} has shape {value.shape}, not {reference.shape}"
        )
        floor = 1e-6 if self.dtype == torch.float32 else 1e-12
        if key.startswith("grad"):
            floor *= max([np.abs(v).max() for k, v in self.arrays.items() if k.startswith("grad") and v.size] + [1.0])
        limit = max(self.meta["rtol"] * np.abs(reference).max(initial=0.0), floor)
        error = np.abs(value.reshape(reference.shape) - reference).max(initial=0.0)
        assert error <= limit, f"{self.name}: {key} is off by {error:.3e}, allowed {limit:.3e}"


def compare(
    case: Case, values: Iterable[tuple[str, torch.Tensor | float]], unmet: Mapping[str, str] | None = None
) -> None:
    """Assert that ``values`` meet every result of the case but ``unmet``: patterns of FILE/ARRAY, with reasons."""
    computed = set()
    for key, value in values:
        if key in case.arrays:
            case.check(key, value)
            computed.add(key)
    excused = {
        key for key in case.results if any(fnmatchcase(f"{case.file}/{key}", pattern) for pattern in unmet or ())
    }
    assert not excused & computed, f"{case.name}: {', '.join(sorted(excused & computed))} is computed and in UNMET"
    missing = sorted(case.results - computed - excused)
    assert not missing, (
        f"{case.name}: nothing computes {', '.join(missing)}; yield it, or name it in UNMET with the reason"
    )


def load(method: str, name: str) -> Case:
    """Read tests/parity/METHOD/NAME.npz."""
    with np.load(FOLDER / method / f"{name}.npz", allow_pickle=False) as file:
        arrays = {k: file[k] for k in file.files}
    return Case(f"{method}/{name}", arrays, json.loads(str(arrays.pop("meta"))))


def names(method: str) -> list[str]:
    """All case names of a method."""
    found = sorted(p.stem for p in (FOLDER / method).glob("*.npz"))
    assert found, f"no parity files for {method}"
    return found


def formula(index: np.ndarray, k: int) -> np.ndarray:
    """The hash u(i, k) in [-1, 1) that defines weights and images of the models and integration files."""
    mask = np.uint64(0xFFFFFFFF)
    h = (index.astype(np.uint64) * np.uint64(2654435761) + np.uint64((k + 1) * 40503 + 12345)) & mask
    h ^= h >> np.uint64(15)
    h = (h * np.uint64(2246822519)) & mask
    h ^= h >> np.uint64(13)
    h = (h * np.uint64(3266489917)) & mask
    h ^= h >> np.uint64(16)
    return h.astype(np.float64) / 2.0**32 * 2.0 - 1.0


def formula_images(shape: tuple[int, ...], k: int) -> torch.Tensor:
    """Formula-defined images, float32."""
    values = 1.5 * formula(np.arange(np.prod(shape)), k)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def fill_by_formula(state: dict[str, torch.Tensor], k0: int, bn_scale: float = 1.0) -> dict[str, torch.Tensor]:
    """State dict of the same keys and shapes with formula-defined entries, rounded to float32."""
    filled = {}
    for j, (key, old) in enumerate(state.items()):
        u = formula(np.arange(old.numel()), k0 + j).reshape(tuple(old.shape))
        if key.endswith("num_batches_tracked"):
            filled[key] = torch.zeros_like(old)
            continue
        if key.endswith("running_mean"):
            u = 0.1 * u
        elif key.endswith("running_var"):
            u = 1 + 0.5 * np.abs(u)
        elif old.ndim >= 2:
            u = np.sqrt(6 / (old.numel() / old.shape[0])) * u
        elif key.endswith("weight"):
            u = bn_scale * (1 + 0.2 * u)
        else:
            u = 0.1 * u
        filled[key] = torch.from_numpy(u.astype(np.float32)).to(old.dtype)
    return filled
