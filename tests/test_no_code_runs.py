"""What is read never runs: each file that others would run leaves a mark where it does."""

import io
import json
import shutil
import sys
from pathlib import Path

import pytest

from merge_advisor.cli import main
from tests.support.task_files import write_task

MARK = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\n"
CONFIG = MARK + (
    "from transformers import LlamaConfig\n\n\nclass OwnConfig(LlamaConfig):\n    model_type = 'own'\n"
    "from transformers import LlamaForCausalLM\n\n\nclass OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
)
TOKENIZER = MARK + (
    "from transformers import PreTrainedTokenizerFast\n\n\nclass OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "mark"


@pytest.fixture
def base(tiny_llama: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llama, tmp_path / "base")


def plan(base: Path, pool: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `plan` says where someone at the terminal says yes to everything."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    task = write_task(base.parent / "rows.jsonl", choices=True)
    options = ["--strategy", "top_k", "--k", "1", "--adaptation", "none", "--threads", "1"]
    places = ["--pool", str(pool), "--base", str(base), "--cache", str(base.parent / "cache")]
    assert main(["plan", "--task", str(task), *places, "--out", str(base.parent / "run"), *options]) == 2
    printed = capsys.readouterr()
    return printed.out + printed.err


def test_a_model_type_with_code_of_its_own_is_refused(
    base: Path, tiny_pool: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "own.py").write_text(CONFIG.format(mark=str(mark)))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    edit(base / "config.json", model_type="own", auto_map=auto_map)
    said = plan(base, tiny_pool, monkeypatch, capsys)
    assert "base base: comes with Python code of its own (auto_map), which is never run here" in said
    assert "[y/N]" not in said and not mark.exists()


def test_a_tokenizer_with_code_of_its_own_is_refused(
    base: Path, tiny_pool: Path, mark: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (base / "own.py").write_text(TOKENIZER.format(mark=str(mark)))
    edit(
        base / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "own.OwnTokenizer"]},
    )
    said = plan(base, tiny_pool, monkeypatch, capsys)
    assert "[y/N]" not in said and not mark.exists()
    assert "comes with Python code of its own" in said


def test_the_trap_works(base: Path, mark: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone who trusts such a base has its code run: what the tests above look for."""
    from transformers import AutoConfig

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(base.parent / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    (base / "own.py").write_text(CONFIG.format(mark=str(mark)))
    edit(base / "config.json", model_type="own", auto_map={"AutoConfig": "own.OwnConfig"})
    AutoConfig.from_pretrained(base, trust_remote_code=True)
    assert mark.exists()
