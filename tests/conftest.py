"""Fixtures of all tests: tiny models with random weights, a tiny pool, and what a machine may lack."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import Hub
from tests.support.models import T5_MODULES, build_llama, build_pool, build_tokenizer, write_lora

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# no units for bfloat16, here and in processes that tests start: `auto` then gives the same numbers on every machine
os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX512_CORE_VNNI"

pytest.register_assert_rewrite("tests.support.strategy_contract")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    # mypy takes a core for up to a minute: beside other processes it begins first, alone it must not delay results
    beside_others = "PYTEST_XDIST_WORKER" in os.environ
    items.sort(key=lambda item: (item.name == "test_types") != beside_others)
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama: 2 layers, width 32, grouped heads, tied embeddings."""
    return build_llama(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def wide_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same of width 64: bitsandbytes quantises rows that are no whole blocks of its scales otherwise on a CPU."""
    return build_llama(tmp_path_factory.mktemp("models") / "wide-llama", width=64)


@pytest.fixture(scope="session")
def tiny_t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random T5 (v1.1 layout, as FLAN-T5): 2 + 2 layers, width 32."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = T5Config(
        vocab_size=len(tokenizer), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.0,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config)
    folder = tmp_path_factory.mktemp("models") / "tiny-t5"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_t5_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three adapters of `tiny_t5`."""
    root = tmp_path_factory.mktemp("t5-pool")
    for number in range(3):
        write_lora(root / f"m{number}", T5_MODULES, seed=number, base="tiny-t5", task_type="SEQ_2_SEQ_LM")
    return root


@pytest.fixture(scope="session")
def tiny_pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six adapters of `tiny_llama` in two families: within a family, a shared part plus a little of one's own."""
    return build_pool(tmp_path_factory.mktemp("pool"))


@pytest.fixture
def hub_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A stand-in hub that this process takes for the hub, with a cache of its own and no token."""
    from huggingface_hub import constants
    from huggingface_hub.utils import close_session

    with Hub() as server:
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        # what HF_ENDPOINT and HF_HOME are read into, once a process
        address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in {
            "ENDPOINT": server.url, "HUGGINGFACE_CO_URL_TEMPLATE": address,
            "HF_HUB_CACHE": str(tmp_path / "hf"), "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True, "HF_HUB_OFFLINE": False,
        }.items():  # fmt: skip
            monkeypatch.setattr(constants, name, value)
        close_session()  # the one kept from before may go through a proxy
        yield server
        close_session()


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, without waiting."""
    import time

    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    return waited


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data and pools kept beside a development checkout."""
    place = Path(os.environ.get("MERGE_ADVISOR_SHARED", Path(__file__).parents[2] / "shared"))
    if not (place / "pool-smollm2").is_dir():
        pytest.skip("no ../shared beside this checkout (set MERGE_ADVISOR_SHARED)")
    return place


@pytest.fixture(scope="session")
def real_base(request: pytest.FixtureRequest) -> Path:
    """SmolLM2-135M-Instruct, folder or file: MERGE_ADVISOR_BASE, or what scripts/fetch_base.py fetches (--slow)."""
    root = Path(__file__).parents[1]
    named = os.environ.get("MERGE_ADVISOR_BASE")
    if not named and request.config.getoption("--slow"):
        # here and not before pytest starts: the download is the one thing that would delay the first results
        subprocess.run([sys.executable, root / "scripts" / "fetch_base.py"], check=True)
    for place in [Path(named)] if named else sorted((root / ".cache" / "base").glob("*")):
        if (place / "config.json").is_file() or place.suffix == ".gguf":
            return place
    pytest.skip("no real base; run ./scripts/demo once, or set MERGE_ADVISOR_BASE to a folder of SmolLM2-135M-Instruct")


@pytest.fixture(scope="session")
def real_folder(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real base as a folder of safetensors, dequantised where it is a GGUF file."""
    from merge_advisor.weights.base import resolve_base

    return resolve_base(str(real_base), cache=tmp_path_factory.mktemp("base")).path


@pytest.fixture(scope="session")
def example_world(tiny_llama: Path, tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: `base`, `adapters`, `examples.jsonl`, and `run`, an unscored plan made of them."""
    from merge_advisor import plan
    from merge_advisor.advisor import PlanOptions

    folder = tmp_path_factory.mktemp("world")
    (folder / "base").symlink_to(tiny_llama)
    (folder / "adapters").symlink_to(tiny_pool)
    rows = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(60)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan(
        folder / "examples.jsonl", pool=str(folder / "adapters"), base=str(folder / "base"), out=folder / "run",
        options=PlanOptions(strategy="top_k", k=2, adaptation="none"), scored=False, cache=folder / "cache",
    )  # fmt: skip
    return folder
