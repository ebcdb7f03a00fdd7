"""merge-advisor.toml: an option given wins over it, it wins over the default, and every command reads it."""

import json
import shutil
from pathlib import Path

import pytest

from merge_advisor.cli import main
from merge_advisor.errors import ExternalError, InputError
from merge_advisor.machine_options import Machine
from merge_advisor.store import Store
from tests.support.run_files import unchecked


def write(folder: Path, **settings: object) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    (folder / "merge-advisor.toml").write_text("\n".join(lines))


PLAN = (
    "plan --task examples.jsonl --base base --pool adapters --strategy random --adaptation none --lora-steps 1 "
    "--no-score --force"
)


def test_a_run_keeps_its_adaptation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, adaptation="continue")
    assert main("tune run --trials 1 --no-score --dry-run".split()) == 0
    assert "adaptation" not in capsys.readouterr().out
    # asked for, it is heard: this run's merge cannot be trained on
    assert main("tune run --trials 1 --no-score --dry-run --adaptation continue".split()) == 2
    assert "shots_lora is a member of its merge" in capsys.readouterr().err


def test_an_option_given_wins_though_it_is_the_default(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, device="cuda", k=1, strategy="top_k")
    assert main([*PLAN.split(), "--out", "new"]) == 2
    assert "no CUDA" in capsys.readouterr().err
    assert main([*PLAN.split(), "--out", "new", "--device", "cpu", "--k", "4", "--json"]) == 0
    settings = json.loads(capsys.readouterr().out)["plan"]["settings"]
    assert settings["k"] == 4 and settings["strategy"] == "random"


@pytest.mark.parametrize(
    "command",
    ["tune run --trials 1 --no-score", "merge run --out model", "score run", "try run hello",
     "score adapters/a0 --base base --task examples.jsonl", "embed --base base --pool adapters --out deltas.npz"],
)  # fmt: skip
def test_every_command_that_computes_reads_the_device(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if command.startswith("merge"):
        write(folder, store=str(folder / "adapters"))  # merging needs no device; the store must be a file
        assert main(command.split()) == 2
        assert "cannot be opened" in capsys.readouterr().err
        return
    write(folder, device="cuda")
    assert main(command.split()) == 2
    assert "no CUDA" in capsys.readouterr().err


def test_merge_uses_the_store_it_is_given(folder: Path) -> None:
    assert main("merge run --out model --store kept/own.sqlite".split()) == 0
    assert (folder / "kept" / "own.sqlite").is_file() and not (folder / "cache" / "store.sqlite").exists()


def test_a_run_keeps_its_pool_and_base_unless_they_are_gone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, pool="elsewhere", base="org/elsewhere")
    assert main("merge run --out model".split()) == 0
    path = folder / "run" / "plan.json"
    plan = unchecked(path)
    plan["environment"]["paths"]["pool"] = str(folder / "gone")
    path.write_text(json.dumps(plan))
    write(folder, pool="adapters", base="org/elsewhere")
    assert main("merge run --out other".split()) == 0
    (folder / "empty").mkdir()
    assert main("merge run --out third --pool empty".split()) == 2
    assert "empty" in capsys.readouterr().err


def test_keys_that_a_command_lacks_are_ignored_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, rank=3, k=1, seed=5, template="alpaca", guard="absent.jsonl", offline=True, strategy="top_k")
    assert main("merge run --out model".split()) == 0
    assert main("convert adapters/a0 --out copied".split()) == 0
    assert main(["doctor"]) == 0
    capsys.readouterr()
    assert main("tune run --trials 1".split()) == 2
    assert "absent.jsonl" in capsys.readouterr().err


def test_a_benchmark_reads_where_and_how_to_compute_but_keeps_what_its_setup_names(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, object] = {}

    def bench(setup: Path, out: Path, **where: object) -> None:
        asked.update(where)
        raise InputError("seen")

    monkeypatch.setattr("merge_advisor.benchmark.bench.bench", bench)
    write(folder, pool="adapters", base="base", threads=1, store="own.sqlite", offline=True)
    assert main("bench setup.yaml --out results --base other".split()) == 2
    assert (asked["pool"], asked["base"]) == (None, "other")
    assert asked["machine"] == Machine(threads=1) and asked["offline"] is True
    assert asked["store"] == folder / "own.sqlite"


def test_doctor_looks_into_the_cache_of_the_settings(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, cache="mine")
    assert main(["doctor"]) == 0
    assert f"cache: {folder / 'mine'}: is made by the first command that needs it" in capsys.readouterr().out
    assert not (folder / "mine").exists()
    (folder / "mine").mkdir()
    assert main(["doctor"]) == 0
    assert f"cache: {folder / 'mine'}, 0 deltas stored" in capsys.readouterr().out


def test_doctor_announces_places_outside_and_makes_none(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    write(folder, cache=str(other / "cache"), store=str(other / "a?b#c.sqlite"))
    assert main(["doctor", "-q"]) == 0
    assert f"by merge-advisor.toml outside this folder: cache {other / 'cache'}, store" in capsys.readouterr().err
    assert not list(other.iterdir())
    Store(other / "a?b#c.sqlite").close()
    (other / "cache").mkdir()
    assert main(["doctor"]) == 0
    assert "0 deltas stored" in capsys.readouterr().out
    assert {path.name for path in other.iterdir()} == {"cache", "a?b#c.sqlite"}


def test_a_flag_is_named_where_the_library_names_a_parameter(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN.split(), "--threads", "0"]) == 2
    assert "error: --threads 0: give 1 or more" in capsys.readouterr().err
    assert main(["plan", "--task", "examples.jsonl"]) == 2
    assert "no pool named: give --pool, or write one into merge-advisor.toml (`merge-advisor init`)" in (
        capsys.readouterr().err
    )


def test_messages_of_a_failed_tool_say_how_to_see_more(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def merge(*_: object, **__: object) -> None:
        raise ExternalError("mergekit failed") from ValueError("deep")

    monkeypatch.setattr("merge_advisor.advisor.merge", merge)
    assert main("merge run --out model".split()) == 1
    assert capsys.readouterr().err == "merge-advisor: error: mergekit failed; see where with --debug\n"
    with pytest.raises(ExternalError):
        main("merge run --out model --debug".split())


def test_a_finetune_that_fails_names_the_rate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PLAN.split(), "--lora-lr", "1e30", "--lora-steps", "5", "--out", "new"]) == 2
    assert "; lower --lora-lr" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["cache", "store"])
def test_a_relative_place_stays_inside_the_folder(key: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "link").symlink_to(folder.parent)
    for value in ("../elsewhere", "link/elsewhere"):
        write(folder, **{key: value})
        assert main([*PLAN.split(), "--out", "new", "--dry-run"]) == 2
        said = f"{key} = '{value}' leads out of this folder; write it absolute, or give --{key}"
        assert said in capsys.readouterr().err
    assert not (folder.parent / "elsewhere").exists()
    write(folder, **{key: "inside/it"})
    assert main([*PLAN.split(), "--out", "new", "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


def test_places_outside_the_folder_are_announced(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other")
    write(folder, store=str(other / "own.sqlite"))
    assert main([*PLAN.split(), "--out", "new", "--dry-run"]) == 0
    said = f"merge-advisor: by merge-advisor.toml outside this folder: store {other / 'own.sqlite'}\n"
    assert capsys.readouterr().err == said
    # --quiet silences progress, not what one should know
    assert main([*PLAN.split(), "-q", "--out", "new", "--dry-run"]) == 0
    assert capsys.readouterr().err == said
    assert main([*PLAN.split(), "--store", str(other / "own.sqlite"), "--out", "new", "--dry-run"]) == 0
    assert capsys.readouterr().err == ""


def test_a_guard_outside_the_folder_is_announced_and_opened_by_a_dry_run(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path_factory.mktemp("other") / "guard.jsonl"
    other.write_text('{"text": "one"}\n{"text": "two"}\n')
    write(folder, guard=str(other))
    words = [word for word in PLAN.split() if word != "--no-score"]
    assert main([*words, "--out", "new", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert told.err == f"merge-advisor: by merge-advisor.toml outside this folder: guard {other}\n"
    assert "guard guard.jsonl: 2 texts" in told.out
    write(folder, guard="/dev/zero")
    assert main([*words, "--out", "new", "--dry-run"]) == 2
    assert "error: /dev/zero: cannot be read (no regular file); give a JSONL file" in capsys.readouterr().err
    assert main([*words, "--out", "new", "--dry-run", "--no-score"]) == 0


def test_a_dry_run_makes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder, store="kept/own.sqlite", cache="mine")
    before = sorted(folder.rglob("*"))
    assert main([*PLAN.split(), "--out", "new", "--dry-run"]) == 0
    assert main("tune run --trials 1 --no-score --dry-run".split()) == 0
    assert capsys.readouterr().out.count("dry run: nothing was written") == 2
    assert sorted(folder.rglob("*")) == before


def test_a_dry_run_says_what_it_unpacked(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "packed").mkdir()
    dry = [*PLAN.split(), "--pool", "packed", "--k", "1", "--out", "new", "--dry-run"]
    copied = f"nothing was written but copies that the command needs as well, 1 in {folder / 'cache'}\n"
    for name in ("a0", "a1"):  # the second one too, beside what is there already
        shutil.make_archive(str(folder / "packed" / name), "zip", folder / "adapters" / name)
        for said in (copied, "nothing was written\n"):
            assert main(dry) == 0
            assert capsys.readouterr().out.endswith(said)


def test_a_dry_run_of_tune_says_it_too(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "packed").mkdir()
    adapters = sorted(path for path in (folder / "adapters").iterdir() if path.is_dir())
    for path in adapters:
        shutil.make_archive(str(folder / "packed" / path.name), "zip", path)
    assert main("tune run --pool packed --trials 1 --no-score --dry-run".split()) in (0, 3)
    said = f"nothing was written but copies that the command needs as well, {len(adapters)} in {folder / 'cache'}\n"
    assert capsys.readouterr().out.endswith(said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("k = " + "9" * 5000, "not TOML ("), ("k = " + "[" * 50_000 + "]" * 50_000, "nested too deep"),
        ('store = "a\\u0000b"', "holds a zero"), (f'k = "{"x" * 100_000}"', " … "),
    ],
)  # fmt: skip
def test_settings_that_break_a_reader_are_one_line(
    text: str, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "merge-advisor.toml").write_text(text)
    assert main([*PLAN.split(), "--dry-run"]) == 2
    printed = capsys.readouterr().err
    assert said in printed and printed.count("\n") == 1
