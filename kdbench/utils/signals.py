"""Deferred signals: Ctrl-C, SIGTERM and a closed terminal set a flag that a loop checks between two steps."""

from __future__ import annotations

import signal
import threading
from contextlib import AbstractContextManager
from types import FrameType, TracebackType
from typing import Any, ClassVar, final

from kdbench.errors import Interrupted

DEFERRED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""Signals that ask a process to end."""


@final
class Stop(AbstractContextManager["Stop"]):
    """Turn signals that ask a process to end into ``signum``, which a loop checks between two steps.

    SIGHUP comes when a terminal is closed; where it is ignored on entry, as under nohup, it stays ignored. SIGUSR1 and
    SIGUSR2 are what batch systems are told to send before a time limit. A signal that the loop did not act on is passed
    to the ``Stop`` around this one, and one that this had before counts here too.
    """

    _open: ClassVar[list[Stop]] = []
    """Those that are entered, the innermost last; signals are handled in the main thread alone."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for signum in DEFERRED:
                if signum != signal.SIGHUP or signal.getsignal(signum) != signal.SIG_IGN:
                    self._old[signum] = signal.signal(signum, self._note)
            if self._open:
                self.signum = self._open[-1].signum
            self._open.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._old:
            return
        for signum, handler in self._old.items():
            signal.signal(signum, handler)
        assert self._open.pop() is self
        if self.signum is not None and self._open and not isinstance(error, Interrupted):
            self._open[-1].signum = self.signum

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum
