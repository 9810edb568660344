"""Files that are no checkpoints, or harmful or damaged ones: each is named as what it is, in a line."""

from __future__ import annotations

import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdbench.errors import UserError
from kdbench.models.checkpoint_files import read_checkpoint


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        read_checkpoint(path)
    text = str(refused.value)
    assert text.isprintable()
    assert str(path) in text
    assert "weights_only" not in text
    assert "torch.load" not in text
    return text


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "is empty"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"\n  <html><body>sign in</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        (b"Not Found\n", "a text file that begins with 'Not Found'"),
        (b"\x1f\x8b\x08\x00rest", "a gzip file"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"\x00\x01\x02\x03" * 9, "no file of torch.save or safetensors"),
        (bytes(10_240), "no file of torch.save or safetensors"),
        (b"\x80\x02junk\x1b[1m", "is damaged or no checkpoint"),
        (b"PK\x03\x04 and no more", "is damaged or no checkpoint"),
    ],
)
def test_the_kind_of_a_file_is_named(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "c.pth").write_bytes(content)
    assert text in refusal(tmp_path / "c.pth")


def test_an_archive_is_named_with_what_is_in_it(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "a.pth")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        tar.add(tmp_path / "a.pth", "run\x1b[1m/best.pth")
    with tarfile.open(tmp_path / "t.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "a.pth", "a.pth")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        for name in ("a.pth", "b.pth", "c.pth", "d.pth"):
            archive.write(tmp_path / "a.pth", name)
    assert "an archive of run\ufffd[1m/best.pth" in refusal(tmp_path / "t.tar")
    assert "an archive of a.pth" in refusal(tmp_path / "t.tar.gz")
    assert "an archive of a.pth, b.pth, c.pth and 1 more" in refusal(tmp_path / "z.zip")


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "is a folder" in refusal(tmp_path)
    assert "there is no checkpoint" in refusal(tmp_path / "nothing.pth")


class Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def legacy(value: object, path: Path) -> None:
    torch.save(value, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("save", [torch.save, legacy])
def test_classes_are_refused_by_name(save: Callable[[object, Path], None], tmp_path: Path) -> None:
    file = tmp_path / "c.pth"
    save({"model": Evil(tmp_path / "made")}, file)
    assert f"class {os.name}.mkdir " in refusal(file)
    save({"model": {"a": torch.ones(2)}, "path": Path("x")}, file)
    assert "an object of class pathlib." in refusal(file)
    save(nn.Sequential(nn.Linear(2, 2)), file)
    assert "a whole pickled network (class torch.nn.modules.container.Sequential)" in refusal(file)
    assert not (tmp_path / "made").exists()


def test_pickles_that_torch_did_not_write_are_not_run(tmp_path: Path) -> None:
    for protocol in (2, 4):
        (tmp_path / "c.pth").write_bytes(pickle.dumps({"model": Evil(tmp_path / "made")}, protocol))
        refusal(tmp_path / "c.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "c.pth", pickle_protocol=4)
    assert "a pickle of protocol 4" in refusal(tmp_path / "c.pth")
    assert not (tmp_path / "made").exists()


def test_a_flipped_byte_is_damage(tmp_path: Path) -> None:
    file = tmp_path / "c.pth"
    torch.save({"a": torch.full((64,), 0.1234)}, file)
    whole = file.read_bytes()
    place = whole.index(torch.full((64,), 0.1234).numpy().tobytes())
    file.write_bytes(whole[: place + 9] + bytes([whole[place + 9] ^ 1]) + whole[place + 10 :])
    assert "is damaged (the checksum of" in refusal(file)
    for size in (10, len(whole) // 2, len(whole) - 30):
        file.write_bytes(whole[:size])
        assert "is damaged or no checkpoint" in refusal(file)


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"a": torch.ones(2)}, tmp_path / "c.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_checkpoint(tmp_path / "c.pth")["a"], torch.ones(2))


def test_code_in_an_archive_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:  # as torch.jit.save writes it
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py", "version"):
            archive.writestr(f"c/{name}", b"\x80\x02}.")
    assert "a TorchScript archive" in refusal(tmp_path / "c.pt")
