"""Signals wait for a step to end, and reach the loop around one that did not act on them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from kdbench.errors import Interrupted
from kdbench.utils.signals import Stop


@pytest.fixture
def hangup() -> Iterator[None]:
    """The default of SIGHUP, also where the tests themselves are run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_is_noted_and_the_handler_comes_back(signum: signal.Signals) -> None:
    before = signal.getsignal(signum)
    with Stop() as stop:
        assert stop.signum is None
        assert signal.getsignal(signum) not in (signal.SIG_DFL, signal.SIG_IGN), "it would end this process"
        os.kill(os.getpid(), signum)
        assert stop.signum == signum
    assert signal.getsignal(signum) is before


@pytest.mark.usefixtures("hangup")
def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under nohup; the workers of a grid that outlive their terminal are started in this way, too."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with Stop() as outer, Stop() as inner:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (outer.signum, inner.signum) == (None, None)
        os.kill(os.getpid(), signal.SIGTERM)
        assert inner.signum == signal.SIGTERM
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_what_the_inner_loop_did_not_act_on_reaches_the_next_one_alone() -> None:
    with Stop() as outer, Stop() as middle:
        with Stop():
            os.kill(os.getpid(), signal.SIGINT)
            assert middle.signum is None
        assert middle.signum == signal.SIGINT
        assert outer.signum is None
    assert outer.signum == signal.SIGINT


def test_what_came_before_an_inner_loop_counts_in_it() -> None:
    with Stop() as outer:
        os.kill(os.getpid(), signal.SIGTERM)
        with Stop() as inner:
            assert inner.signum == signal.SIGTERM
        assert outer.signum == signal.SIGTERM


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
