"""Systems that kdbench does not run on get one line."""

from __future__ import annotations

import signal
import sys

import pytest
from cells import Typed

import kdbench
from kdbench.errors import UserError

LINE = "kdbench runs on Linux and macOS, not on Windows: on Windows, install it in the Windows Subsystem for Linux"


@pytest.mark.parametrize("missing", ["fcntl", "resource", "SIGUSR2"])
@pytest.mark.parametrize("words", [["list", "networks"], ["--help"], ["train"], []])
def test_windows_is_one_line(missing: str, words: list[str], typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    if missing == "SIGUSR2":
        monkeypatch.delattr(signal, missing)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr("platform.system", lambda: "Windows")
    assert typed(*words) == (2, "", f"kdbench: {LINE}\n")
    with pytest.raises(UserError) as refused:
        _ = kdbench.train
    assert str(refused.value) == LINE
