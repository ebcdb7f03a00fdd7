"""Adapters that are more than plain LoRA: what PEFT makes of them is what we place on the base."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.backbone.model import load_backbone
from merge_advisor.backbone.place import placed
from merge_advisor.errors import PoolError
from merge_advisor.pool.candidate import examine_candidate, needs_peft
from merge_advisor.pool.merged_by_peft import PeftMerges
from merge_advisor.pool.sources import FoundModel
from merge_advisor.types import Candidate
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.hub import Snapshot
from merge_advisor.weights.opened import read_candidate
from tests.support.peft_adapters import ATTENTION, KINDS, WITH_FACTORS, in_this_process, make_adapter, peft_logits


def opened(folder: Path, base: LocalBase, cache: Path) -> Candidate:
    """The candidate in a folder, merged by PEFT."""
    merges = PeftMerges(base, cache, {}, run=in_this_process)
    assert needs_peft(folder, base, {})
    merges.prepare([folder])
    return examine_candidate(FoundModel(folder.name, folder), Snapshot(folder, ""), base, {}, merges)


def our_logits(base: LocalBase, candidate: Candidate, ids: Any) -> Any:
    import torch

    backbone = load_backbone(base.path, threads=1)
    with placed(backbone, read_candidate(candidate, base)), torch.no_grad():
        return backbone.model(ids).logits


def some_ids(vocabulary: int = 320) -> Any:
    import torch

    ids = torch.randint(0, vocabulary, (2, 16), generator=torch.Generator().manual_seed(1))
    ids[0, :2] = torch.tensor([3, 7])  # the tokens that some of them train
    return ids


@pytest.fixture(scope="module")
def base(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalBase:
    return resolve_base(str(tiny_llama), cache=tmp_path_factory.mktemp("base"))


@pytest.mark.parametrize("name", KINDS)
def test_a_candidate_gives_the_logits_that_plain_peft_gives(base: LocalBase, tmp_path: Path, name: str) -> None:
    import peft
    import torch

    folder = make_adapter(base.path, tmp_path / "pool" / "odd", KINDS[name](peft))
    candidate = opened(folder, base, tmp_path / "cache")
    ids = some_ids()
    theirs, ours = peft_logits(base.path, folder, ids), our_logits(base, candidate, ids)
    assert float((theirs - ours).abs().max()) < 1e-5
    backbone = load_backbone(base.path, threads=1)
    with torch.no_grad():
        assert float((theirs - backbone.model(ids).logits).abs().max()) > 1e-3  # it does change something
    assert candidate.kind == ("adapter" if name in WITH_FACTORS else "dense")
    assert "merged by PEFT" in candidate.notes[0]
