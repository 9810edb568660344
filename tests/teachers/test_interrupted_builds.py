"""A build that was interrupted is resumed only if its files hold what its notes say; else it is begun anew."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from test_cache import BOTH, IDENTITY, Counted, asked_for, visited
from torch import Tensor

from kdbench.errors import UserError
from kdbench.net import Part
from kdbench.teachers import cache as teacher_cache
from kdbench.teachers.cache import TeacherCache
from kdbench.teachers.cache_list import list_caches

pytestmark = pytest.mark.once


@pytest.fixture
def partial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a build that was killed after 40 pairs, all of them noted."""
    monkeypatch.setattr(teacher_cache, "_SAVE_EVERY", 0.0)
    with pytest.raises(RuntimeError, match="killed"):
        TeacherCache(tmp_path, IDENTITY).build(visited(), BOTH, Counted(fail_after=60), batch=10)
    (folder,) = (tmp_path / teacher_cache.FOLDER).glob("*/*.partial")
    return folder


def build_again(runs: Path) -> list[int]:
    """Build the cache to its end; check what it holds, and return what the teacher was asked for."""
    cache, teacher, pairs = TeacherCache(runs, IDENTITY), Counted(), visited()
    assert cache.build(pairs, BOTH, teacher, batch=10)
    asked = asked_for(teacher, 10)
    for opened in (cache, TeacherCache(runs, IDENTITY)):
        for part in BOTH:
            assert torch.equal(opened.read(pairs, part), teacher(torch.from_numpy(pairs))[part])
    assert [(info.segments, info.unfinished) for info in list_caches(runs)] == [(1, 0)]
    return asked


def test_what_is_noted_is_not_computed_again(partial: Path, tmp_path: Path) -> None:
    assert len(build_again(tmp_path)) == len(visited()) - 40


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def clear(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:128] + bytes(len(content) - 128))


def change_the_header(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"<f4", b"<i4"))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("part", BOTH)
@pytest.mark.parametrize("damage", [cut, flip, clear, change_the_header, empty, Path.unlink])
def test_a_file_that_lost_or_changed_bytes_is_written_anew(
    damage: Callable[[Path], None], part: Part, partial: Path, tmp_path: Path
) -> None:
    damage(partial / f"{part}.npy")
    assert build_again(tmp_path) == visited().tolist()


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
def test_the_pairs_are_written_each_time(damage: Callable[[Path], None], partial: Path, tmp_path: Path) -> None:
    damage(partial / "pairs.npy")
    assert len(build_again(tmp_path)) == len(visited()) - 40


@pytest.mark.parametrize(
    "notes",
    [
        *("", "{}", "[]", "null", "text", "[" * 100_000, "\x00\xff", '{"done": 40}', '{"done": 40, "sha256": []}'),
        *(f'{{"done": {done}}}' for done in ("NaN", "-5", "0", "1e3", "Infinity", "100000000", '"40"', "null", "true")),
    ],
)
def test_notes_that_cannot_be_read_begin_the_build_anew(notes: str, partial: Path, tmp_path: Path) -> None:
    progress = partial / "progress.json"
    hashes = json.loads(progress.read_bytes())["sha256"]
    if notes.startswith('{"done"') and "sha256" not in notes and notes != '{"done": 40}':
        notes = f'{notes[:-1]}, "sha256": {json.dumps(hashes)}}}'
    progress.write_text(notes, encoding="latin-1")
    assert build_again(tmp_path) == visited().tolist()


def test_notes_that_are_ahead_of_the_files_begin_the_build_anew(partial: Path, tmp_path: Path) -> None:
    """As where a folder is copied while it is being written."""
    progress = partial / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_bytes()) | {"done": 50}))
    assert build_again(tmp_path) == visited().tolist()


class Meddling(Counted):
    """A teacher beside which something else changes the files, before the last batch."""

    def __init__(self, folder: Path, damage: Callable[[Path], None], name: str) -> None:
        super().__init__()
        self.folder, self.damage, self.name = folder, damage, name

    def __call__(self, pairs: Tensor) -> Mapping[Part, Tensor]:
        done = json.loads((self.folder / "progress.json").read_bytes())["done"]
        if done >= len(visited()) - 10:
            self.damage(self.folder / self.name)
        return super().__call__(pairs)


@pytest.mark.parametrize("name", ["logits.npy", "pairs.npy"])
def test_files_that_change_while_they_are_written_make_no_segment(name: str, partial: Path, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path, IDENTITY)
    with pytest.raises(UserError, match="was changed by something else"):
        cache.build(visited(), BOTH, Meddling(partial, clear, name), batch=10)
    assert not list(cache.folder.glob("*/segment.json"))
    build_again(tmp_path)


def test_a_segment_without_its_description_is_built_again(tmp_path: Path) -> None:
    build_again(tmp_path)
    (description,) = (tmp_path / teacher_cache.FOLDER).glob("*/*/segment.json")
    description.unlink()
    assert build_again(tmp_path) == visited().tolist()


@pytest.mark.parametrize("name", ["pairs.npy", "logits.npy", "segment.json"])
def test_a_file_that_no_disk_holds_is_damaged_at_once(name: str, tmp_path: Path) -> None:
    build_again(tmp_path)
    (file,) = (tmp_path / teacher_cache.FOLDER).glob(f"*/*/{name}")
    os.truncate(file, 2**40)
    with pytest.raises(UserError, match="is damaged"):
        TeacherCache(tmp_path, IDENTITY)


@pytest.mark.parametrize("change", [{"sha256": {}}, {"dtypes": {"logits": "int32"}}, {"dtypes": {"../x": "float32"}}])
def test_a_description_that_leaves_something_unchecked_is_damaged(change: dict[str, object], tmp_path: Path) -> None:
    build_again(tmp_path)
    (description,) = (tmp_path / teacher_cache.FOLDER).glob("*/*/segment.json")
    description.write_text(json.dumps(json.loads(description.read_bytes()) | change))
    with pytest.raises(UserError, match="is damaged"):
        TeacherCache(tmp_path, IDENTITY)


def test_a_file_that_cannot_grow_is_one_line_though_closing_it_fails_too(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (128 + 8 * len(visited()), limits[1]))  # the pairs, but not the logits
    try:
        with pytest.raises(UserError, match=r"cannot write .*: the file would exceed the size limit"):
            TeacherCache(tmp_path, IDENTITY).build(visited(), BOTH, Counted(), batch=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    build_again(tmp_path)
