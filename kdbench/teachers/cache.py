"""Teacher outputs for the views that will be visited: each pair of image and view is forwarded once and kept on disk.

What a teacher says depends on its weights, the data, the augmentation and the precision. These are a cache's
identity, and its folder is named by their hash. In the folder lie segments, each of them the pairs that one build
added. A segment is written beside its name and moved there when it is whole; from then on it is only read, through
a memory map. A cache grows by further segments, so a grid that gets more seeds or epochs asks only for what is new::

    runs/teacher-cache/NETWORK-HASH/identity.json
                                    SEGMENT/segment.json  pairs.npy  logits.npy  penultimate.npy

Under a protocol with a pool, a segment holds all crops of all images in some rotations, without a list of them: such
segments have the rows of millions of images, and a cache of one grows by further rotations.

Legend: ``P`` pairs, ``N`` training images.
"""

from __future__ import annotations

import fcntl
import os
import time
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final, overload

import numpy as np
import torch
from torch import Tensor

from kdbench.errors import UserError
from kdbench.net import Part
from kdbench.teachers.cache_folder import FOLDER, IDENTITY, Identity, lock_use
from kdbench.teachers.pairs import Pairs, PairSet, find, lacking, union
from kdbench.teachers.places import Forward, batches_of
from kdbench.teachers.segments import PARTIAL, SEGMENT, Segment, SegmentWriter
from kdbench.teachers.watch import Estimate, Watch
from kdbench.utils.files import NotWritten, free_space, paths_in, write_json
from kdbench.utils.leases import Busy, Lease, Leases, tidy
from kdbench.utils.scheduler import Scheduler
from kdbench.utils.signals import Stop
from kdbench.utils.text import one_line, quoted, size

STORED: frozenset[Part] = frozenset({"logits", "penultimate"})
"""The parts that are kept; maps would take hundreds of times the space."""
_SAVE_EVERY = 10.0
"""Seconds between two notes of how far a build is."""


class DoesNotFit(NotWritten):
    """A cache is larger than the free space of the disk."""


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
        self._prune = quoted("kdbench", "cache", "prune", identity.name, "--runs", runs)
        self._segments: dict[str, Segment] = {}
        self._in_use = False
        self.refresh()

    def refresh(self) -> None:
        """Take in the segments that have been added meanwhile, each of them checked once."""
        for path in paths_in(self.folder, f"*/{SEGMENT}"):
            name = path.parent.name
            if name in self._segments or name.endswith(PARTIAL) or not path.exists():
                continue
            try:
                self._segments[name] = Segment(path.parent)
            except ValueError as error:
                raise self._damaged(path.parent, error) from None
        if self._segments and not self._in_use:
            lock = lock_use(self.folder, fcntl.LOCK_SH)  # as long as this object lives, prune leaves the folder alone
            if lock is not None:
                weakref.finalize(self, os.close, lock)
            self._in_use = True

    def _damaged(self, segment: Path, error: Exception) -> UserError:
        return UserError(
            f"teacher cache {segment} is damaged ({one_line(error)}): type {self._prune} to drop it; it is built again "
            "when it is needed"
        )

    @overload
    def missing(self, pairs: Pairs, parts: Sequence[Part]) -> dict[Part, Pairs]: ...

    @overload
    def missing(self, pairs: PairSet, parts: Sequence[Part]) -> dict[Part, PairSet]: ...

    def missing(self, pairs: PairSet, parts: Sequence[Part]) -> Any:
        """For each part, the pairs that no segment has."""
        left = dict.fromkeys(parts, pairs)
        for segment in self._segments.values():
            for part in left.keys() & segment.parts.keys():
                left[part] = lacking(left[part], segment.pairs)
        return left

    def read(self, pairs: Pairs, part: Part) -> Tensor:
        """Outputs ``(P, width)`` of pairs ``(P,)``, all of which must be stored."""
        order = np.argsort(pairs, kind="stable")
        ascending = pairs[order]
        outputs: Tensor | None = None
        left = np.arange(len(pairs))
        for segment in self._segments.values():
            if part in segment.parts and len(left):
                rows, there = find(segment.pairs, ascending[left])
                values = segment.parts[part][torch.from_numpy(rows[there])]
                outputs = values.new_empty(len(pairs), values.shape[1]) if outputs is None else outputs
                outputs[torch.from_numpy(order[left[there]])] = values
                left = left[~there]
        assert outputs is not None, f"{self.folder} has no {part}"
        assert not len(left), f"{self.folder} lacks {len(left)} of {len(pairs)} pairs"
        return outputs

    def build(
        self,
        pairs: PairSet,
        parts: Sequence[Part],
        forward: Forward,
        *,
        batch: int,
        name: str = "",
        watch: Watch | None = None,
        stop: Stop | None = None,
        scheduler: Scheduler | None = None,
    ) -> bool:
        """Add what is missing of pairs and parts; return whether all is there now.

        Of several processes one builds, the others wait for it. An interrupted build resumes where it was.
        What is stored of a pair does not depend on the other pairs: see :mod:`kdbench.teachers.places`.

        Parameters
        ----------
        forward
            For the pairs of a pool, a `PoolForward`.
        name
            Name of the teacher, for the watch.
        batch
            Number of pairs that ``forward`` is always given; padded where fewer are left.
        stop
            When its ``signum`` is set, the build stops, to be resumed another time: the only case of False.
        scheduler
            Knows about the jobs of other processes that build.

        Raises
        ------
        UserError
            It does not fit on the disk: the text holds the numbers.
        """
        self.refresh()
        if not any(map(len, self.missing(pairs, parts).values())):
            tidy(self.folder, scheduler)
            return True
        watch = watch or Watch()
        with Leases(scheduler) as leases:
            lease = self._hold(leases, lambda: watch.waiting(name), stop)
            self.refresh()
            missing = {part: left for part, left in self.missing(pairs, parts).items() if len(left)}
            if not missing or not lease:
                return not missing
            wanted = union(list(missing.values()))
            done = self._write(wanted, sorted(missing), forward, batch, name, watch, stop, lease.check)
        self.refresh()
        return done

    def _write(
        self,
        pairs: PairSet,
        parts: Sequence[Part],
        forward: Forward,
        batch: int,
        name: str,
        watch: Watch,
        stop: Stop | None,
        permit: Callable[[], None],
    ) -> bool:
        """Write a segment, or resume writing it; return whether it is complete."""
        batches = batches_of(pairs, self._images, batch)
        next(batches.stream(0, forward, parts))  # the first call prepares the device
        started = time.perf_counter()
        sample = next(batches.stream(0, forward, parts))
        pace = time.perf_counter() - started
        writer = SegmentWriter(self.folder, pairs, batches, sample)
        views, free = len(pairs) - writer.done, free_space(self.folder)
        if writer.bytes_left > free:
            raise DoesNotFit(
                f"the teacher cache of {self.identity.network} needs {size(writer.bytes_left)} in {self.folder}, but "
                f"{size(free)} are free: free some, choose another folder with --runs DIR, or query the live teacher "
                "with --cache off"
            )
        first = batches.begun(writer.done)
        watch.estimate(name, Estimate(views, writer.bytes_left, free, pace * (len(batches) - first), self.folder))
        write_json(self.folder / IDENTITY, self.identity.values())
        with writer:
            saved = started = time.perf_counter()
            outputs = batches.stream(first, forward, parts)
            for number in range(first, len(batches)):
                permit()
                if stop and stop.signum is not None:
                    writer.note()
                    return False
                writer.append(next(outputs))
                now = time.perf_counter()
                pace = (now - started) / (number + 1 - first)
                watch.progress(writer.done, len(pairs), pace * (len(batches) - number - 1))
                if now - saved > _SAVE_EVERY:
                    writer.note()
                    saved = now
            permit()
            writer.finish()
        return True

    def _images(self, pairs: Pairs) -> Pairs:
        """Return the position of each pair's image in the training set."""
        return self.identity.numbering.split(torch.from_numpy(pairs))[0].numpy()

    def verify(self) -> int:
        """Compare all files with their hashes; return the number of pairs.

        Raises
        ------
        UserError
            A file is damaged.
        """
        for name, segment in self._segments.items():
            try:
                segment.verify()
            except (OSError, ValueError) as error:
                raise self._damaged(self.folder / name, error) from None
        return sum(len(segment.pairs) for segment in self._segments.values())

    def check(self, forward: Forward, num: int = 32) -> int:
        """Compare some outputs of each segment with the live teacher's, up to rounding; return for how many pairs.

        Raises
        ------
        UserError
            They differ by more than rounding in another batch, precision or device would explain.
        """
        checked = 0
        for segment in self._segments.values():
            rows = np.linspace(0, len(segment.pairs) - 1, min(num, len(segment.pairs))).astype(np.int64)
            live = forward(torch.from_numpy(segment.pairs[rows]))
            for part, values in segment.parts.items():
                stored, fresh = values[torch.from_numpy(rows)].float(), live[part].float().cpu()
                tolerance = 0.01 if values.dtype == torch.float32 else 0.1
                largest = tolerance * float(fresh.abs().nan_to_num(0.0, 0.0).max())
                if not torch.allclose(stored, fresh, rtol=0.0, atol=largest, equal_nan=True):
                    raise UserError(
                        f"teacher cache {self.folder} does not hold its teacher's outputs: type {self._prune} to "
                        "drop it"
                    )
            checked += len(rows)
        return checked

    def _hold(self, leases: Leases, waiting: Callable[[], None], stop: Stop | None) -> Lease | None:
        """Get the right to build, waiting for it while another process has it; None if ``stop`` was set meanwhile."""
        announced = False
        while not (stop and stop.signum is not None):
            try:
                return leases.hold(self.folder)
            except Busy:
                if not announced:
                    waiting()
                announced = True
                time.sleep(0.2)
        return None
