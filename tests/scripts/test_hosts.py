"""Hosts out of one machine, as scripts/bench/hosts.py makes them: where there can be none, one line says why."""

import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def script() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "bench" / "hosts.py"))


def test_without_root_or_programs_it_is_skipped_in_one_line(
    script: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["hosts.py"])
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    script["main"]()
    assert capsys.readouterr().out == "skipped: only root may make networks; run it as root\n"
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None if name in ("ip", "nsenter") else name)
    script["main"]()
    assert capsys.readouterr().out == "skipped: ip, nsenter not found; install iproute2 and util-linux\n"


def test_folders_are_compared_file_by_file(script: dict[str, Any], tmp_path: Path) -> None:
    for name in ("alone", "beside"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.npz").write_bytes(b"1")
    compared = script["compared"]
    assert compared(tmp_path / "alone", tmp_path / "beside", "*.npz") == {"same": True, "differ": []}
    assert compared(tmp_path / "alone", tmp_path / "beside", "*.none") == {"same": False, "differ": []}
    (tmp_path / "beside" / "a.npz").write_bytes(b"2")
    (tmp_path / "alone" / "b.npz").write_bytes(b"1")
    assert compared(tmp_path / "alone", tmp_path / "beside", "*.npz") == {"same": False, "differ": ["a.npz", "b.npz"]}
