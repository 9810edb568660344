"""``kdbench cache`` on caches and teachers that it cannot read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cells import Typed

from kdbench.errors import UserError
from kdbench.net import Part
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_folder import USE_LOCK, Identity
from kdbench.teachers.cache_list import list_caches

PARTS: tuple[Part, ...] = ("logits",)
DAMAGES = pytest.mark.parametrize("content", ["", "{}", "[]", "null", "[" * 100_000, '{"network": 3}'])


def make_cache(weights: str = "w") -> TeacherCache:
    """A cache in runs/ of a teacher that does not exist."""
    identity = Identity(network="resnet8", weights=weights, data="d", mean=(0.5,), std=(1.0,), pad=0, precision="fp32")
    cache = TeacherCache(Path("runs"), identity)
    cache.build(np.arange(9), PARTS, lambda pairs: {"logits": torch.ones(len(pairs), 2)}, batch=4)
    return cache


@DAMAGES
def test_a_cache_whose_description_cannot_be_read_is_kept(content: str, typed: Typed) -> None:
    name = make_cache().folder.name
    Path("runs/teacher-cache", name, "identity.json").write_text(content)
    code, out, err = typed("cache", "list")
    assert (code, err) == (0, "")
    assert "unreadable" in out
    code, out, err = typed("cache", "prune")
    assert (code, err) == (0, "")
    assert f"{name}: kept, since its teacher is not known" in out.replace("\n", " ")
    assert list_caches(Path("runs"))[0].pairs == 9
    assert typed("cache", "prune", name)[0] == 0
    assert list_caches(Path("runs")) == []


def test_a_description_of_another_cache_is_none(typed: Typed) -> None:
    """Its teacher, which does not exist, is not this cache's."""
    ours, other = make_cache("w").folder, make_cache("x").folder
    (ours / "identity.json").write_bytes((other / "identity.json").read_bytes())
    assert typed("cache", "prune")[0] == 0
    assert [cache.name for cache in list_caches(Path("runs"))] == [ours.name]


@DAMAGES
def test_a_segment_that_cannot_be_read_is_listed(content: str, typed: Typed) -> None:
    (file,) = make_cache().folder.glob("*/segment.json")
    file.write_text(content)
    file.with_name("pairs.npy").write_text("")
    code, out, err = typed("cache", "list")
    assert (code, err) == (0, "")
    assert "resnet8" in out
    code, out, err = typed("cache", "prune")
    assert (code, err) == (0, "")
    assert list_caches(Path("runs")) == []


def test_a_cache_is_no_orphan_while_a_card_cannot_be_read(typed: Typed) -> None:
    make_cache()
    card = Path("runs/digits-demo-v1/teachers/resnet8-12345678/teacher.json")
    card.parent.mkdir(parents=True)
    card.write_text("{")
    code, out, _ = typed("teacher", "list")
    assert code == 0
    assert "teacher.json is damaged" in out.replace("\n", " ")
    code, out, _ = typed("cache", "prune")
    assert code == 0
    assert "kept" in out
    assert len(list_caches(Path("runs"))) == 1
    card.unlink()
    assert typed("cache", "prune")[0] == 0
    assert list_caches(Path("runs")) == []


def test_a_cache_of_somebody_else_is_read(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache()
    opened = os.open

    def refuse(path: Any, flags: int, *rest: Any) -> int:
        if Path(path).name == USE_LOCK:
            raise PermissionError(13, "Permission denied")
        return opened(path, flags, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", refuse)
        assert not TeacherCache(Path("runs"), cache.identity).missing(np.arange(9), PARTS)["logits"].size
    Path(cache.folder / USE_LOCK).unlink()
    Path(cache.folder / USE_LOCK).mkdir()
    assert not TeacherCache(Path("runs"), cache.identity).missing(np.arange(9), PARTS)["logits"].size


def test_a_cache_that_must_not_be_deleted_is_one_line(typed: Typed, monkeypatch: pytest.MonkeyPatch) -> None:
    make_cache()

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("shutil.rmtree", refuse)
    code, _, err = typed("cache", "prune", "--all")
    assert code == 2
    assert "permission denied: ask its owner" in err


def test_an_empty_file_of_pairs_is_damage(typed: Typed) -> None:
    cache = make_cache()
    (file,) = cache.folder.glob("*/pairs.npy")
    file.write_bytes(b"")
    with pytest.raises(UserError, match="is damaged"):
        TeacherCache(Path("runs"), cache.identity)
