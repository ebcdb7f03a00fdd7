"""Models that formats write, and Ctrl-C for the tests of child processes."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.formats.full_model import write_full_model
from merge_advisor.weights.updates import DenseUpdate
from tests.support.merges import weights_of
from tests.support.models import LLAMA_MODULES, write_lora


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], object]]:
    """Raise KeyboardInterrupt after some seconds, as Ctrl-C does."""
    before = signal.getsignal(signal.SIGALRM)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def four(tiny_pool: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Adapters of mixed rank, scale and targets."""
    other = tmp_path_factory.mktemp("other")
    write_lora(other / "rs", {n: s for n, s in LLAMA_MODULES.items() if "q_proj" in n}, rank=3, use_rslora=True, seed=7)
    write_lora(other / "mlp", {"model.layers.1.mlp.down_proj": (32, 64)}, rank=2, alpha=2, seed=8)
    return [tiny_pool / "a0", tiny_pool / "b1", other / "rs", other / "mlp"]


@pytest.fixture(scope="module")
def tuned(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint: the base with small noise on everything."""
    rng = np.random.default_rng(5)
    noise = {
        name: DenseUpdate(rng.normal(0, 0.01, w.shape).astype(np.float32)) for name, w in weights_of(tiny_llama).items()
    }
    folder = tmp_path_factory.mktemp("models") / "tuned"
    write_full_model(tiny_llama, noise, folder)
    other = {name: DenseUpdate(update.array[::-1].copy()) for name, update in noise.items()}
    write_full_model(tiny_llama, other, folder.with_name("tuned-2"))
    return folder
