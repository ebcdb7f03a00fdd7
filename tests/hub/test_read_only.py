"""A hub folder where nothing can be written: it is read as it is, and what would write says so in one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.hub import Hub
from tests.hub.hub_world import filled

ROOT = Path(__file__).parents[2]
SAID = """
import contextlib, io, json, sys
from merge_advisor.cli import main
told = []
for words in json.loads(sys.argv[1]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    told.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(told))
"""


def said_by(commands: list[list[str]], folder: Path) -> list[Any]:
    """What commands say, and their exit codes, in a process for which a folder cannot be written.

    For root, who may write whatever the modes of files say, it is mounted so, in a namespace of that process alone.
    """
    words = [sys.executable, "-c", SAID, json.dumps(commands)]
    if os.geteuid() == 0:
        mounted = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'
        if (
            shutil.which("unshare") is None
            or subprocess.run(
                ["unshare", "-m", "sh", "-c", mounted, str(folder), "true"], capture_output=True, check=False
            ).returncode
        ):
            pytest.skip("root may write anywhere, and may mount nothing here")
        words = ["unshare", "-m", "sh", "-c", mounted, str(folder), *words]
    else:
        for path in (*folder.rglob("*"), folder):
            path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            check=False,
            cwd=folder.parent,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
    finally:
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


@pytest.mark.slow
def test_a_hub_that_cannot_be_written_is_read_and_changes_are_one_line(tmp_path: Path) -> None:
    with filled(tmp_path / "hub", 12) as hub:
        wanted = [hit.entry.id for hit in hub.search(like="m3", k=4).hits]
    before = {path: path.read_bytes() for path in (tmp_path / "hub").rglob("*") if path.is_file()}
    (tmp_path / "pool").mkdir()
    reading = [
        "search --like m3 -k 4 --json", "search --text card", "list", "list --runs", "show m1", "check",
        "export out.parquet",
    ]  # fmt: skip
    writing = ["add pool --base absent", "remove m1", "check --repair"]
    commands = [["hub", "--hub", "hub", *words.split()] for words in (*reading, *writing)]
    told = said_by(commands, tmp_path / "hub")
    for (code, out, err), words in zip(told, [*reading, *writing], strict=True):
        if words in reading:
            assert code == 0 and out and err == "", (words, err)
        else:
            assert code == 2 and out == "" and err.count("\n") == 1 and "Traceback" not in err, (words, err)
            assert "hub" in err and any(why in err.lower() for why in ("read-only", "readonly", "permission")), err
    assert [hit["id"] for hit in json.loads(told[0][1])["hits"]] == wanted
    assert "nothing is wrong" in told[5][1]
    assert {path: path.read_bytes() for path in (tmp_path / "hub").rglob("*") if path.is_file()} == before
    with Hub.open(tmp_path / "hub") as hub:
        assert hub.count() == 12
