"""Rows that the base's template or context cannot take are named before anything is loaded or computed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import merge_advisor as ma
from merge_advisor.advisor import PlanOptions
from merge_advisor.advisor.measuring.prompted_model import PromptedModel
from merge_advisor.advisor.planning.dry_run import describe_plan
from merge_advisor.advisor.planning.sources import read_sources
from merge_advisor.errors import BaseModelError, TaskError
from merge_advisor.options import FinetuneSettings

LONG = "0 " * 700
NO_SYSTEM = """{% for m in messages %}
{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{{ m.content }}
{% endfor %}"""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(model: PromptedModel) -> None:
        raise AssertionError("the base was loaded")

    monkeypatch.setattr(PromptedModel, "backbone", property(loaded))


def both(file: Path, base: Path, pool: Path, options: PlanOptions) -> list[Callable[[], Any]]:
    """The plan and its dry run."""
    where: Any = {"pool": pool, "base": str(base), "options": options, "cache": file.parent / "cache"}
    return [lambda: describe_plan([file], **where), lambda: ma.plan(file, out=file.parent / "run", **where)]


@pytest.mark.parametrize("part", ["shots", "tuning", "heldout"])
@pytest.mark.parametrize("choices", [False, True])
def test_an_answer_longer_than_the_context(
    part: str, choices: bool, tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    file, options = tmp_path / "long.jsonl", PlanOptions()

    def write(long: str) -> None:
        rows: list[dict[str, Any]] = [{"input": f"say {n}", "output": f"{n}"} for n in range(30)]
        for row in rows:
            own = row["input"] == long
            if choices:
                row["choices"] = [row["output"], LONG if own else "x"]
            elif own:
                row["output"] = LONG
        file.write_text("\n".join(map(json.dumps, rows)))

    # the row's place in the split hangs on its digest: each is tried
    for number in range(30):
        write(f"say {number}")
        rows = getattr(read_sources([file], options)[0].task, part)
        if any(row.input == f"say {number}" for row in rows):
            break
    what = "its choice '0 0 .*'" if choices else "its answer"
    for run in both(file, tiny_llama, tiny_pool, options):
        with pytest.raises(TaskError, match=rf"long.jsonl:{number + 1}: {what} takes 1401 tokens of 512.*shorten"):
            run()
    assert not (tmp_path / "run").exists()


def test_a_long_shot_that_only_trains_is_cut_and_not_refused(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    file = tmp_path / "long.jsonl"
    options = PlanOptions(shots=20, tuning=20, heldout=4, adaptation="none", finetune=FinetuneSettings(steps=1))
    for number in range(44):
        rows = [{"input": f"say {n}", "output": LONG if n == number else f"{n}"} for n in range(44)]
        file.write_text("\n".join(map(json.dumps, rows)))
        if any(len(row.output) > 900 for row in read_sources([file], options)[0].task.shots):
            break
    assert both(file, tiny_llama, tiny_pool, options)[0]()["models"] == 6


def test_a_system_prompt_that_the_chat_template_refuses(tmp_path: Path, tiny_llama: Path, tiny_pool: Path) -> None:
    base, file = tmp_path / "base", tmp_path / "chats.jsonl"
    shutil.copytree(tiny_llama, base)
    (base / "chat_template.jinja").write_text(NO_SYSTEM)
    chats = [[{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"{n}"}] for n in range(30)]
    chats[6].insert(0, {"role": "system", "content": "Be kind."})
    file.write_text("\n".join(json.dumps({"messages": turns}) for turns in chats))
    for run in both(file, base, tiny_pool, PlanOptions(template="chat")):
        with pytest.raises(TaskError, match=r"chats.jsonl:7: .*System role not supported.*drop the row or its system"):
            run()


@pytest.mark.parametrize(
    ("name", "broken"),
    [
        ("tokenizer.json", lambda kept: {"version": "1.0"}),
        # no context is named, so transformers is asked
        ("config.json", lambda kept: {**kept, "max_position_embeddings": None, "rms_norm_eps": "small"}),
    ],
)
def test_a_base_whose_files_transformers_cannot_read_is_one_line(
    name: str, broken: Callable[[Any], Any], tmp_path: Path, tiny_llama: Path, tiny_pool: Path
) -> None:
    base, file = shutil.copytree(tiny_llama, tmp_path / "base"), tmp_path / "long.jsonl"
    (base / name).write_text(json.dumps(broken(json.loads((base / name).read_text()))))
    file.write_text("\n".join(json.dumps({"input": f"say {n}", "output": LONG + str(n)}) for n in range(30)))
    for run in both(file, base, tiny_pool, PlanOptions()):
        with pytest.raises(BaseModelError, match=r"base base: cannot be loaded \(.*\); check the folder's files"):
            run()


def test_no_tokenizer_is_read_for_short_answers(
    tmp_path: Path, tiny_llama: Path, tiny_pool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(model: PromptedModel) -> None:
        raise AssertionError("the tokenizer was read")

    monkeypatch.setattr(PromptedModel, "tokenizer", property(read))
    file = tmp_path / "short.jsonl"
    file.write_text("\n".join(json.dumps({"input": f"say {n}", "output": f"{n}"}) for n in range(30)))
    assert both(file, tiny_llama, tiny_pool, PlanOptions())[0]()["models"] == 6
