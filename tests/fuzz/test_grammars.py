"""What Hypothesis makes of JSON, YAML and TOML: it cuts what it finds down itself."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.checks import Case
from tests.fuzz.oracle import faults_of
from tests.fuzz.running import Fuzzer
from tests.fuzz.seeds import MANIFEST, SETUPS, TASKS
from tests.fuzz.targets import TARGETS
from tests.fuzz.world import KEPT, Place

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)  # with lone surrogates
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.sampled_from([10**400, -(10**30), "\x1b[31m", "a\0b", "~x/y"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
often = settings(
    max_examples=60, derandomize=True, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
Look = Callable[[Case], None]


@pytest.fixture
def look(fuzzer: Fuzzer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Look]:
    """Run a case in this process, and fail where there is a fault."""
    place = Place(tmp_path / "place", fuzzer.world)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(place.folder / KEPT))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = Path.cwd()

    def run(case: Case) -> None:
        said, faults = fuzzer.run_here(place, case.target, [case])
        assert not faults, (faults, said)
        assert faults_of(said, TARGETS[case.target].codes) == []

    yield run
    os.chdir(before)


@st.composite
def altered(draw: st.DrawFn, whole: Any) -> Any:
    """A value with any value in place of one part of it."""
    if draw(st.booleans()) and isinstance(whole, dict) and whole:
        name = draw(st.sampled_from(sorted(whole)))
        return {**whole, name: draw(altered(whole[name]))}
    if draw(st.booleans()) and isinstance(whole, list) and whole:
        place = draw(st.integers(0, len(whole) - 1))
        return [*whole[:place], draw(altered(whole[place])), *whole[place + 1 :]]
    return draw(VALUES)


@given(
    rows=st.sampled_from(sorted(TASKS)).flatmap(lambda name: altered(TASKS[name])),
    ending=st.sampled_from([".json", ".jsonl"]),
)
@often
def test_task_files(rows: Any, ending: str, look: Look) -> None:
    lines = rows if ending == ".jsonl" and isinstance(rows, list) else [rows]
    words = ("plan", "--task", f"rows{ending}", "--dry-run", "--pool", "adapters", "--base", "absent")
    data = "\n".join(json.dumps(line) for line in lines).encode()
    look(Case("tasks", {f"rows{ending}": data}, words, {"lines": None}))


@given(manifest=altered(MANIFEST))
@often
def test_manifests(manifest: Any, look: Look) -> None:
    data = json.dumps(manifest).encode()
    look(Case("manifests", {"pool.yaml": data}, ("bench", "setup.yaml", "--dry-run", "--pool", "pool.yaml")))


@given(setup=st.sampled_from(SETUPS).flatmap(altered))
@often
def test_setups(setup: Any, look: Look) -> None:
    look(Case("setups", {"own.yaml": json.dumps(setup).encode()}, ("bench", "own.yaml", "--dry-run")))


@given(name=st.sampled_from(["base", "pool", "k", "cache", "device", "threads", "offline", "guard", "x"]), value=VALUES)
@often
def test_settings(name: str, value: Any, look: Look) -> None:
    text = f"{name} = {json.dumps(value)}\n"  # most of JSON is TOML
    look(Case("settings", {"merge-advisor.toml": text.encode()}, ("bench", "setup.yaml", "--dry-run")))
