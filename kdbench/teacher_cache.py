"""Teacher outputs for the views that will be visited: each pair of image and view is forwarded once and kept on disk.

What a teacher says depends on its weights, the data, the augmentation and the precision. These are a cache's
identity, and its folder is named by their hash. In the folder lie segments, each of them the pairs that one build
added. A segment is written beside its name and moved there when it is whole; from then on it is only read, through
a memory map. A cache grows by further segments, so a grid that gets more seeds or epochs asks only for what is new::

    runs/teacher-cache/NETWORK-HASH/identity.json
                                    SEGMENT/segment.json  pairs.npy  logits.npy  penultimate.npy

Legend: ``P`` pairs, ``N`` training images.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import shutil
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdbench.cell import safe_name
from kdbench.checkpoint import explain_os_errors, write_json
from kdbench.data.datasets import Dataset
from kdbench.data.views import Augmentation, views
from kdbench.errors import UserError
from kdbench.method import ViewPlan
from kdbench.net import Part
from kdbench.protocol import Protocol
from kdbench.signals import Stop
from kdbench.teachers import TeacherCard

FOLDER = "teacher-cache"
STORED: frozenset[Part] = frozenset({"logits", "penultimate"})
"""The parts that are kept; maps would take hundreds of times the space."""
_VERSION = 1
"""Raised when a view id comes to mean another image, or the files another thing."""
_IDENTITY, _SEGMENT, _PROGRESS, _PAIRS = "identity.json", "segment.json", "progress.json", "pairs.npy"
_PARTIAL = ".partial"
_SAVE_EVERY = 10.0
"""Seconds between two notes of how far a build is."""

Pairs = npt.NDArray[np.int64]
Forward = Callable[[Tensor], Mapping[Part, Tensor]]
"""Pairs ``(B,)`` on the CPU to parts ``(B, width)``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """All that a teacher's outputs depend on."""

    network: str
    weights: str
    """Hash of the teacher's weights."""
    data: str
    """Fingerprint of the data set."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int
    precision: str
    version: int = _VERSION

    @classmethod
    def of(cls, card: TeacherCard, protocol: Protocol, dataset: Dataset) -> Identity:
        """The identity of a teacher's outputs under a protocol."""
        return cls(
            network=card.network,
            weights=card.weights,
            data=dataset.fingerprint,
            mean=protocol.mean,
            std=protocol.std,
            pad=protocol.pad,
            precision=protocol.precision,
        )

    @property
    def name(self) -> str:
        """Name of the folder."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return f"{safe_name(self.network)}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@final
class Visits:
    """A set of pairs of image and view."""

    def __init__(self, num_images: int, augmentation: Augmentation) -> None:
        self._num_images, self._augmentation = num_images, augmentation
        self._visited = torch.zeros(num_images * augmentation.num_views, dtype=torch.bool)

    def add(self, seed: int, epochs: range, plan: ViewPlan) -> None:
        """Add what a seed visits in some epochs, counted from 1."""
        index = torch.arange(self._num_images)
        for epoch in epochs:
            ids = views(seed, epoch, self._num_images, self._augmentation, plan)
            self._visited[self._augmentation.pair(index, ids).flatten()] = True

    def pairs(self) -> Pairs:
        """The pairs, in ascending order, int64 ``(P,)``."""
        return self._visited.nonzero().flatten().numpy()


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a build will take, measured on its first batch."""

    views: int
    """Forward passes of one view that are left to do."""
    bytes: int
    """Disk space that is left to fill."""
    free: int
    """Free space on the disk, in bytes."""
    seconds: float
    folder: Path


@final
class _Segment:
    """Immutable outputs for a set of pairs, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        described = json.loads((folder / _SEGMENT).read_bytes())
        self.hashes: dict[str, str] = described["sha256"]
        self.folder = folder
        # Mapped copy-on-write: PyTorch wants memory that it may write to; nothing ever does.
        self.pairs: Pairs = np.load(folder / _PAIRS, mmap_mode="c")
        self.parts: dict[str, Tensor] = {
            part: torch.from_numpy(np.load(folder / f"{part}.npy", mmap_mode="c")).view(getattr(torch, dtype))
            for part, dtype in described["dtypes"].items()
        }
        if any(len(values) != len(self.pairs) for values in self.parts.values()):
            raise ValueError("its files have different lengths")

    def find(self, pairs: Pairs) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Rows of pairs, and which of them are there at all; fastest for pairs in ascending order."""
        rows = np.searchsorted(self.pairs, pairs).clip(max=len(self.pairs) - 1)
        return rows, self.pairs[rows] == pairs

    def verify(self) -> None:
        """Raise ValueError unless every file is as it was written."""
        for name, digest in self.hashes.items():
            if _sha256(self.folder / name) != digest:
                raise ValueError(f"{name} is not what was written")

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.folder.iterdir())


@final
class TeacherCache:
    """One teacher's outputs, as far as they have been asked for.

    Raises
    ------
    UserError
        A segment is damaged.
    """

    def __init__(self, runs: Path, identity: Identity) -> None:
        self.identity = identity
        self.folder = runs / FOLDER / identity.name
        self._segments: dict[str, _Segment] = {}
        self._in_use = False
        self.refresh()

    def refresh(self) -> None:
        """Take in the segments that have been added meanwhile, each of them checked against its hashes once."""
        for path in sorted(self.folder.glob(f"*/{_SEGMENT}")):
            name = path.parent.name
            if name in self._segments or name.endswith(_PARTIAL):
                continue
            try:
                segment = _Segment(path.parent)
                segment.verify()
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(
                    f"teacher cache {path.parent} is damaged ({error}): type 'kdbench cache prune {self.folder.name}'"
                    " to drop it; it is built again when it is needed"
                ) from None
            self._segments[name] = segment
        if self._segments and not self._in_use:
            lock = os.open(self.folder / "use.lock", os.O_RDWR | os.O_CREAT, 0o666)
            fcntl.flock(lock, fcntl.LOCK_SH)  # as long as this object lives, prune leaves the folder alone
            weakref.finalize(self, os.close, lock)
            self._in_use = True

    def missing(self, pairs: Pairs, parts: Sequence[Part]) -> dict[Part, Pairs]:
        """For each part, the pairs that no segment has."""
        left = dict.fromkeys(parts, pairs)
        for segment in self._segments.values():
            for part in left.keys() & segment.parts.keys():
                left[part] = left[part][~segment.find(left[part])[1]]
        return left

    def read(self, pairs: Pairs, part: Part) -> Tensor:
        """Outputs ``(P, width)`` of pairs ``(P,)``, all of which must be there."""
        order = np.argsort(pairs, kind="stable")
        ascending = pairs[order]
        found: Tensor | None = None
        left = np.arange(len(pairs))
        for segment in self._segments.values():
            if part in segment.parts and len(left):
                rows, there = segment.find(ascending[left])
                values = segment.parts[part][torch.from_numpy(rows[there])]
                found = values.new_empty(len(pairs), values.shape[1]) if found is None else found
                found[torch.from_numpy(order[left[there]])] = values
                left = left[~there]
        assert found is not None, f"{self.folder} has no {part}"
        assert not len(left), f"{self.folder} lacks {len(left)} of {len(pairs)} pairs"
        return found

    def build(
        self,
        pairs: Pairs,
        parts: Sequence[Part],
        forward: Forward,
        *,
        batch: int,
        announce: Callable[[Estimate], None] = lambda _: None,
        observe: Callable[[int, int, float], None] = lambda *_: None,
        waiting: Callable[[], None] = lambda: None,
        stop: Stop | None = None,
    ) -> bool:
        """Add what is missing of pairs and parts; return whether all is there now.

        Of several processes one builds, the others wait for it. A build that was interrupted goes on where it was.

        Parameters
        ----------
        announce
            Is told the estimate before the work begins.
        observe
            Is called with the pairs that are done, all pairs, and the seconds left.
        waiting
            Is called once if another process is building.
        stop
            When it wishes to, the build is left as it is, to go on another time: the only case of False.

        Raises
        ------
        UserError
            It does not fit on the disk: the text holds the numbers.
        """
        with self._alone(waiting, stop) as alone:
            self.refresh()
            missing = {part: left for part, left in self.missing(pairs, parts).items() if len(left)}
            if not missing or not alone:
                return not missing
            wanted = np.unique(np.concatenate(list(missing.values())))
            done = self._write(wanted, sorted(missing), forward, batch, announce, observe, stop)
        self.refresh()
        return done

    def _write(
        self,
        pairs: Pairs,
        parts: list[Part],
        forward: Forward,
        batch: int,
        announce: Callable[[Estimate], None],
        observe: Callable[[int, int, float], None],
        stop: Stop | None,
    ) -> bool:
        name = hashlib.sha256(",".join(parts).encode() + pairs.tobytes()).hexdigest()[:16]
        partial = self.folder / f"{name}{_PARTIAL}"
        first = torch.from_numpy(pairs[:batch])
        forward(first)  # the first call prepares the device
        started = time.perf_counter()
        said = forward(first)
        sample = {part: said[part].cpu() for part in parts}
        speed = len(first) / (time.perf_counter() - started)
        done = _progress(partial)
        widths = {part: values.shape[1] * values.element_size() for part, values in sample.items()}
        left = (len(pairs) - done) * sum(widths.values()) + (0 if done else pairs.nbytes)
        with explain_os_errors(partial):
            partial.mkdir(parents=True, exist_ok=True)
        free = free_space(partial)
        if left > free:
            raise UserError(
                f"the teacher cache of {self.identity.network} needs {size(left)} in {self.folder}, but {size(free)} "
                "are free: free some, choose another folder with --runs DIR, or ask the live teacher with --cache off"
            )
        announce(Estimate(len(pairs) - done, left, free, (len(pairs) - done) / speed, self.folder))
        write_json(self.folder / _IDENTITY, dataclasses.asdict(self.identity))
        with explain_os_errors(partial), contextlib.ExitStack() as files:
            if not done:
                np.save(partial / _PAIRS, pairs)
            outs = {
                part: files.enter_context(_Rows(partial / f"{part}.npy", sample[part], len(pairs), done))
                for part in parts
            }
            saved = started = time.perf_counter()
            begun = done
            while done < len(pairs) and not (stop and stop.signum is not None):
                chunk = forward(torch.from_numpy(pairs[done : done + batch]))
                for part, out in outs.items():
                    out.append(chunk[part])
                done = min(done + batch, len(pairs))
                now = time.perf_counter()
                observe(done, len(pairs), (now - started) / (done - begun) * (len(pairs) - done))
                if now - saved > _SAVE_EVERY:
                    _note(partial, outs.values(), done)
                    saved = now
            _note(partial, outs.values(), done)
        if done < len(pairs):
            return False
        with explain_os_errors(partial):
            hashes = {file: _sha256(partial / file) for file in (_PAIRS, *(f"{part}.npy" for part in parts))}
            dtypes = {part: str(values.dtype).removeprefix("torch.") for part, values in sample.items()}
            write_json(partial / _SEGMENT, {"dtypes": dtypes, "sha256": hashes})
            (partial / _PROGRESS).unlink()
            partial.rename(self.folder / name)
        return True

    def check(self, forward: Forward, num: int = 32) -> None:
        """Compare some outputs of each segment with the live teacher's.

        Raises
        ------
        UserError
            They differ by more than rounding in another batch, precision or device would explain.
        """
        for segment in self._segments.values():
            rows = np.linspace(0, len(segment.pairs) - 1, min(num, len(segment.pairs))).astype(np.int64)
            live = forward(torch.from_numpy(segment.pairs[rows]))
            for part, values in segment.parts.items():
                stored, fresh = values[torch.from_numpy(rows)].float(), live[part].float().cpu()  # type: ignore[index]
                tolerance = 0.01 if values.dtype == torch.float32 else 0.1
                if (stored - fresh).abs().max() > tolerance * fresh.abs().max():
                    raise UserError(
                        f"teacher cache {self.folder} does not hold what its teacher says: type 'kdbench cache prune "
                        f"{self.folder.name}' to drop it"
                    )

    @contextlib.contextmanager
    def _alone(self, waiting: Callable[[], None], stop: Stop | None) -> Iterator[bool]:
        """Hold the right to build, waiting for it while another process has it; False if ``stop`` wished to end."""
        with explain_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "build.lock", os.O_RDWR | os.O_CREAT, 0o666)
        held = False
        try:
            while not held and not (stop and stop.signum is not None):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    held = True
                except BlockingIOError:
                    waiting()
                    waiting = _nothing
                    time.sleep(0.2)
            yield held
        finally:
            os.close(lock)


@final
class _Rows(contextlib.AbstractContextManager["_Rows"]):
    """A .npy file that is written row by row; reopened, it is cut to the rows that are known to be whole."""

    def __init__(self, path: Path, like: Tensor, num_rows: int, done: int) -> None:
        self._bits = like.view(_bits(like.dtype)).numpy()
        self._file = path.open("r+b" if done else "wb")
        shape = (num_rows, *like.shape[1:])
        descr = np.lib.format.dtype_to_descr(self._bits.dtype)
        np.lib.format.write_array_header_1_0(self._file, {"descr": descr, "fortran_order": False, "shape": shape})
        self._file.seek(done * self._bits[0].nbytes, os.SEEK_CUR)
        self._file.truncate()

    def append(self, values: Tensor) -> None:
        self._file.write(values.cpu().contiguous().view(_bits(values.dtype)).numpy().data)

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _nothing() -> None:
    pass


def _bits(dtype: torch.dtype) -> torch.dtype:
    """The type in which values are stored: NumPy has no bfloat16."""
    return torch.int16 if dtype == torch.bfloat16 else dtype


def _note(partial: Path, outs: Any, done: int) -> None:
    for out in outs:
        out.sync()
    write_json(partial / _PROGRESS, {"done": done})


def _progress(partial: Path) -> int:
    """Pairs of an unfinished build that are on disk."""
    path = partial / _PROGRESS
    return int(json.loads(path.read_bytes())["done"]) if path.exists() else 0


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_space(folder: Path) -> int:
    """Bytes that are free where a folder is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def size(num_bytes: float) -> str:
    """A number of bytes for people, e.g. 12.3 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """A cache on disk."""

    name: str
    identity: Identity | None
    """None where its description cannot be read."""
    segments: int
    pairs: int
    parts: tuple[str, ...]
    bytes: int
    unfinished: int
    """Builds that were begun and are not whole."""


def list_caches(runs: Path) -> list[CacheInfo]:
    """All caches below a folder of runs."""
    return [_info(folder) for folder in sorted((runs / FOLDER).glob("*/")) if folder.is_dir()]


def _info(folder: Path) -> CacheInfo:
    identity: Identity | None = None
    with contextlib.suppress(OSError, ValueError, TypeError):
        values = json.loads((folder / _IDENTITY).read_bytes())
        identity = Identity(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})
    whole = [path.parent for path in folder.glob(f"*/{_SEGMENT}") if not path.parent.name.endswith(_PARTIAL)]
    parts: set[str] = set()
    pairs = 0
    for segment in whole:
        with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
            parts |= json.loads((segment / _SEGMENT).read_bytes())["dtypes"].keys()
            pairs += len(np.load(segment / _PAIRS, mmap_mode="r"))
    return CacheInfo(
        name=folder.name,
        identity=identity,
        segments=len(whole),
        pairs=pairs,
        parts=tuple(sorted(parts)),
        bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        unfinished=len(list(folder.glob(f"*{_PARTIAL}"))),
    )


def remove_cache(runs: Path, name: str, *, unfinished_only: bool = False) -> int | None:
    """Delete a cache, or only its unfinished builds; return the bytes that are free now, None if it is in use."""
    folder = runs / FOLDER / name
    with contextlib.ExitStack() as held:
        for lock in ("build.lock",) if unfinished_only else ("build.lock", "use.lock"):
            descriptor = os.open(folder / lock, os.O_RDWR | os.O_CREAT, 0o666)
            held.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
        doomed = list(folder.glob(f"*{_PARTIAL}")) if unfinished_only else [folder]
        freed = sum(file.stat().st_size for path in doomed for file in path.rglob("*") if file.is_file())
        for path in doomed:
            shutil.rmtree(path)
        return freed
