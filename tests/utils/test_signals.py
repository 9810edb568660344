"""Signals wait for a step to end, and reach the loop around one that did not act on them."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from kdbench.errors import Interrupted
from kdbench.utils.signals import Stop


def test_a_signal_is_noted_and_the_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert stop.signum is None
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_inner_loop_did_not_act_on_reaches_the_next_one_alone() -> None:
    with Stop() as outer, Stop() as middle:
        with Stop():
            os.kill(os.getpid(), signal.SIGINT)
            assert middle.signum is None
        assert middle.signum == signal.SIGINT
        assert outer.signum is None
    assert outer.signum == signal.SIGINT


def test_a_handler_of_others_in_between_does_not_hide_the_outer_loop() -> None:
    with Stop() as outer:
        ours = signal.signal(signal.SIGTERM, lambda *_: None)
        with Stop():
            os.kill(os.getpid(), signal.SIGTERM)
        signal.signal(signal.SIGTERM, ours)
        assert outer.signum == signal.SIGTERM


def test_a_signal_that_was_acted_on_goes_no_further() -> None:
    def act() -> None:
        with Stop() as inner:
            os.kill(os.getpid(), signal.SIGTERM)
            assert inner.signum is not None
            raise Interrupted("saved", inner.signum)

    with Stop() as outer:
        with pytest.raises(Interrupted):
            act()
        assert outer.signum is None


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def enter() -> None:
        with Stop():
            seen.append(signal.getsignal(signal.SIGTERM))

    with Stop() as outer:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        assert seen == [signal.getsignal(signal.SIGTERM)]
        os.kill(os.getpid(), signal.SIGTERM)
        assert outer.signum == signal.SIGTERM
