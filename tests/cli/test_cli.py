"""The command line: instant help, one line for bad input, the right exit code, nothing lost."""

import json
import os
import subprocess
import sys
from argparse import ArgumentParser
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor import registry
from merge_advisor.backbone.model import Backbone
from merge_advisor.cli import main
from merge_advisor.cli.options import KINDS
from merge_advisor.cli.parser import build_parser
from merge_advisor.cli.progress import progress_reporter
from merge_advisor.cli.settings import read_settings
from merge_advisor.errors import InputError
from merge_advisor.store import Store
from merge_advisor.weights.updates import WeightDelta

HEAVY = ("numpy", "torch", "transformers", "peft", "mergekit", "lm_eval", "optuna", "pandas", "sklearn", "scipy",
         "pydantic", "huggingface_hub", "datasets", "yaml")  # fmt: skip


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom merge_advisor.cli import main\ntry:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n"
        f"    assert stop.code == 0\nprint('loaded', sorted(set(sys.modules) & set({HEAVY!r})))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.splitlines()[-1] == "loaded []"


def commands() -> dict[str, ArgumentParser]:
    choices = next(action for action in build_parser()._actions if action.dest == "command").choices
    assert isinstance(choices, dict)
    return choices


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_has_json_and_help(command: str) -> None:
    text = commands()[command].format_help()
    assert "--json" in text and "--debug" in text and "-q" in text


def error_of(capsys: pytest.CaptureFixture[str], *arguments: Path | str, code: int = 2) -> str:
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("merge-advisor: error:")]
    assert out == "" and len(lines) == 1 and "Traceback" not in err
    return lines[0]


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps({"input": f"{n}?", "output": str(n)}) for n in range(20)))
    return path


def test_what_is_missing_is_named(
    capsys: pytest.CaptureFixture[str],
    task: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_llama: Path,
    tiny_pool: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "give --pool" in error_of(capsys, "plan", "--task", task)
    assert "give --base" in error_of(capsys, "plan", "--task", task, "--pool", tiny_pool)
    here = ("--pool", tiny_pool, "--base", tiny_llama, "--cache", tmp_path / "cache")
    assert "absent.jsonl" in error_of(capsys, "plan", "--task", tmp_path / "absent.jsonl", *here)
    assert "strategy 'best' is unknown; choose one of" in error_of(
        capsys, "plan", "--task", task, *here, "--strategy", "best"
    )
    assert "'size=3' is no parameter" in error_of(capsys, "plan", "--task", task, *here, "--strategy", "rerank:size=3")
    assert "composition 'sum'" in error_of(capsys, "plan", "--task", task, *here, "--composition", "sum")
    assert "embedding 'x'" in error_of(capsys, "plan", "--task", task, *here, "--embedding", "x")
    assert "--k 0" in error_of(capsys, "plan", "--task", task, *here, "--k", "0")
    assert "--threads 0" in error_of(capsys, "plan", "--task", task, *here, "--threads", "0")
    assert "no such candidate" in error_of(capsys, "plan", "--task", task, *here, "--anchor", "zz", "--lora-steps", "1")
    assert "has no encoder" in error_of(
        capsys, "plan", "--task", task, *here, "--embedding", "delta_activations_encoder"
    )
    assert "no CUDA" in error_of(capsys, "plan", "--task", task, *here, "--device", "cuda")
    assert "no run folder" in error_of(capsys, "merge", tmp_path, "--out", tmp_path / "m")
    assert not (tmp_path / "runs" / "task").exists()


def test_a_run_folder_in_the_way(
    capsys: pytest.CaptureFixture[str], task: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    here = ["--pool", str(tiny_pool), "--base", str(tiny_llama), "--cache", str(tmp_path / "cache"), "--no-score",
            "--lora-steps", "2", "--strategy", "random", "--adaptation", "none",
            "--out", str(tmp_path / "run")]  # fmt: skip
    assert main(["plan", "--task", str(task), *here]) == 0
    capsys.readouterr()
    assert "--force" in error_of(capsys, "plan", "--task", task, *here)
    assert main(["plan", "--task", str(task), *here, "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"]["selection"]["strategy"] == "random"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious.txt").write_text("mine")
    here[-1] = str(tmp_path / "other")
    assert "no run folder" in error_of(capsys, "plan", "--task", task, *here, "--force")
    assert (tmp_path / "other" / "precious.txt").read_text() == "mine"
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_a_bad_model_is_set_aside_and_the_code_says_so(
    capsys: pytest.CaptureFixture[str], task: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    import shutil

    shutil.copytree(tiny_pool, tmp_path / "pool")
    (tmp_path / "pool" / "a1" / "adapter_model.safetensors").write_bytes(b"short")
    code = main(["plan", "--task", str(task), "--pool", str(tmp_path / "pool"), "--base", str(tiny_llama), "--cache",
                 str(tmp_path / "cache"), "--no-score", "--lora-steps", "2", "--strategy", "random", "--k", "99",
                 "--adaptation", "none", "--out", str(tmp_path / "run")])  # fmt: skip
    assert code == 3
    assert "set aside a1" in capsys.readouterr().err
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert {c["id"]: c["status"] for c in plan["candidates"]}["a1"] == "refused"
    assert any("`k=99`" in note for note in plan["notes"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(
    capsys: pytest.CaptureFixture[str], task: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    here = ("--pool", tiny_pool, "--base", tiny_llama, "--cache", tmp_path / "cache")
    assert "cannot be written" in error_of(capsys, "plan", "--task", task, *here, "--out", tmp_path / "closed" / "run")


def test_a_file_where_a_folder_is_needed(
    capsys: pytest.CaptureFixture[str], task: Path, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    (tmp_path / "file").write_text("")
    here = ("--pool", tiny_pool, "--base", tiny_llama)
    assert "cannot be" in error_of(capsys, "plan", "--task", task, *here, "--cache", tmp_path / "file" / "x")
    assert "cannot be made" in error_of(
        capsys, "plan", "--task", task, *here, "--cache", tmp_path / "c", "--out", tmp_path / "file" / "run"
    )


def test_interrupting_keeps_what_was_measured(
    tmp_path: Path,
    task: Path,
    tiny_llama: Path,
    tiny_pool: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C while the pool is embedded: no run folder, no leftovers, and the deltas so far are stored."""
    from merge_advisor.backbone import place as module

    real = module.placed
    seen: list[Any] = []

    def placed(backbone: Backbone, delta: WeightDelta) -> AbstractContextManager[None]:
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(delta)
        return real(backbone, delta)

    arguments = ["plan", "--task", str(task), "--pool", str(tiny_pool), "--base", str(tiny_llama), "--cache",
                 str(tmp_path / "cache"), "--out", str(tmp_path / "run"), "--no-score", "--lora-steps", "2",
                 "--strategy", "random", "--adaptation", "none"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr(module, "placed", placed)
        assert main(arguments) == 130
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "run").exists() and not list(tmp_path.glob(".run*"))
    with Store(tmp_path / "cache" / "store.sqlite") as store:
        kept = store._file.rows("SELECT COUNT(*) FROM deltas WHERE fingerprint != 'base'")[0][0]
    assert kept == 3
    assert main(arguments) == 0


@pytest.mark.parametrize(
    ("words", "goes_on"),
    [
        (["show", "strategies"], ""), (["doctor"], ""), (["try", "run", "a prompt"], ""), (["card", "run"], ""),
        (["convert", "a", "--out", "b"], ""), (["plan", "--task", "rows.jsonl", "--dry-run"], ""),
        (["hub", "list", "--hub", "h"], ""),
        (["tune", "a run", "--trials", "3"], "merge-advisor tune 'a run' --trials 3"),
        (["score", "run", "--task", "$x\n.jsonl"], r"merge-advisor score run --task '$x\n.jsonl'"),
        (["hub", "add", "m", "--hub", "h"], "merge-advisor hub add m --hub h"),
        (["embed", "--out", "x" * 2000], "the same command"),
    ],
)  # fmt: skip
def test_an_interrupt_says_what_goes_on(
    words: list[str], goes_on: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("merge_advisor.cli.commands.run", interrupted)
    assert main(words) == 130
    said = capsys.readouterr().err
    again = f"`{goes_on}`" if goes_on.startswith("merge-advisor") else goes_on
    more = f"; all that was measured is stored, and {again} goes on" if goes_on else ""
    assert said == f"merge-advisor: interrupted{more}\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate")])
def test_memory_that_runs_out_is_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(_: object) -> int:
        raise error

    monkeypatch.setattr("merge_advisor.cli.commands.run", full)
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith("merge-advisor: error: memory ran out; free some, or give less at once")
    with pytest.raises(type(error)):
        main(["doctor", "--debug"])


def test_an_error_of_code_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(_: object) -> int:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr("merge_advisor.cli.commands.run", wrong)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        main(["doctor"])


def test_embed_writes_ids_deltas_and_space(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "deltas.npz"
    arguments = ["embed", "--pool", str(tiny_pool), "--base", str(tiny_llama), "--out", str(out), "--cache",
                 str(tmp_path / "cache")]  # fmt: skip
    assert main(arguments) == 0
    assert "6 deltas of 32 dimensions" in capsys.readouterr().out
    found = np.load(out, allow_pickle=False)
    assert found["ids"].tolist() == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert found["deltas"].shape == (6, 32) and found["deltas"].dtype == np.float32
    assert json.loads(str(found["space"]))["embedding"] == "delta_activations"
    assert "must end in .npz" in error_of(capsys, *arguments[:-4], "--out", tmp_path / "deltas.txt")


@pytest.mark.parametrize("what", sorted(KINDS))
def test_show_lists_all_that_is_registered(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", what, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)[what]
    assert [item["name"] for item in found] == registry.names(KINDS[what])
    assert all(text.strip() for item in found for text in item.values())
    assert main(["show", what]) == 0
    assert found[0]["name"] in capsys.readouterr().out


def test_show_compositions_says_what_carries_each_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "compositions", "--json"]) == 0
    found = {row["name"]: row for row in json.loads(capsys.readouterr().out)["compositions"]}
    assert found["exact"]["formats"] == "mergekit, peft" and found["ties"]["formats"] == "mergekit"
    assert found["dare_ties"]["formats"] == "full model only" and found["dare_ties"]["deterministic"] == "no, by seed"
    assert all(row["weight means"] and row["memory"] and row["takes"] for row in found.values())


def test_init_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "--demo"]) == 0
    assert "merge-advisor plan --task mixed.jsonl" in capsys.readouterr().out
    found = read_settings(tmp_path)
    assert Path(found["pool"]).name == "pool.yaml" and found["base"].startswith("HuggingFaceTB/")
    assert "is there already" in error_of(capsys, "init")
    assert main(["init", "--force", "--pool", "adapters", "--base", "org/name"]) == 0
    assert read_settings(tmp_path) == {"pool": "adapters", "base": "org/name"}
    for text, said in (("k = 'x'", "is no int"), ("size = 3", "unknown key 'size'"), ("= 3", "not TOML")):
        (tmp_path / "merge-advisor.toml").write_text(text)
        with pytest.raises(InputError, match=said):
            read_settings(tmp_path)


def test_settings_fill_what_options_leave_out(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: Path,
    tiny_llama: Path,
    tiny_pool: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "merge-advisor.toml").write_text(
        f"base = {json.dumps(str(tiny_llama))}\npool = {json.dumps(str(tiny_pool))}\ncache = 'cache'\nk = 1\n"
        "strategy = 'top_k'\n"
    )
    assert main(["plan", "--task", "task.jsonl", "--no-score", "--lora-steps", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "runs/task" and found["plan"]["settings"]["k"] == 1
    assert found["plan"]["settings"]["strategy"] == "top_k" and (tmp_path / "cache" / "store.sqlite").is_file()


def test_dry_run_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    task: Path,
    tiny_llama: Path,
    tiny_pool: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    here = ["--pool", str(tiny_pool), "--base", str(tiny_llama), "--cache", str(tmp_path / "cache")]
    assert main(["plan", "--task", str(task), *here, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "pool of 6 candidates" in out and "forward passes" in out
    assert not (tmp_path / "runs").exists()


def test_doctor(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(tmp_path / "cache"))
    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    (tmp_path / "merge-advisor.toml").write_text("nonsense = 1\n")
    assert main(["doctor"]) == 1
    assert "BROKEN  settings" in capsys.readouterr().out


def test_progress_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    progress = progress_reporter("auto")
    progress("embedding", 1, 2)
    progress.announce("found")
    progress.finish()
    assert capsys.readouterr().err == ""
    progress = progress_reporter("always")
    progress("embedding", 2, 2)
    assert "embedding 2/2" in capsys.readouterr().err


def test_doctor_compares_what_is_stored_with_its_checksums(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "kept.sqlite"
    (tmp_path / "merge-advisor.toml").write_text('store = "kept.sqlite"\ncache = "cache"\n')
    assert main(["doctor", "--store"]) == 0
    assert "kept.sqlite: nothing is stored yet" in capsys.readouterr().out
    with Store(path) as store:
        store.keep_measured("one", [0.71828])
        store.keep_measured("two", [0.5])
    assert main(["doctor", "--store"]) == 0
    assert "kept.sqlite: deltas of models: 0 kept, 0 damaged; measurements: 2 kept, 0 damaged" in (
        capsys.readouterr().out
    )
    path.write_bytes(path.read_bytes().replace(b"0.71828", b"0.71827"))
    for _ in range(2):  # looking changes nothing
        assert main(["doctor", "--store"]) == 1
        out = capsys.readouterr().out
        assert "BROKEN  store" in out and "measurements: 2 kept, 1 damaged" in out and "made anew" in out
    path.write_bytes(b"no store" * 1000)
    assert main(["doctor", "--store"]) == 1
    assert "is damaged, or no store" in capsys.readouterr().out


def test_damage_is_one_line_of_a_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    places = ["--pool", str(tiny_pool), "--base", str(tiny_llama), "--cache", str(tmp_path / "cache")]
    for out in ("first", "second"):
        assert main(["embed", *places, "--out", str(tmp_path / f"{out}.npz")]) == 0
        assert "damaged" not in capsys.readouterr().err
    with Store(tmp_path / "cache" / "store.sqlite") as store:
        store._file.run("UPDATE deltas SET delta = zeroblob(length(delta))")
    assert main(["embed", *places, "--out", str(tmp_path / "third.npz")]) == 0
    said = capsys.readouterr().err
    assert said.count("\n") == said.count("deltas of models kept there were damaged; they are made anew") == 1
    assert said.startswith("merge-advisor: warning: store ")
    first, third = (np.load(tmp_path / f"{name}.npz")["deltas"] for name in ("first", "third"))
    assert np.array_equal(first, third)


def test_a_plan_interrupted_while_it_is_scored_goes_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, task: Path,
    tiny_llama: Path, tiny_pool: Path,
) -> None:  # fmt: skip
    from merge_advisor.advisor.scoring import score_run

    def planned(out: str, cache: str, *more: str) -> int:
        places = ["--pool", str(tiny_pool), "--base", str(tiny_llama), "--cache", str(tmp_path / cache)]
        how = ["--strategy", "top_k", "--k", "1", "--adaptation", "none", "--lora-steps", "1", "--threads", "1"]
        return main(["plan", "--task", str(task), *places, *how, "--out", str(tmp_path / out), *more])

    assert planned("whole", "other") == 0
    scored = score_run.score_task
    with monkeypatch.context() as patch:

        def interrupted(*args: object, **more: object) -> object:
            scored(*args, **more)  # type: ignore[arg-type]
            raise KeyboardInterrupt

        patch.setattr(score_run, "score_task", interrupted)
        assert planned("run", "cache") == 130
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(
        "merge-advisor: interrupted; all that was measured is stored, and `merge-advisor plan --task "
    )
    assert said.endswith(f"--out {tmp_path / 'run'}` goes on")
    run = tmp_path / "run"
    assert not (run / "score").exists() and (run / "unfinished").is_file()
    assert planned("run", "cache", "--seed", "5") == 2
    assert "is there already" in capsys.readouterr().err
    with monkeypatch.context() as patch:  # all that was measured is stored: no base is loaded again
        patch.setattr("merge_advisor.backbone.model.load_backbone", None)
        assert planned("run", "cache") == 0
    assert not (run / "unfinished").exists()
    made = [run / "recipe.json", *(run / "score").iterdir()]
    assert len(made) == 2
    for path in made:
        assert path.read_bytes() == (tmp_path / "whole" / path.relative_to(run)).read_bytes()
    assert planned("run", "cache") == 2  # it is finished
    assert "is there already" in capsys.readouterr().err
