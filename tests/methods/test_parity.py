"""Every stored result of the reference implementations, against what the adapter of its folder computes.

An adapter is ``tests/methods/parity/NAME.py`` for ``tests/parity/NAME``. Whatever lies in the folder is compared.
"""

from __future__ import annotations

import importlib
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from parity_files import FOLDER, Case, compare, load

pytestmark = [pytest.mark.once, pytest.mark.numerical]

ADAPTERS = Path(__file__).parent / "parity"
FOLDERS = sorted(path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "models")
"""All but those of networks; see tests/models."""


def adapter_of(folder: str) -> ModuleType:
    if not (ADAPTERS / f"{folder}.py").is_file():
        pytest.fail(f"tests/parity/{folder} has no adapter: write tests/methods/parity/{folder}.py", pytrace=False)
    return importlib.import_module(f"parity.{folder}")


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_has_an_adapter_that_excuses_only_what_is_there(folder: str) -> None:
    files = sorted((FOLDER / folder).iterdir())
    assert files
    assert {file.suffix for file in files} == {".npz"}
    results = [f"{file.stem}/{key}" for file in files for key in load(folder, file.stem).results]
    for pattern, reason in getattr(adapter_of(folder), "UNMET", {}).items():
        assert any(fnmatchcase(result, pattern) for result in results), f"nothing is named {pattern}"
        assert reason


def test_every_adapter_has_a_folder() -> None:
    adapters = {path.stem for path in ADAPTERS.glob("*.py") if not path.name.startswith("_")}
    assert adapters <= set(FOLDERS)


@pytest.mark.parametrize(
    ("folder", "file"), [(folder, file.stem) for folder in FOLDERS for file in sorted((FOLDER / folder).glob("*.npz"))]
)
def test_every_stored_result_is_met(folder: str, file: str) -> None:
    adapter, case = adapter_of(folder), load(folder, file)
    compare(case, adapter.computed(case), getattr(adapter, "UNMET", {}))


def stored(**arrays: float) -> Case:
    named = {key.replace("_", ".", 1): np.array([value]) for key, value in arrays.items()}
    return Case("somebody/case", named, {"rtol": 1e-9})


def test_a_result_that_nothing_computes_fails_unless_it_is_excused() -> None:
    case = stored(in_x=1.0, hp_T=4.0, out_total=2.0, grad_x=3.0)
    total = [("out.total", torch.tensor([2.0])), ("out.unknown", 0.0)]
    with pytest.raises(AssertionError, match=r"nothing computes grad\.x; yield it"):
        compare(case, total)
    compare(case, total, {"case/grad.*": "a reason"})
    with pytest.raises(AssertionError, match=r"out\.total is computed and in UNMET"):
        compare(case, total, {"*": "a reason"})


def test_a_result_is_met_to_its_tolerance_each_time_that_it_is_computed() -> None:
    case = stored(out_total=2.0)
    compare(case, [("out.total", 2.0 + 1e-9), ("out.total", 2.0 - 1e-9)])
    for wrong in (2.0 + 3e-9, float("nan"), torch.ones(2)):
        with pytest.raises(AssertionError, match=r"somebody/case: out\.total"):
            compare(case, [("out.total", 2.0), ("out.total", wrong)])


def test_a_folder_without_an_adapter_is_one_clear_line() -> None:
    with pytest.raises(
        pytest.fail.Exception, match="tests/parity/nobody has no adapter: write tests/methods"
    ) as failure:
        adapter_of("nobody")
    assert "\n" not in str(failure.value)
