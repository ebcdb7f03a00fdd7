"""A FIFO, socket or device under the name of a file is refused, not waited for."""

import os
import shutil
import socket
from pathlib import Path

import pytest

from merge_advisor.pool.opening import open_pool
from merge_advisor.regular_files import open_regular, read_regular, read_regular_text
from merge_advisor.weights.base import resolve_base

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "fifo")
    (tmp_path / "device").symlink_to("/dev/zero")
    for name in ("fifo", "link", "device"):
        with pytest.raises(OSError, match="no regular file"):
            open_regular(tmp_path / name)
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(tmp_path / "socket"))
        with pytest.raises(OSError, match="device"):
            open_regular(tmp_path / "socket")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "absent")


def test_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbfone\r\ntwo")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == b"\xef\xbb\xbfone\r\ntwo"
    assert read_regular_text(tmp_path / "file", "utf-8-sig") == "one\ntwo"
    with pytest.raises(UnicodeDecodeError):
        read_regular_text(tmp_path / "file", "ascii")


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "README.md"])
def test_a_pool_with_a_fifo_is_read(name: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    pool = shutil.copytree(tiny_pool, tmp_path / "pool")
    (pool / "a0" / name).unlink(missing_ok=True)
    os.mkfifo(pool / "a0" / name)
    opened = open_pool(pool, resolve_base(str(tiny_llama), cache=tmp_path / "cache"))
    if name == "README.md":  # a card that cannot be read is none
        assert "a0" in {candidate.id for candidate in opened.candidates}
    else:
        said = {one.id: one.reason for one in opened.refused}
        assert "no regular file" in said["a0"] and len(opened.candidates) == 5
