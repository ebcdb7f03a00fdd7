"""Which process holds something that several may hold one after the other, and whether it is gone.

A holder writes its name (`this_owner`) and a count of heartbeats beside what it holds. Who else wants it takes the
holder for gone where that is a process of this machine that no longer runs, or where its count stands still for a while
by the clock of who looks: the clocks of the machines need not agree.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import socket
import sys
import time
from collections.abc import Hashable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from merge_advisor.natural_numbers import natural_number

_BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Of Linux: what names one start of a machine."""
_INSTALLED = Path("/etc/machine-id")
"""Where systemd names an installation."""


def is_running(pid: int) -> bool:
    """Return whether a process of this machine runs.

    >>> is_running(os.getpid())
    True

    Args:
        pid: its number.
    """
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except OSError as error:
        return error.errno != errno.ESRCH  # of another user
    except OverflowError:
        return False
    return True


def other_runs(pid: int) -> bool:
    """Return whether another process of this machine has this number, and runs.

    Something of this process's own number that is not its own is of a dead one: in a container the first process always
    has number 1.

    >>> other_runs(os.getpid())
    False

    Args:
        pid: its number.
    """
    return pid != os.getpid() and is_running(pid)


def this_owner() -> str:
    """Return a name for this process that no other has: machine, number and a random part.

    >>> this_owner() == this_owner(), this_owner().split()[1] == str(os.getpid())
    (False, True)
    """
    return f"{this_machine()} {os.getpid()} {os.urandom(4).hex()}"


def this_machine() -> str:
    """Return a name for where numbers of processes mean something: this machine since it was started, or the container.

    Two machines may have one host name, as many have whose images name them all `localhost`.

    >>> this_machine() == this_machine(), " " in this_machine()
    (True, False)
    """
    space = boot = ""
    if sys.platform == "linux":
        with suppress(OSError):
            space = str(Path("/proc/self/ns/pid").readlink())
        boot = _name_in(_BOOT)
    return f"{socket.gethostname()}/{space}/{boot}".replace(" ", "_")


def this_installation() -> str:
    """Return eight characters for this machine that stay when it is started anew, as those of `this_machine` do not.

    >>> len(this_installation())
    8
    """
    return hashlib.sha256(f"{socket.gethostname()} {_name_in(_INSTALLED)}".encode()).hexdigest()[:8]


@functools.cache
def _name_in(path: Path) -> str:
    """What a file names, "" where there is none; read once, since every whole file that is written asks."""
    with suppress(OSError):
        return path.read_text().strip()
    return ""


@dataclass(frozen=True, slots=True)
class _Seen:
    owner: str
    beat: int
    since: float


class OwnerWatch:
    """Tells whether the owners of things are gone, from how their counts go on.

    >>> watch = OwnerWatch(stale=60)
    >>> watch.is_gone("a", this_owner(), beat=3), watch.is_gone("b", "elsewhere 1 00ff", beat=0)
    (False, False)

    Args:
        stale: seconds without a heartbeat after which an owner on another machine is taken for gone.
    """

    def __init__(self, stale: float) -> None:
        self._stale = stale
        self._seen: dict[Hashable, _Seen] = {}

    def is_gone(self, thing: Hashable, owner: str, beat: int) -> bool:
        """Return whether the owner of a thing is gone.

        Args:
            thing: what it owns.
            owner: as `this_owner` named it.
            beat: its count of heartbeats now.
        """
        machine, pid = [*owner.split(" "), "", ""][:2]
        number = natural_number(pid)
        if machine == this_machine() and number is not None and not is_running(number):
            return True
        seen = self._seen.get(thing)
        if seen is None or (seen.owner, seen.beat) != (owner, beat):
            seen = self._seen[thing] = _Seen(owner, beat, time.monotonic())
        return time.monotonic() - seen.since > self._stale
