"""Batches by processes: equal with any number of them, and what happens when something ends or breaks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from loader_items import CONTENTS, RULES, Loading, items
from photos import Files, centre, views
from small_data import message
from torch.utils.data import _utils
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from kdbench.data.decoding import decode
from kdbench.data.decoding.decode import Decoder
from kdbench.data.decoding.loader import EvaluationItem, ImageLoader, Item
from kdbench.utils.signals import DEFERRED


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for five seconds to see whether another process is alive, or longer to read a file again."""
    monkeypatch.setattr(_MultiProcessingDataLoaderIter._try_get_data, "__defaults__", (0.1,))
    monkeypatch.setattr(_utils.worker, "MP_STATUS_CHECK_INTERVAL", 0.1)
    monkeypatch.setattr(decode, "PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    """Without PyTorch's handler of ended processes, which a loader of another test may have left here."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, before)


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def wait_for(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60  # what takes longer hangs, on a busy machine too
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def pids(opened: ImageLoader) -> list[int]:
    return [worker.pid or 0 for worker in opened.processes.workers]


def test_batches_are_equal_with_any_number_of_processes(loading: Loading) -> None:
    wanted = items(num_strong=1)
    decoder = Decoder(Files(CONTENTS), RULES)
    by_hand = [
        torch.stack(
            [
                views(decoder, int(index), int(crop), seed=1, epoch=2, num_strong=1)
                for index, crop in zip(item.index, item.crops, strict=True)
            ],
            dim=1,
        )
        for item in wanted
    ]
    for num_workers in (0, 2, 7):
        batches = list(loading(num_workers).batches(wanted))
        assert len(batches) == len(by_hand)
        assert all(torch.equal(*pair) for pair in zip(batches, by_hand, strict=True))
        assert batches[0].dtype == torch.uint8


def test_test_images(loading: Loading) -> None:
    decoder = Decoder(Files(CONTENTS), RULES)
    expected = torch.stack([centre(decoder, index) for index in range(10)])
    wanted = [EvaluationItem(torch.arange(4)), EvaluationItem(torch.arange(4, 10))]
    for num_workers in (0, 2):
        assert torch.equal(torch.cat(list(loading(num_workers).batches(wanted))), expected)


def test_processes_live_on_and_given_up_batches_do_not_come(loading: Loading) -> None:
    opened = loading(2)
    first = [batch.clone() for batch in opened.batches(items(1))]
    workers = pids(opened)
    given_up = opened.batches(items(2))
    next(given_up)
    assert all(torch.equal(*pair) for pair in zip(opened.batches(items(1)), first, strict=True))
    assert pids(opened) == workers
    with pytest.raises(AssertionError, match="given up"):
        next(given_up)
    assert list(opened.batches([])) == []
    opened.close()
    assert not any(map(alive, workers))
    assert torch.equal(next(opened.batches(items(1))), first[0])


def test_an_image_that_comes_several_times_in_a_row_is_decoded_once(loading: Loading) -> None:
    class Counted(Files):
        reads = 0

        def read(self, index: int) -> bytes:
            self.reads += 1
            return super().read(index)

    files = Counted(CONTENTS)
    list(loading(0, files).batches([Item(torch.tensor([3, 3, 3, 1, 1, 3]), torch.arange(6))]))
    assert files.reads == 3


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_global_generator_and_signals_are_left_alone(loading: Loading, num_workers: int) -> None:
    before, handler = torch.get_rng_state(), signal.getsignal(signal.SIGCHLD)
    opened = loading(num_workers)
    for _ in range(2):
        list(opened.batches(items()))
    assert torch.equal(torch.get_rng_state(), before)
    assert signal.getsignal(signal.SIGCHLD) == handler
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & set(DEFERRED)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_image_is_one_line_after_the_batches_before_it(loading: Loading, num_workers: int) -> None:
    opened = loading(num_workers, Files([*CONTENTS[:9], CONTENTS[9][:-200]]))
    batches = opened.batches([Item(torch.tensor(index), torch.arange(2)) for index in ([0, 1], [2, 9], [3, 4])])
    next(batches)
    assert message(lambda: next(batches)).startswith("train/cat/9.jpg cannot be decoded: image file is truncated")
    assert len(list(opened.batches(items()[-1:]))) == 1


class Vanishing(Files):
    def read(self, index: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error", f"/net/disk/{index}.jpg")


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_input_error_names_the_file(loading: Loading, num_workers: int) -> None:
    with pytest.raises(OSError, match=r"Input/output error: 'train/cat/7\.jpg'") as caught:
        next(loading(num_workers, Vanishing(CONTENTS)).batches(items()[-1:]))
    assert caught.value.errno == errno.EIO
    assert caught.value.__cause__ is None


class Slow(Files):
    """Files that take a while."""

    def read(self, index: int) -> bytes:
        time.sleep(0.05)
        return super().read(index)


def test_signals_do_not_end_a_process(loading: Loading) -> None:
    opened = loading(2, Slow(CONTENTS))
    batches = opened.batches(items())
    for pid in pids(opened):
        for signum in DEFERRED:
            os.kill(pid, signum)
    assert len(list(batches)) == 11
    assert all(map(alive, pids(opened)))


@pytest.mark.parametrize(
    ("signum", "reason"),
    [
        (signal.SIGKILL, "was killed, as systems do when memory is short: type --workers 0, or fewer than 2"),
        (signal.SIGBUS, "ended since /dev/shm is full: type --workers 0, or fewer than 2"),
        (signal.SIGSEGV, "ended by signal 11"),
    ],
)
def test_a_process_that_dies_is_one_line(
    loading: Loading, signum: int, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    opened = loading(2)
    batches = opened.batches(items())
    next(batches)  # the first process has begun
    for rest in (batches, None):  # while batches are made, and between two epochs
        if rest is None:
            list(opened.batches(items()))
        workers = pids(opened)
        kill(workers[0], signum)
        with pytest.raises(ChildProcessError, match=re.escape(f"(pid {workers[0]}) {reason}")):
            list(rest or opened.batches(items()))
        assert not any(map(alive, workers))
        assert len(list(opened.batches(items()))) == 11  # by new ones
    assert capfd.readouterr() == ("", "")


def kill(pid: int, signum: int) -> None:
    os.kill(pid, signum)
    wait_for(lambda: not alive(pid))


@pytest.mark.parametrize("begun", [True, False])
def test_processes_end_with_their_parent(begun: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is killed before they have looked at who it is."""
    if not begun:
        watchdog = _utils.worker.ManagerWatchdog
        monkeypatch.setattr(_utils.worker, "ManagerWatchdog", lambda: (time.sleep(1), watchdog())[1])
    receiver, sender = multiprocessing.Pipe(duplex=False)
    parent = multiprocessing.get_context("fork").Process(target=keep_loading, args=(sender,))
    parent.start()
    workers = receiver.recv()
    assert len(workers) == 2
    assert all(map(alive, workers))
    if begun:
        time.sleep(0.5)
    parent.kill()
    parent.join()
    try:
        wait_for(lambda: not any(map(alive, workers)))
    finally:
        for pid in filter(alive, workers):
            os.kill(pid, signal.SIGKILL)


def keep_loading(sender: Connection) -> None:
    opened = ImageLoader(Decoder(Slow(CONTENTS), RULES), 2)
    batches = opened.batches(items() * 1000)
    sender.send(pids(opened))
    for _ in batches:
        time.sleep(0.1)


SCRIPT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where the tests run in the background
sys.path[:0] = {path!r}
import test_loader as tests
opened = tests.ImageLoader(tests.Decoder(tests.Slow(tests.CONTENTS), tests.RULES), 2)
batches = opened.batches(tests.items() * 100)
next(batches)
print(*tests.pids(opened), flush=True)
try:
    os.killpg(0, signal.SIGINT)
    list(batches)
except KeyboardInterrupt:
    print("stopped")
"""


@pytest.mark.once
def test_ctrl_c_shows_nothing_of_the_processes_and_an_unclosed_loader_does_not_keep_its_program() -> None:
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(path=[str(here), str(here.parent)])],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        start_new_session=True,
    )
    *workers, last = result.stdout.split()
    assert (last, result.stderr) == ("stopped", "")
    assert len(workers) == 2
    assert not any(alive(int(pid)) for pid in workers)


def test_a_process_has_one_thread(loading: Loading) -> None:
    class Told(Files):
        def read(self, index: int) -> bytes:
            raise OSError(torch.get_num_threads(), "threads")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    with pytest.raises(OSError, match="threads") as caught:
        next(loading(1, Told(CONTENTS)).batches(items()))
    torch.set_num_threads(before)
    assert caught.value.errno == 1
