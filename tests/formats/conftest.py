"""Ctrl-C, for the tests of child processes."""

import signal
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], object]]:
    """Raise KeyboardInterrupt after some seconds, as Ctrl-C does."""
    before = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)
