"""A model in a .zip or .tar file of a pool, unpacked into the cache: once, by its hash, and nothing outside it."""

from __future__ import annotations

import errno
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Generator
from contextlib import closing
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from merge_advisor.errors import PoolError, RunError
from merge_advisor.json_form import VERSION, to_json
from merge_advisor.limits import ARCHIVE_BYTES, ARCHIVE_FILES
from merge_advisor.plain_text import short_name
from merge_advisor.weights.adapter_config import REWRITTEN
from merge_advisor.weights.files import FileError, Hashes, file_digest
from merge_advisor.whole_files import whole_folder

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
"""Ends of the names of archives."""
UNREAD_ARCHIVES = (".7z", ".rar", ".tar.zst", ".tzst", ".tar.lz4")
"""Those of archives that Python does not read."""
_OF_THE_ARCHIVE = {errno.EINVAL, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EILSEQ}
"""Errors of the system that places and names within an archive give; all others are of the disk that is written to."""
_BLOCK = 1 << 20


def archive_stem(name: str) -> str | None:
    """Return the name of an archive without its ending; None where it is none.

    >>> archive_stem("law.tar.gz"), archive_stem("law.safetensors")
    ('law', None)

    Args:
        name: of a file.
    """
    ending = next((end for end in sorted(ARCHIVES, key=len, reverse=True) if name.lower().endswith(end)), None)
    return name[: -len(ending)] if ending and len(name) > len(ending) else None


def unpacked(archive: Path, cache: Path, hashes: Hashes) -> Path:
    """Return the folder that an archive was unpacked to; the one folder in it, where it holds nothing beside that.

    Args:
        archive: a .zip or .tar file, compressed or not.
        cache: folder of what was unpacked.
        hashes: a memo of file hashes.

    Raises:
        PoolError: it is damaged or too large, or holds a link, a device, or a path that leads out of it.
    """
    try:
        folder = cache / file_digest(archive, hashes)
        if not folder.is_dir():
            try:
                with whole_folder(folder) as partial:
                    _unpack(archive, partial)
                    about = {"version": VERSION, "source": archive.name}
                    (partial / REWRITTEN).write_text(to_json(about), encoding="utf-8")
            except RunError:
                if not folder.is_dir():  # else another process was faster, with the same files
                    raise
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        lzma.LZMAError,
        EOFError,
        RuntimeError,
        NotImplementedError,
    ) as error:
        # RuntimeError: a zip with a password
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise PoolError(f"{archive.name}: cannot be unpacked ({reason}); fetch it again, or unpack it there") from error
    except FileError as error:
        raise PoolError(str(error)) from error
    while (
        len(inside := [path for path in folder.iterdir() if path.name not in (REWRITTEN, "__MACOSX")]) == 1
        and inside[0].is_dir()
    ):
        folder = inside[0]
    return folder


def _unpack(archive: Path, folder: Path) -> None:
    try:
        _unpack_files(archive, folder)
    except OSError as error:
        # without a number: not of the system, but of gzip or bz2 about damaged bytes
        if error.errno is not None and error.errno not in _OF_THE_ARCHIVE:
            raise
        reason = error.strerror or error
        raise PoolError(f"{archive.name}: cannot be unpacked ({reason}); fetch it again, or unpack it there") from error


def _unpack_files(archive: Path, folder: Path) -> None:
    left, most = ARCHIVE_BYTES.most, ARCHIVE_FILES.most
    with closing(_files(archive)) as files:
        for number, (name, stream) in enumerate(files):
            with stream:
                if _is_of_system(name):
                    continue
                if number >= most:
                    raise PoolError(
                        f"{archive.name}: holds {ARCHIVE_FILES.over} files; unpack what is needed of it there, or "
                        f"{ARCHIVE_FILES.remedy()}"
                    )
                target = folder / _safe(name, archive)
                if target.exists():
                    raise PoolError(f"{archive.name}: holds {short_name(name)} twice; pack it again")
                target.parent.mkdir(parents=True, exist_ok=True)
                left -= _write(stream, target, left)
                if left < 0:
                    raise PoolError(
                        f"{archive.name}: unpacks to {ARCHIVE_BYTES.over}; unpack it there if that is right, or "
                        f"{ARCHIVE_BYTES.remedy()}"
                    )


def _is_of_system(name: str) -> bool:
    """Whether a file is what macOS packs beside each one (`__MACOSX/law/._README.md`), which is nothing of a model."""
    *folders, last = name.replace("\\", "/").split("/")
    return "__MACOSX" in folders or last.startswith("._") or last == ".DS_Store"


def _write(stream: IO[bytes], target: Path, most: int) -> int:
    """Write a file, and stop where it is longer than it may be: counted as it comes, a header may say anything."""
    size = 0
    with target.open("xb") as out:
        while size <= most and (block := stream.read(_BLOCK)):
            size += len(block)
            out.write(block)
    return size


def _files(archive: Path) -> Generator[tuple[str, IO[bytes]]]:
    """Yield name and content of each plain file."""
    try:
        yield from _entries(archive)
    except (ValueError, LookupError, ArithmeticError, struct.error) as error:
        # what the readers of Python trip over in damaged headers: names that are empty or no text, dates that are none
        reason = " ".join(str(error).split())[:120]
        raise PoolError(f"{archive.name}: cannot be unpacked ({reason}); fetch it again, or unpack it there") from error


def _entries(archive: Path) -> Generator[tuple[str, IO[bytes]]]:
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as packed:
            for item in packed.infolist():
                kind = (item.external_attr >> 16) & 0o170000
                if kind not in (0, 0o100000, 0o040000):
                    raise PoolError(f"{archive.name}: {_no_file(item.filename)}")
                if not item.is_dir():
                    yield item.filename, packed.open(item)
        return
    with tarfile.open(archive, "r:*") as tape:
        for entry in tape:
            if entry.isdir():
                continue
            content = tape.extractfile(entry) if entry.isreg() else None
            if content is None:
                raise PoolError(f"{archive.name}: {_no_file(entry.name)}")
            yield entry.name, content
        # the check sum of a packed file stands at its end, which is behind what tar looks at
        behind = 0
        while tape.fileobj and behind <= ARCHIVE_BYTES.most and (block := tape.fileobj.read(_BLOCK)):
            behind += len(block)
    if behind > ARCHIVE_BYTES.most:
        raise PoolError(f"{archive.name}: unpacks to {ARCHIVE_BYTES.over}, most of it behind its end; pack it again")


def _no_file(name: str) -> str:
    return f"holds {short_name(name)}, which is a link or a device; pack plain files"


def _safe(name: str, archive: Path) -> str:
    parts = PurePosixPath(name.replace("\\", "/")).parts
    windows = PureWindowsPath(name)
    if not parts or ".." in parts or parts[0] == "/" or windows.drive or "\0" in name:
        raise PoolError(f"{archive.name}: holds {short_name(name)}, which leads out of it; pack it again")
    if name == REWRITTEN:
        raise PoolError(f"{archive.name}: holds {REWRITTEN}, a name that is kept; rename that file")
    return "/".join(parts)
