"""The recipes for CI do what they say when their own shell lines are run: pass, fail, and leave what a job picks up."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gate_world import build_gate_world

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "ci"


@pytest.fixture(scope="module")
def world(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models, and a `merge-advisor` to be found on PATH."""
    folder = build_gate_world(tmp_path_factory.mktemp("ci") / "world", tiny_llama)
    program = folder / "bin" / "merge-advisor"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m merge_advisor "$@"\n')
    program.chmod(0o755)
    return folder


def environment(world: Path, model: str, **more: str) -> dict[str, str]:
    own = {"MODEL": model, "BASELINE": "base", "BASE": "base", "TASK": "task.jsonl", "GUARD": "guard.jsonl"}
    place = {"PATH": f"{world / 'bin'}:{os.environ['PATH']}", "MERGE_ADVISOR_CACHE": str(world / "cache")}
    return {**os.environ, **own, **place, "OMP_NUM_THREADS": "1", **more}


def shell(script: str, world: Path, env: dict[str, str], *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", *flags, "-c", script], cwd=world, env=env, capture_output=True, text=True, timeout=300, check=False
    )


def loaded(name: str) -> dict[Any, Any]:
    read: dict[Any, Any] = yaml.safe_load((RECIPES / name).read_text())
    return read


def clean(world: Path) -> None:
    for name in ("gate.xml", "gate.md", "step.md"):
        (world / name).unlink(missing_ok=True)


@pytest.mark.parametrize(("model", "code"), [("base", 0), ("strong", 1)])
def test_the_github_workflow(world: Path, model: str, code: int) -> None:
    clean(world)
    job = loaded("github-actions.yml")["jobs"]["gate"]
    env = environment(world, model, GITHUB_STEP_SUMMARY=str(world / "step.md"))
    assert set(job["env"]) <= set(env) | {"MERGE_ADVISOR"}
    codes: dict[str, int] = {}
    for step in (step for step in job["steps"] if "run" in step and step["name"] != "install"):
        if any(codes.values()) and step.get("if") != "always()":
            continue
        codes[step["name"]] = shell(step["run"], world, env, "-e").returncode
    assert codes == {"gate": code, "summary": 0}
    assert (world / "step.md").read_text().startswith(f"# Model gate: {'failed' if code else 'passed'}")
    uploaded = next(step for step in job["steps"] if "upload-artifact" in step.get("uses", ""))["with"]["path"].split()
    assert all((world / name).is_file() for name in uploaded)


@pytest.mark.parametrize(("model", "code"), [("base", 0), ("strong", 1)])
def test_the_gitlab_job(world: Path, model: str, code: int) -> None:
    clean(world)
    job = loaded("gitlab-ci.yml")["model-gate"]
    done = shell("\n".join(job["script"]), world, environment(world, model), "-eo", "pipefail")
    assert done.returncode == code, done.stderr
    junit = ET.parse(world / job["artifacts"]["reports"]["junit"]).getroot()
    assert (junit.get("failures") != "0") == bool(code)
    assert all((world / name).is_file() for name in job["artifacts"]["paths"])
    assert job["before_script"] == ['pip install "$MERGE_ADVISOR"'] and set(job["variables"]) >= {"MODEL", "BASELINE"}


def test_the_hook_runs_where_the_model_is_committed_alone(world: Path, tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    shutil.copytree(world, folder, symlinks=True, ignore=shutil.ignore_patterns("cache"))
    hook = loaded("pre-commit-config.yaml")["repos"][0]["hooks"][0]
    script = folder / hook["entry"]
    script.parent.mkdir()
    shutil.copy(RECIPES / "pre-commit-gate", script)
    env = environment(world, "model", GIT_CONFIG_GLOBAL="/dev/null", GIT_CONFIG_SYSTEM="/dev/null")

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return shell(line, folder, env)

    shutil.copytree(folder / "slight", folder / "model")
    begun = run(
        "git init -q . && git config user.email a@b && git config user.name a && git add -A && git commit -qm a"
    )
    assert begun.returncode == 0, begun.stderr
    (folder / "note.txt").write_text("no model")
    run("git add note.txt")
    untouched = run(str(script))
    assert untouched.returncode == 0 and untouched.stdout == ""
    # new files: git takes one of the same size, times (to the second) and number for the same
    shutil.rmtree(folder / "model")
    shutil.copytree(folder / "strong", folder / "model", copy_function=shutil.copyfile)
    assert "M  model/adapter_model" in run("git add model && git status --short").stdout
    failed = run(str(script))
    assert failed.returncode == 1 and "gate failed: model against base" in failed.stdout
    (folder / "model" / "adapter_config.json").write_text("{}")
    unstaged = run(str(script))
    assert unstaged.returncode == 2 and "has changes that are not staged" in unstaged.stderr
