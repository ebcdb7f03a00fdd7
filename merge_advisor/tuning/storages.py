"""Where a study is kept: a file or the URL of a server, opened, and named without its password."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from merge_advisor.disks import disk_of_others
from merge_advisor.errors import RunError

_PASSWORDS = (re.compile(r"://[^/@:]*:(?P<secret>.*)@"), re.compile(r"[?&]password=(?P<secret>[^&]+)"))
"""Where a URL may hold a password: before the host, or among its parameters."""
_TELLING = 4
"""Characters of a password from which on it is blotted out wherever it stands: a shorter one is part of many words."""


def shown_storage(storage: Path | str) -> str:
    """Return a storage as messages name it: without the password that a URL may hold.

    >>> shown_storage("postgresql://ada:secret@host/studies"), shown_storage("sqlite:///study.sqlite")
    ('postgresql://ada:***@host/studies', 'sqlite:///study.sqlite')

    Args:
        storage: path or URL.
    """
    return without_password(str(storage), storage)


def without_password(text: str, storage: Path | str) -> str:
    """Return a text, of a driver perhaps, in which the password of a storage is blotted out.

    >>> without_password("no user with password secret", "postgresql://ada:secret@host/studies")
    'no user with password ***'

    Args:
        text: the text.
        storage: path or URL.
    """
    for pattern in _PASSWORDS:
        match = pattern.search(str(storage))
        for secret in {match["secret"], unquote(match["secret"])} - {""} if match else ():
            text = text.replace(f":{secret}@", ":***@").replace(f"password={secret}", "password=***")
            text = text.replace(secret, "***") if len(secret) >= _TELLING else text
    return text


def storage_file(storage: Path | str) -> Path | None:
    """Return the SQLite file that a storage is; None for a server, or a file in the form of a URI.

    Args:
        storage: path or URL.

    Raises:
        RunError: it would be in memory alone.
    """
    if isinstance(storage, Path):
        return storage
    if not storage.startswith("sqlite"):
        return None
    import sqlalchemy.engine

    name = sqlalchemy.engine.make_url(storage).database
    if not name or name == ":memory:":
        raise RunError(f"{storage}: keeps nothing once the process ends; name a file, sqlite:///study.sqlite")
    return None if name.startswith("file:") else Path(name)


def open_storage(storage: Path | str, file: Path | None, timeout: float) -> Any:
    """Return the storage, open; SQLite writes ahead and syncs at checkpoints, so that only a power cut loses a trial.

    Args:
        storage: path or URL.
        file: as `storage_file` gives it.
        timeout: seconds to wait for a locked SQLite file, up to five times.
    """
    import optuna

    # what is wrong is raised, and found by checksums; what it logs has parts of a file in it that may be anyone's
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    if file is None:
        # a server may close a connection over which nothing was asked for a while
        return optuna.storages.RDBStorage(str(storage), engine_kwargs={"pool_pre_ping": True})

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(file, timeout=timeout, check_same_thread=False)
        try:
            # no write-ahead log where another machine may have the file open, see `merge_advisor.disks`
            ahead = not disk_of_others(file)
            connection.execute(f"PRAGMA journal_mode={'WAL' if ahead else 'DELETE'}")
            connection.execute(f"PRAGMA synchronous={'NORMAL' if ahead else 'FULL'}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    # the name in the URL is not read: paths may hold what a URL may not
    return optuna.storages.RDBStorage("sqlite:///study.sqlite", engine_kwargs={"creator": connect})
