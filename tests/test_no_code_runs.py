"""What is read never runs: each file that others would run leaves a mark where it does."""

import io
import json
import pickle
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

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


YAML_TAG = "!!python/object/apply:os.system [touch {mark}]"
TEMPLATE = "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"


def in_a_manifest(base: Path, pool: Path, mark: Path) -> list[str]:
    manifest = base.parent / "pool.yaml"
    tag = YAML_TAG.format(mark=mark)
    manifest.write_text(f"version: 1\nmodels:\n- {{path: {pool}}}\nnote: {tag}\n")
    return ["plan", "--pool", str(manifest)]


def in_a_setup(base: Path, pool: Path, mark: Path) -> list[str]:
    setup = base.parent / "setup.yaml"
    setup.write_text(f"version: 1\nname: {YAML_TAG.format(mark=mark)}\n")
    return ["bench", str(setup), "--out", str(base.parent / "bench")]


def in_a_card(base: Path, pool: Path, mark: Path) -> list[str]:
    adapter = sorted(path for path in pool.iterdir() if path.is_dir())[0]
    (adapter / "README.md").write_text(f"---\nlicense: {YAML_TAG.format(mark=mark)}\n---\n# card\n")
    return ["plan", "--pool", str(pool)]


def in_the_chat_template(base: Path, pool: Path, mark: Path) -> list[str]:
    edit(base / "tokenizer_config.json", chat_template=TEMPLATE.format(mark=mark))
    return ["plan", "--pool", str(pool), "--template", "chat"]


def in_a_script_beside_rows(base: Path, pool: Path, mark: Path) -> list[str]:
    folder = base.parent / "rows"
    folder.mkdir()
    (folder / "rows.py").write_text(MARK.format(mark=str(mark)))
    (folder / "train.jsonl").write_text((base.parent / "rows.jsonl").read_text())
    return ["plan", "--pool", str(pool), "--task", str(folder)]


def in_a_module_that_an_adapter_names(base: Path, pool: Path, mark: Path) -> list[str]:
    adapter = sorted(path for path in pool.iterdir() if path.is_dir())[0]
    (adapter / "own_core.py").write_text(MARK.format(mark=str(mark)))
    (base.parent / "own_core.py").write_text(MARK.format(mark=str(mark)))
    # PEFT, which is asked about adapters that are more than LoRA, imports what this setting names
    edit(
        adapter / "adapter_config.json",
        use_dora=True,
        megatron_config={"tensor_model_parallel_size": 1},
        megatron_core="own_core",
    )
    return ["plan", "--pool", str(pool)]


def in_settings(base: Path, pool: Path, mark: Path) -> list[str]:
    (base.parent / "merge-advisor.toml").write_text(f"strategy = \"__import__('os').system('touch {mark}')\"\n")
    return ["plan", "--pool", str(pool)]


def in_a_pickle(base: Path, pool: Path, mark: Path) -> list[str]:
    adapter = sorted(path for path in pool.iterdir() if path.is_dir())[0]
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    return ["plan", "--pool", str(pool)]


def lm_eval_task(base: Path, pool: Path, more: str) -> list[str]:
    """A task of lm-eval's kind, with rows beside it."""
    folder = base.parent / "tasks"
    folder.mkdir()
    for split, numbers in (("train", range(40)), ("test", range(100, 110))):
        rows = [json.dumps({"question": f"{n}", "answer": ("yes", "no")[n % 2]}) for n in numbers]
        (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    files = {split: str(folder / f"{split}.jsonl") for split in ("train", "test")}
    data = {"data_files": files, "cache_dir": str(base.parent / "hf")}
    (folder / "own.yaml").write_text(
        f"task: own\ndataset_path: json\ndataset_kwargs: {json.dumps(data)}\ntraining_split: train\ntest_split: test\n"
        f"output_type: generate_until\ndoc_to_target: '{{{{answer}}}}'\n{more}\n"
    )
    return ["plan", "--pool", str(pool), "--lm-eval-task", "own", "--lm-eval-include", str(folder)]


def in_the_template_of_an_lm_eval_task(base: Path, pool: Path, mark: Path) -> list[str]:
    return lm_eval_task(base, pool, f"doc_to_text: {json.dumps(TEMPLATE.format(mark=mark))}")


def in_a_function_of_an_lm_eval_task(base: Path, pool: Path, mark: Path) -> list[str]:
    words = lm_eval_task(base, pool, "doc_to_text: !function own.ask")
    (base.parent / "tasks" / "own.py").write_text(
        MARK.format(mark=str(mark)) + "def ask(doc):\n    return doc['question']\n"
    )
    return words


def in_a_tag_of_an_lm_eval_task(base: Path, pool: Path, mark: Path) -> list[str]:
    return lm_eval_task(base, pool, f"doc_to_text: Q\nmetadata: {YAML_TAG.format(mark=mark)}")


def in_the_metric_of_an_lm_eval_task(base: Path, pool: Path, mark: Path) -> list[str]:
    script = base.parent / "metric"
    script.mkdir()
    (script / "metric.py").write_text(MARK.format(mark=str(mark)))
    entry = {"metric": str(script), "hf_evaluate": True}
    return lm_eval_task(base, pool, f"doc_to_text: Q\nmetric_list: [{json.dumps(entry)}]")


def in_a_pickle_in_an_archive(base: Path, pool: Path, mark: Path) -> list[str]:
    adapter = sorted(path for path in pool.iterdir() if path.is_dir())[0]
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    (adapter / "setup.py").write_text(MARK.format(mark=str(mark)))
    (adapter / "__init__.py").write_text(MARK.format(mark=str(mark)))
    shutil.make_archive(str(pool / "packed"), "zip", adapter)
    shutil.rmtree(adapter)
    return ["plan", "--pool", str(pool)]


def in_the_tokenizer_of_an_adapter(base: Path, pool: Path, mark: Path) -> list[str]:
    adapter = sorted(path for path in pool.iterdir() if path.is_dir())[0]
    (adapter / "own.py").write_text(TOKENIZER.format(mark=str(mark)))
    auto_map = {"AutoTokenizer": [None, "own.OwnTokenizer"], "AutoConfig": "own.OwnConfig"}
    named = {"tokenizer_class": "OwnTokenizer", "auto_map": auto_map, "chat_template": TEMPLATE.format(mark=mark)}
    (adapter / "tokenizer_config.json").write_text(json.dumps(named))
    # PEFT, which merges this one, would load a base that an adapter names by a class that it names
    mapping = {"base_model_class": "OwnModel", "parent_library": "own"}
    edit(adapter / "adapter_config.json", use_dora=True, auto_mapping=mapping, auto_map=auto_map)
    return ["plan", "--pool", str(pool)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "hide",
    [
        in_the_template_of_an_lm_eval_task,
        in_a_function_of_an_lm_eval_task,
        in_a_tag_of_an_lm_eval_task,
        in_the_metric_of_an_lm_eval_task,
        in_a_pickle_in_an_archive,
        in_the_tokenizer_of_an_adapter,
        in_a_manifest,
        in_a_setup,
        in_a_card,
        in_the_chat_template,
        in_a_script_beside_rows,
        in_a_module_that_an_adapter_names,
        in_settings,
        in_a_pickle,
    ],
    ids=lambda hide: hide.__name__,
)
def test_nothing_else_that_is_read_runs(
    hide: Callable[[Path, Path, Path], list[str]],
    base: Path,
    tiny_pool: Path,
    mark: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pool = shutil.copytree(tiny_pool, base.parent / "adapters")
    task = write_task(base.parent / "rows.jsonl", choices=True)
    monkeypatch.chdir(base.parent)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 50))
    words = hide(base, pool, mark)
    if not {"--task", "--lm-eval-task"} & set(words) and words[0] == "plan":
        words += ["--task", str(task)]
    if words[0] == "plan":
        words += ["--strategy", "top_k", "--k", "2", "--adaptation", "none", "--lora-steps", "1", "--no-score"]
    code = main([*words, "--base", str(base), "--cache", str(base.parent / "cache"), "--threads", "1"])
    printed = capsys.readouterr()
    assert not mark.exists()
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in printed.err and "[y/N]" not in printed.out + printed.err
    assert printed.err.count("--debug") <= 1
    if "--lm-eval-task" in words:
        assert code in (1, 2) and ("--trust-task-code" in printed.err or "has no such task" in printed.err)


def test_the_other_traps_work(base: Path, mark: Path) -> None:
    """Readers that trust what they read: the tag and the template would leave the mark."""
    import jinja2

    yaml.unsafe_load(YAML_TAG.format(mark=mark))
    assert mark.exists()
    mark.unlink()
    jinja2.Environment().from_string(TEMPLATE.format(mark=mark)).render()
    assert mark.exists()
    mark.unlink()
    pickle.loads(f"cos\nsystem\n(S'touch {mark}'\ntR.".encode())
    assert mark.exists()


@pytest.mark.slow
def test_the_trap_in_a_function_works(base: Path, tiny_pool: Path, mark: Path) -> None:
    """A task that is trusted has its code run, and nothing else is missing for it to run."""
    words = in_a_function_of_an_lm_eval_task(base, tiny_pool, mark)
    words += ["--strategy", "top_k", "--k", "2", "--adaptation", "none", "--lora-steps", "1", "--no-score"]
    words += ["--base", str(base), "--cache", str(base.parent / "cache"), "--threads", "1"]
    assert main([*words, "--out", str(base.parent / "run"), "--trust-task-code"]) == 0
    assert mark.exists()
