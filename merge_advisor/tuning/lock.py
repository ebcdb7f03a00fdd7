"""One coordinator at a time: a file lock that dies with its holder, and a heartbeat where there is no common file."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from merge_advisor.errors import RunError

BEAT = 15.0
"""Seconds between two signs of life of a coordinator of a remote study."""
STALE = 60.0
"""Seconds without a sign of life after which it is taken for dead; clocks of the machines agree to half of this."""
SETTLE = 0.5
"""Seconds after which a claim is read back, so that of two made at once only the last holds."""


def whoami() -> str:
    """Return "process 123 on host since 2026-01-31 12:00:00 UTC"."""
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


class FileLock:
    """A lock on a file, held until `release` or the end of the process, however it ends; the file says who holds it.

    Raises:
        RunError: another process holds it, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        import fcntl  # not on Windows

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+", encoding="utf-8")
        except OSError as error:
            raise RunError(f"{path}: cannot be written ({error.strerror}); check permissions and free space") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._write(whoami())
        except BlockingIOError as error:
            self._file.seek(0)
            holder = self._file.read().strip() or "another process"
            self._file.close()
            raise RunError(f"{path.parent}: is being tuned by {holder}; wait for it to end, or stop it") from error
        except OSError as error:
            self._file.close()
            raise RunError(f"{path}: cannot be locked ({error.strerror}); tune on a local disk") from error

    def check(self) -> None:
        """Do nothing: a file lock is not lost."""

    def release(self) -> None:
        """Let the next one have it; the file stays, empty."""
        if not self._file.closed:
            try:
                self._write("")
            finally:
                self._file.close()

    def _write(self, text: str) -> None:
        self._file.truncate(0)
        self._file.write(text)
        self._file.flush()


class Heartbeat:
    """A claim in an attribute of a remote study, renewed every `BEAT` seconds and void `STALE` seconds after the last.

    Args:
        where: names the study in messages.
        read: gives the attribute, or None.
        write: sets it; called from a thread of its own as well.
        settle: seconds after which the claim is read back.

    Raises:
        RunError: another coordinator holds it.
    """

    def __init__(
        self, where: str, read: Callable[[], Any], write: Callable[[Any], None], *, settle: float = SETTLE
    ) -> None:
        self._where, self._read, self._write = where, read, write
        self._who = f"{whoami()} ({os.urandom(4).hex()})"
        self._lost = ""
        self._over = threading.Event()
        self._refuse_other(read())
        self.beat()
        time.sleep(settle)
        self._refuse_other(read())
        self._thread = threading.Thread(target=self._go_on, name="tune-heartbeat", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Make sure that the claim still holds.

        Raises:
            RunError: another coordinator took it after a silence of `STALE` seconds.
        """
        if self._lost:
            raise RunError(f"{self._where}: was taken over by {self._lost}; leave it to that one")

    def release(self) -> None:
        """Give the claim up, unless it was lost."""
        self._over.set()
        self._thread.join()
        if not self._lost:
            self._write(None)

    def beat(self) -> None:
        """Write the claim."""
        self._write({"who": self._who, "beat": time.time()})

    def _go_on(self) -> None:
        while not self._over.wait(BEAT):
            try:
                self.renew()
            except Exception:  # a storage out of reach for a moment; the coordinator's own writes report a lasting one
                continue

    def renew(self) -> None:
        """Give a sign of life, or find the claim lost."""
        found = self._read()
        if isinstance(found, dict) and found.get("who") == self._who:
            self.beat()
        else:
            self._lost = str(found["who"]) if isinstance(found, dict) else "another process"
            self._over.set()

    def _refuse_other(self, found: Any) -> None:
        if not isinstance(found, dict) or found.get("who") == self._who:
            return
        if time.time() - float(found.get("beat", 0)) < STALE:
            raise RunError(
                f"{self._where}: is being tuned by {found.get('who')}; wait for it to end, or stop it "
                f"(a dead one is passed over {STALE:.0f} seconds after its last sign)"
            )
