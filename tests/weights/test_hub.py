"""Hub ids, against a stand-in server here; each step is a process of its own, as settings are read once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub_server import Hub

STEP = """
import json, sys
from pathlib import Path
from merge_advisor.weights.base import resolve_base
from merge_advisor.errors import MergeAdvisorError
from merge_advisor.pool import open_pool

asked = json.loads(sys.argv[1])
try:
    base = resolve_base(asked["base"], offline=asked.get("offline", False),
                        cache=Path(asked["cache"]))
    found = {"id": base.base.id, "revision": base.base.revision, "digest": base.base.digest,
             "files": sorted(path.name for path in base.path.iterdir()), "torch": "torch" in sys.modules}
    if "pool" in asked:
        pool = open_pool(asked["pool"], base, offline=asked.get("offline", False))
        found["candidates"] = [[c.id, c.source, c.revision, c.kind] for c in pool.candidates]
        found["refused"] = {r.id: r.reason for r in pool.refused}
except MergeAdvisorError as error:
    found = {"error": type(error).__name__, "message": str(error), "code": error.exit_code}
print(json.dumps(found))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        yield server


@pytest.fixture
def step(hub: Hub, tmp_path: Path) -> Callable[..., Any]:
    def run(base: Path | str, env: dict[str, str] | tuple[Any, ...] = (), **asked: Any) -> dict[str, Any]:
        environment = os.environ | {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1",
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1",
        } | dict(env)  # fmt: skip
        environment.pop("HF_HUB_CACHE", None)
        text = json.dumps({"base": str(base), "cache": str(tmp_path / "cache"), **asked})
        done = subprocess.run(
            [sys.executable, "-c", STEP, text], env=environment, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stderr == ""  # no progress where nobody watches
        told: dict[str, Any] = json.loads(done.stdout)
        return told

    return run


def test_base_is_fetched_pinned_and_then_found_offline(hub: Hub, step: Callable[..., Any], tiny_llama: Path) -> None:
    hub.add("acme/tiny", tiny_llama)
    hub.repos["acme/tiny"] = {k: {**v, "pytorch_model.bin": b"pickle"} for k, v in hub.repos["acme/tiny"].items()}
    commit = next(iter(hub.repos["acme/tiny"]))
    first = step("acme/tiny")
    assert (first["id"], first["revision"]) == ("acme/tiny", commit)
    assert "model.safetensors" in first["files"]
    assert "pytorch_model.bin" not in first["files"]
    assert not first["torch"]

    asked = len(hub.requests)
    assert step("acme/tiny", offline=True) == first
    assert step("acme/tiny", env={"HF_HUB_OFFLINE": "1"}) == first
    assert step(f"acme/tiny@{commit}") == first  # a commit that is here needs no question
    assert len(hub.requests) == asked


def test_revision_picks_a_commit(hub: Hub, step: Callable[..., Any], tiny_llama: Path, tmp_path: Path) -> None:
    old = hub.add("acme/tiny", tiny_llama)
    changed = tmp_path / "changed"
    changed.mkdir()
    for path in tiny_llama.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    (changed / "chat_template.jinja").write_text("{{ messages }}")
    new = hub.add("acme/tiny", changed)
    newest, pinned = step("acme/tiny"), step(f"acme/tiny@{old}")
    assert (newest["revision"], pinned["revision"]) == (new, old)
    assert newest["digest"] != pinned["digest"]


def test_cold_cache_offline_says_what_to_do(step: Callable[..., Any]) -> None:
    found = step("acme/absent", offline=True)
    assert (found["error"], found["code"]) == ("OfflineError", 2)
    assert "acme/absent: not in the hub's cache" in found["message"]
    assert "run once online" in found["message"]


@pytest.mark.parametrize(
    ("name", "message"), [("acme/absent", "no such model on the hub"), ("acme/tiny@nowhere", "no such revision")]
)
def test_unknown_names_and_revisions(
    hub: Hub, step: Callable[..., Any], tiny_llama: Path, name: str, message: str
) -> None:
    hub.add("acme/tiny", tiny_llama)
    found = step(name)
    assert (found["error"], found["code"]) == ("BaseModelError", 2)
    assert message in found["message"]
    assert name in found["message"]


def test_a_hub_out_of_reach_is_no_fault_of_the_input(step: Callable[..., Any]) -> None:
    found = step("acme/tiny", env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert (found["error"], found["code"]) == ("ExternalError", 1)
    assert "cannot be reached" in found["message"]


def test_pool_of_hub_ids(hub: Hub, step: Callable[..., Any], tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    first = hub.add("acme/a0", tiny_pool / "a0")
    hub.add("acme/a0", tiny_pool / "a1")
    second = hub.add("acme/b0", tiny_pool / "b0")
    listed = tmp_path / "pool.txt"
    listed.write_text(f"# three\nacme/a0@{first}\nacme/b0\nacme/gone  # not there\n")
    found = step(tiny_llama, pool=str(listed))
    assert found["candidates"] == [
        ["acme/a0", "acme/a0", first, "adapter"],
        ["acme/b0", "acme/b0", second, "adapter"],
    ]
    assert list(found["refused"]) == ["acme/gone"]
    assert "no such model on the hub" in found["refused"]["acme/gone"]

    offline = step(tiny_llama, pool=str(listed), offline=True)
    assert offline["candidates"] == found["candidates"]
    assert "fetching is off" in offline["refused"]["acme/gone"]
    cold = step(tiny_llama, pool="acme/gone, acme/lost", offline=True)
    assert cold["error"] == "OfflineError"


def test_a_checkpoint_on_the_hub_is_fetched_whole_but_an_adapter_never_is(
    hub: Hub, step: Callable[..., Any], tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    from safetensors.numpy import load_file, save_file

    both = tmp_path / "both"
    both.mkdir()
    for path in [*(tiny_pool / "a0").iterdir(), *tiny_llama.iterdir()]:
        (both / path.name).write_bytes(path.read_bytes())
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "config.json").write_bytes((tiny_llama / "config.json").read_bytes())
    tensors = {name: array * 1.5 for name, array in load_file(tiny_llama / "model.safetensors").items()}
    save_file(tensors, tuned / "model.safetensors")
    hub.add("acme/both", both)
    hub.add("acme/tuned", tuned)
    found = step(tiny_llama, pool="acme/both,acme/tuned")
    assert [(name, kind) for name, _, _, kind in found["candidates"]] == [
        ("acme/both", "adapter"),
        ("acme/tuned", "checkpoint"),
    ]
    assert not any("both" in path and path.endswith("/model.safetensors") for _, path in hub.requests)
