"""One writer at a time, of a study and of a run folder: a file lock that ends with its holder, or a heartbeat.

The file lock is `filelock`'s, which locks on Windows as well. The heartbeat is our own: an Optuna storage on a server
(`storage` is a URL) has no file to lock, and two coordinators that write trials into one study make a history that
neither can go on from (`tests/tuning/test_study.py` shows both cases). Optuna has a heartbeat too, but of trials: it
fails those of dead workers, and lets any number of live ones work on a study.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from merge_advisor.errors import RunError
from merge_advisor.regular_files import read_regular
from merge_advisor.write_points import write_point

_BEAT = 15.0
"""Seconds between two heartbeats of a coordinator."""
STALE = 60.0
"""Seconds without a heartbeat after which a coordinator is taken for dead. Four beats, so that a storage out of reach
for a moment loses nothing; the clocks of the machines have to agree to half of this."""
_RUN_LOCK = ".run.lock"
_SETTLE = 0.5
"""Seconds after which a claim is read back, so that of two made at once only the last holds."""


def _this_process() -> str:
    """Describe this process: "process 123 on host since 2026-01-31 12:00:00 UTC"."""
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"


class HolderLock:
    """A lock on a file that says who holds it, held until `release` or the end of the process, however it ends.

    >>> first = HolderLock(Path("study.sqlite.lock"))
    >>> HolderLock(Path("study.sqlite.lock"))
    Traceback (most recent call last):
    merge_advisor.errors.RunError: .: is being tuned by process ...; wait for it to end, or stop it
    >>> first.release()

    Args:
        path: of the file to lock; the holder is described in a file beside it, `path` with ".holder" added.
        doing: what it is held for, in the message to who is refused, with the name of the holder behind it.
        does: what this holder does, said behind its name.
        wait: wait for another holder instead of refusing; a number: so many seconds at most.
        needed: refuse a file system without locks; else nothing is locked there.

    Raises:
        RunError: another process holds it, or the file cannot be written or locked.
    """

    def __init__(
        self,
        path: Path,
        doing: str = "is being tuned by",
        does: str = "",
        *,
        wait: bool | float = False,
        needed: bool = True,
    ) -> None:
        import filelock

        limit = -1.0 if wait is True else float(wait)

        # not in the locked file itself: Windows lets no other process read that, and older versions of filelock empty
        # it whenever another process asks for the lock
        self._holder = path.with_name(f"{path.name}.holder")
        self._lock = filelock.FileLock(path, blocking=wait is not False, timeout=limit)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except filelock.Timeout as error:
            waited = f" (waited {limit:.0f} s)" if limit > 0 else ""
            raise RunError(
                f"{path.parent}: {doing} {self._read_holder()}{waited}; wait for it to end, or stop it"
            ) from error
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RunError(f"{path}: cannot be written ({reason}); check permissions and free space") from error
        try:
            if _is_soft(self._lock):
                if not needed:
                    self._lock.release()
                    return
                raise RunError(f"{path}: cannot be locked; use a local disk")
            write_point("lock taken", path.name)
            self._holder.write_text(_this_process() + (f", which {does}" if does else ""), encoding="utf-8")
            write_point("holder noted", self._holder.name)
        except OSError as error:
            with suppress(OSError):  # cut short by a full disk
                self._holder.unlink(missing_ok=True)
            self._lock.release()
            raise RunError(f"{path}: cannot be written ({error.strerror}); check permissions and free space") from error
        except RunError:
            self._lock.release()
            raise

    def check(self) -> None:
        """Do nothing: a file lock is not lost."""

    def release(self) -> None:
        """Let another process have the lock; the locked file stays, since removing it could split those who wait."""
        if self._lock.is_locked:
            with suppress(OSError):  # it only says who holds the lock
                self._holder.unlink(missing_ok=True)
                write_point("holder removed", self._holder.name)
            self._lock.release()

    def _read_holder(self) -> str:
        try:
            return read_regular(self._holder).decode(errors="replace").strip() or "another process"
        except OSError:  # the holder has the lock and has not yet written, or has just removed the file
            return "another process"


def _is_soft(lock: object) -> bool:
    """Whether a lock is the mere presence of a file, which outlives a holder that is killed.

    filelock turns its locks into such ones on file systems that have no locks.
    """
    import filelock

    return isinstance(lock, filelock.SoftFileLock)


@contextmanager
def run_lock(folder: Path, does: str, *, wait: bool = False) -> Iterator[None]:
    """Let one process at a time change a run folder: score it, tune it or put another in its place.

    A file system without locks is used without; there two at once are the user's to avoid.

    >>> with run_lock(Path("run"), "scores it"), run_lock(Path("run"), "tunes it"):
    ...     pass
    Traceback (most recent call last):
    merge_advisor.errors.RunError: run: is in use by process ..., which scores it; wait for it to end, or stop it

    Args:
        folder: the run folder.
        does: what this process does with it, for who is refused: "scores it".
        wait: wait for another process instead of refusing.

    Yields:
        Nothing.

    Raises:
        RunError: another process changes it, or it cannot be written.
    """
    lock = HolderLock(folder / _RUN_LOCK, "is in use by", does, wait=wait, needed=False)
    try:
        yield
    finally:
        lock.release()


class StudyHeartbeat:
    """A claim in an attribute of a study, renewed every `_BEAT` seconds and void `STALE` seconds after the last beat.

    >>> attribute = {}
    >>> claim = StudyHeartbeat("db: study 'tune'", lambda: attribute.get("coordinator"),
    ...     lambda value: attribute.update(coordinator=value), settle=0)
    >>> sorted(attribute["coordinator"])
    ['beat', 'who']
    >>> claim.release()
    >>> attribute
    {'coordinator': None}

    Args:
        where: names the study in messages.
        read: returns the attribute, or None.
        write: sets it; called from a thread of its own as well.
        settle: seconds after which the claim is read back.

    Raises:
        RunError: another coordinator holds it.
    """

    def __init__(
        self, where: str, read: Callable[[], Any], write: Callable[[Any], None], *, settle: float = _SETTLE
    ) -> None:
        self._where, self._read, self._write = where, read, write
        self._who = f"{_this_process()} ({os.urandom(4).hex()})"
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
        """Write the claim with the time."""
        self._write({"who": self._who, "beat": time.time()})

    def _go_on(self) -> None:
        while not self._over.wait(_BEAT):
            try:
                self.renew()
            except Exception:  # a storage out of reach for a moment; the coordinator's own writes report a lasting one
                continue

    def renew(self) -> None:
        """Write the claim again, or notice that it was lost."""
        claim = self._read()
        if isinstance(claim, dict) and claim.get("who") == self._who:
            self.beat()
        else:
            self._lost = str(claim["who"]) if isinstance(claim, dict) else "another process"
            self._over.set()

    def _refuse_other(self, claim: Any) -> None:
        if not isinstance(claim, dict) or claim.get("who") == self._who:
            return
        if time.time() - float(claim.get("beat", 0)) < STALE:
            raise RunError(
                f"{self._where}: is being tuned by {claim.get('who')}; wait for it to end, or stop it "
                f"(the claim of a dead process ends {STALE:.0f} seconds after its last heartbeat)"
            )
