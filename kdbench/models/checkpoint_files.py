"""Read a checkpoint file of others, whatever it turns out to be, without running code of it."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from kdbench.errors import UserError
from kdbench.utils.text import printable

_STATE_DICT_ALONE = "save its state dict alone, torch.save({'model': net.state_dict()}, FILE)"
_AGAIN = "fetch it again"
_HEAD = 512
"""Bytes from which the kind of a file is told."""
_KINDS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", "a git-lfs pointer, not the file itself: type 'git lfs pull' where it came from"),
    (b"\x1f\x8b", "a gzip file: unpack it with gunzip, then name the checkpoint"),
    (b"BZh", "a bzip2 file: unpack it with bunzip2, then name the checkpoint"),
    (b"\xfd7zXZ", "an xz file: unpack it with unxz, then name the checkpoint"),
    (b"\x28\xb5\x2f\xfd", "a zstd file: unpack it with unzstd, then name the checkpoint"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it, then name the checkpoint in it"),
    (b"Rar!", "a RAR archive: unpack it, then name the checkpoint in it"),
    (b"\x89HDF", f"an HDF5 file, such as Keras writes: load it there and {_STATE_DICT_ALONE}"),
    (b"\x93NUMPY", f"a NumPy array: {_STATE_DICT_ALONE}"),
    (b"GGUF", f"a GGUF file: {_STATE_DICT_ALONE}"),
)
"""How files begin that are taken for checkpoints, and what they are."""


def read_checkpoint(path: Path) -> Any:
    """Return what a checkpoint holds: tensors and plain values. Reads safetensors and files of torch.save.

    Raises
    ------
    UserError
        There is no such file, it is damaged, it is no checkpoint, or reading it could run code.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name the checkpoint in it")
    if not path.is_file():
        raise UserError(f"there is no checkpoint {path}")
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        return _read(path, head)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or type(error).__name__})") from None
    except Exception as error:  # a damaged file may raise anything
        raise UserError(f"{path} is damaged or no checkpoint ({type(error).__name__}): {_AGAIN}") from None


def _read(path: Path, head: bytes) -> Any:
    if not head:
        raise UserError(f"{path} is empty: {_AGAIN}")
    if path.suffix == ".safetensors" or _is_safetensors(head, path.stat().st_size):
        return safetensors.torch.load_file(path)
    if head.startswith(b"PK"):
        return _read_zip(path)
    if head.startswith(b"\x80"):
        return _unpickle(path)
    with contextlib.suppress(tarfile.TarError, OSError, EOFError, zlib.error), tarfile.open(path) as archive:
        if names := [member.name for member in archive if member.isfile()]:
            raise _archive_error(path, names)
    raise UserError(f"{path} is {_kind(head)}")


def _is_safetensors(head: bytes, size: int) -> bool:
    """Return whether a file begins with the length of a JSON object and that object."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def _kind(head: bytes) -> str:
    """Tell what a file is that is no checkpoint, and what to do about it."""
    for start, kind in _KINDS:
        if head.startswith(start):
            return kind
    if head.lstrip().startswith(b"<"):
        return "a web page, not a checkpoint: open its link in a browser, and save the file behind it"
    text = head.decode("utf-8", errors="ignore")
    if text.isascii() and all(c.isprintable() or c.isspace() for c in text):
        line = (text.strip().splitlines() or [""])[0][:40]
        return f"a text file that begins with {line!r}, not a checkpoint: {_AGAIN}"
    return f"no file of torch.save or safetensors, or a damaged one: {_AGAIN}"


def _archive_error(path: Path, names: list[str]) -> UserError:
    listed = ", ".join(map(printable, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return UserError(f"{path} is an archive of {listed or 'nothing'}: unpack it, then name the checkpoint in it")


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        files = [info for info in archive.infolist() if not info.is_dir()]
        if not any(info.filename.split("/")[1:] == ["data.pkl"] for info in files):
            raise _archive_error(path, [info.filename for info in files])
        if any(info.filename.endswith("/constants.pkl") for info in files):
            raise UserError(f"{path} is a TorchScript archive, which holds code: load it and {_STATE_DICT_ALONE}")
        # torch leaves all checksums 0 where it was told not to compute them.
        damaged = archive.testzip() if any(info.CRC for info in files) else None
        if damaged is not None:
            raise UserError(f"{path} is damaged (the checksum of {printable(damaged)} is wrong): {_AGAIN}")
    return _unpickle(path)


def _unpickle(path: Path) -> Any:
    """Read a file of torch.save."""
    try:
        with torch.serialization.safe_globals(_plain_classes()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickles in a newer protocol than torch's own
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused and b"torch.nn.modules" in path.read_bytes():
            raise UserError(
                f"{path} holds a whole pickled network (class {printable(refused[1])}) and was not loaded, since it "
                f"could run code: {_STATE_DICT_ALONE}"
            ) from None
        if refused:
            raise UserError(
                f"{path} holds an object of class {printable(refused[1])} beside tensors and plain values and was not "
                f"loaded, since it could run code: {_STATE_DICT_ALONE}"
            ) from None
        if "operand 149" in str(error):  # what pickles of protocol 4 and later begin with
            raise UserError(
                f"{path} is a pickle of protocol 4 or later, which is not read, since it could run code: "
                f"{_STATE_DICT_ALONE}"
            ) from None
        raise


def _plain_classes() -> list[Any]:
    """List what checkpoints hold beside weights and what cannot do harm: command lines, NumPy scalars and arrays."""
    scalar, array = np.float64(0).__reduce__()[0], np.empty(0).__reduce__()[0]
    return [
        *(argparse.Namespace, np.dtype, np.ndarray, scalar, array),
        *((scalar, "numpy.core.multiarray.scalar"), (array, "numpy.core.multiarray._reconstruct")),
        *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
    ]
