"""States on disk are whole, and named where they are damaged; writes that fail lose nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import resource
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import torch

from kdbench.errors import UserError
from kdbench.utils import files
from kdbench.utils.checkpoint import load_state, save_state
from kdbench.utils.files import write_atomic

STATE_VALUES = {"step": 3, "weight": torch.arange(5.0)}


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "foreign"])
def test_a_damaged_state_is_named_and_the_one_before_it_is_kept(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "state"
    save_state(path, STATE_VALUES)
    save_state(path, {**STATE_VALUES, "step": 4})
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    path.write_bytes({"truncate": content[:-7], "flip": content, "empty": b"", "foreign": b"hello"}[damage])
    with pytest.raises(UserError, match=r"state is damaged: delete that file to resume from the state before it"):
        load_state(path)
    path.unlink()
    found = load_state(path)
    assert found is not None
    assert found["step"] == 3
    assert torch.equal(found["weight"], STATE_VALUES["weight"])


def test_a_state_that_holds_code_is_never_run(tmp_path: Path) -> None:
    """Even with a right checksum."""

    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "owned"),)

    save_state(tmp_path / "state", {"evil": Evil()})
    with pytest.raises(UserError, match="damaged"):
        load_state(tmp_path / "state")
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space is left"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_a_write_that_fails_leaves_the_old_file(
    code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state"
    save_state(path, STATE_VALUES)
    before = path.read_bytes()

    def refuse(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", refuse)
    with pytest.raises(UserError, match=words):
        save_state(path, {**STATE_VALUES, "step": 4})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_state_beyond_a_limit_is_named_as_the_system_names_it(tmp_path: Path) -> None:
    """Not by what PyTorch makes of an error while it writes."""
    path = tmp_path / "state"
    save_state(path, STATE_VALUES)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, limits[1]))
    try:
        with pytest.raises(UserError, match="the file would exceed the size limit"):
            save_state(path, {"bank": torch.zeros(2**16)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_a_state_is_its_hash_and_what_pytorch_saves_and_is_never_in_memory_a_second_time(tmp_path: Path) -> None:
    """The bytes are those that kdbench has always written."""
    path, state = tmp_path / "state", {"step": 3, "bank": torch.arange(2**21)}
    tracemalloc.start()
    save_state(path, state)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    payload = io.BytesIO()
    torch.save(state, payload)
    digest = hashlib.sha256(payload.getvalue()).hexdigest()
    assert path.read_bytes() == b"kdbench-state-1 " + digest.encode() + b"\n" + payload.getvalue()
    assert peak < state["bank"].nbytes / 4, "memory of Python, where copies of a file's content would lie"
    loaded = load_state(path)
    assert loaded is not None
    assert torch.equal(loaded["bank"], state["bank"])


def test_writing_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(UserError, match="--runs DIR"):
        write_atomic(tmp_path / "runs" / "a" / "b", "text")
