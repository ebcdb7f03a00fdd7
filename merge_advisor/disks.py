"""What a disk is able to: whether it is of this machine, and whether it has locks.

A write-ahead log of SQLite needs memory in common of all who have the file open. Machines that share a disk have none:
two that write to one store with such a log damage it unseen (eval/reliability.md has it measured).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
"""Of Linux; on other systems every disk is taken for one of the machine."""
_OF_OTHERS = frozenset(
    (
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "gfs2", "gpfs", "lustre", "mmfs",
        "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf", "virtiofs",
        "vmhgfs", "wekafs",
    )
)  # fmt: skip
_LOCAL_FUSE = frozenset(("fuse.fuse-overlayfs", "fuse.lxcfs", "fuse.portal"))
"""What is of this machine of all that runs by FUSE."""


def disk_of_others(path: Path) -> str:
    """Return the kind of file system where a file lies on one that other machines may have too; empty where not.

    >>> disk_of_others(Path("absent"))
    ''

    Args:
        path: a file, which need not be there; its folder, or the next above that is, tells.
    """
    for place in (path.absolute(), *path.absolute().parents):
        try:
            device = place.stat().st_dev
        except OSError:
            continue
        kind = _kind(device, _MOUNTS)
        fuse = kind == "fuse" or (kind.startswith("fuse.") and kind not in _LOCAL_FUSE)
        return kind if fuse or kind in _OF_OTHERS else ""
    return ""


@functools.lru_cache(maxsize=64)
def _kind(device: int, mounts: Path) -> str:
    """The kind of file system of a device, as Linux tells it; empty where nobody does."""
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        # 36 35 98:0 /root /mount options … - kind source options
        before, dash, behind = line.partition(" - ")
        if dash and before.split()[2:3] == [number]:
            return behind.split(" ", 1)[0]
    return ""


def has_locks(path: Path) -> bool:
    """Return whether a file can be locked as SQLite locks it; where a system has no such locks at all, true.

    Args:
        path: a file that may be written and that nobody has locked: a lock of this process would be lost.

    Raises:
        OSError: it cannot be opened.
    """
    try:
        import fcntl
    except ImportError:  # Windows, whose locks are others
        return True
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True
