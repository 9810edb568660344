"""Read and write data sets as npz files: nothing is unpickled, and sizes are looked at before memory is taken."""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from kdbench.data.arrays import RENUMBERINGS, Arrays, Renumbering, array_names, require_arrays
from kdbench.errors import UserError
from kdbench.utils.files import write_atomic
from kdbench.utils.text import one_line, size

NPZ: Final = "npz:"
"""What stands before the name of a file in place of a data set's name."""
LABELS: Final = ",labels="
"""What stands behind it, before the rule by which its labels are numbered anew."""
_CLASS_NAMES = "class_names"
_COPIES = 3
"""How many times the bytes of its arrays a data set takes in memory, about: read, and ready to be augmented."""


def npz_word(word: str) -> tuple[str, Renumbering | None] | None:
    """Split ``npz:FILE`` or ``npz:FILE,labels=RULE``, with npz in capitals or not; None for any other word.

    Raises
    ------
    UserError
        There is no such rule.
    """
    kind, colon, rest = word.partition(":")
    if not colon or kind.strip().lower() != NPZ.removesuffix(":"):
        return None
    file, separator, rule = rest.rpartition(LABELS)
    if not separator:
        return rest, None
    if rule not in RENUMBERINGS:
        raise UserError(f"unknown rule {rule!r} in {word!r}: {LABELS[1:]} takes {' or '.join(RENUMBERINGS)}")
    return file, RENUMBERINGS[RENUMBERINGS.index(rule)]


def find_npz(file: str, folder: Path) -> Path:
    """Return the path of a file that is named from the current folder or else from ``folder``.

    Raises
    ------
    UserError
        It is in neither.
    """
    remedy = "type npz:FILE with its path, or --data DIR with its folder"
    try:
        places = [Path(file).expanduser(), folder / file]
        path = next((place for place in places if place.is_file()), None)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{NPZ}{file!r} names no file ({one_line(error)}): {remedy}") from None
    if path is None:
        looked = " or ".join(dict.fromkeys(str(place.absolute()) for place in places))
        raise UserError(f"there is no file {looked}: {remedy}")
    return path


def read_npz(path: Path) -> tuple[Arrays, tuple[str, ...]]:
    """Read the arrays of a data set, and return the names of arrays that it has no use for as well.

    Raises
    ------
    UserError
        The file is damaged, lacks an array, holds Python objects, or does not fit into memory.
    """
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise zipfile.BadZipFile("it is not an .npz file, or only the beginning of one")
            with np.load(path, allow_pickle=False) as archive:
                names = [*array_names(archive.files)]
                require_arrays(str(path), archive.files)
                names += [_CLASS_NAMES] if _CLASS_NAMES in archive else []
                _require_memory(path, archive.zip, names)
                return {name: np.asarray(archive[name]) for name in names}, tuple(sorted({*archive.files} - {*names}))
    except UserError:
        raise
    except MemoryError:
        raise UserError(f"{path} does not fit into memory: give fewer or smaller images") from None
    except (ValueError, OSError, RuntimeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        # NumPy refuses object arrays: unpickling them could run any code.
        reason = "it holds Python objects" if "Object arrays" in str(error) else one_line(error)
        raise UserError(f"{path} cannot be read ({reason}): write plain arrays with numpy.savez_compressed") from None


def write_npz(path: Path, arrays: Arrays) -> None:
    """Write arrays as a file for ``npz:FILE``, as a whole or not at all.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomic(path, buffer.getvalue(), "give another path")


def _require_memory(path: Path, archive: zipfile.ZipFile, names: Collection[str]) -> None:
    """Raise an error for arrays that are larger than the file says, or than this process may have."""
    total = 0
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in names:
            with archive.open(member) as file:
                num_bytes = _array_bytes(file)
            if num_bytes > member.file_size:
                raise ValueError(f"{name} is said to take {size(num_bytes)}, but has {size(member.file_size)}")
            total += max(num_bytes, member.file_size)
    require_memory(str(path), total)


def require_memory(what: str, num_bytes: int) -> None:
    """Raise ``UserError`` for images that take more memory than this process may have."""
    if _COPIES * num_bytes > (limit := _memory()):
        raise UserError(
            f"{what} unpacks to {size(num_bytes)}, and training on it takes about {_COPIES} times as much memory, but "
            f"this process may have {size(limit)}: give fewer or smaller images"
        )


def _array_bytes(file: IO[bytes]) -> int:
    """Return how many bytes the header of an array promises; 0 where it is no array, which is said elsewhere."""
    magic = file.read(np.lib.format.MAGIC_LEN)
    if magic[:-2] != np.lib.format.MAGIC_PREFIX:
        return 0
    readers: dict[int, Any] = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    if magic[-2] not in readers:
        raise ValueError(f"an array of format {magic[-2]}, which plain arrays do not have")
    shape, _, dtype = readers[magic[-2]](file)
    num_bytes: int = math.prod(shape) * dtype.itemsize
    return num_bytes


def _memory() -> int:
    """Return how many bytes this process may have: those of the machine, or less where a limit is set."""
    return min(_memory_limits())


def _memory_limits() -> Iterator[int]:
    import resource  # noqa: PLC0415 - the only use here, and absent where kdbench says that it does not run

    yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        yield soft
    with contextlib.suppress(OSError, ValueError):  # a container's limit; "max" if there is none
        yield int(Path("/sys/fs/cgroup/memory.max").read_text())
