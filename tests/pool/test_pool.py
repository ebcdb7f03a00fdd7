"""Pools: whatever is in them, one bad model is set aside with its reason and the rest goes on."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from merge_advisor.errors import OfflineError, PoolError
from merge_advisor.pool import check_id, open_pool, read_manifest
from merge_advisor.types import Candidate, Pool
from merge_advisor.weights.base import LocalBase, resolve_base
from merge_advisor.weights.opened import read_candidate
from tests.support.models import LLAMA_MODULES, write_lora


def ids_of(items: tuple[Candidate, ...]) -> list[str]:
    return [item.id for item in items]


def reasons(pool: Pool) -> dict[str, str]:
    return {item.id: item.reason for item in pool.refused}


def test_a_folder_of_adapters(tiny_pool: Path, base: LocalBase) -> None:
    found = open_pool(tiny_pool, base)
    assert ids_of(found.candidates) == ["a0", "a1", "a2", "b0", "b1", "b2"]
    assert found.refused == ()
    assert found.template == "alpaca"
    first = found.candidates[0]
    assert (first.kind, first.rank, first.modules) == ("adapter", 4, ("q_proj", "v_proj"))
    assert (first.licence, first.description) == ("apache-2.0", "Adapter of family a.")
    assert (first.source, first.revision, first.notes) == ("a0", None, ())
    assert first.path == str(tiny_pool / "a0")
    assert len({candidate.fingerprint for candidate in found.candidates}) == 6


def test_one_adapter_is_a_pool_of_one(tiny_pool: Path, base: LocalBase) -> None:
    assert ids_of(open_pool(tiny_pool / "b1", base).candidates) == ["b1"]
    assert ids_of(open_pool(f"{tiny_pool}/b1/", base).candidates) == ["b1"]


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("absent", "not there; name a folder, a manifest, or hub ids like org/name"),
        ("empty", "has no models"),
        ("notes.md", r"is neither a folder, an archive, a manifest \(\.yaml\) nor a list"),
        ("bad\0name", "not there"),
    ],
)
def test_nothing_to_open(
    base: LocalBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ref: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "notes").mkdir(parents=True)
    (tmp_path / "notes.md").write_text("# notes")
    with pytest.raises(PoolError, match=message) as caught:
        open_pool(ref, base)
    assert str(caught.value).isprintable()


def spoil(folder: Path, how: str) -> None:
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    tensors = load_file(weights)
    first = next(iter(tensors))
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "pickle only":
        weights.rename(folder / "adapter_model.bin")
    elif how == "no weights":
        weights.unlink()
    elif how == "no config":
        config.unlink()
    elif how == "bad config":
        config.write_text('{"r": ')
    elif how == "foreign keys":
        save_file({key.replace("self_attn", "attention"): array for key, array in tensors.items()}, weights)
    elif how == "wrong size":
        write_lora(folder, dict.fromkeys(LLAMA_MODULES, (64, 64)))
    elif how == "NaN":
        save_file(tensors | {first: np.full_like(tensors[first], np.nan)}, weights)
    elif how == "all zero":
        save_file({key: array * ("lora_A" in key) for key, array in tensors.items()}, weights)
    elif how == "unreadable card":
        (folder / "README.md").unlink()
        (folder / "README.md").mkdir()


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("truncated", "adapter_model.safetensors: bad safetensors header"),
        ("pickle only", "adapter_model.bin: pickle weights are never opened; convert it to safetensors"),
        ("no weights", "adapter_model.safetensors: cannot be read"),
        ("no config", "has neither adapter_config.json nor config.json"),
        ("bad config", "adapter_config.json: not JSON"),
        ("foreign keys", "4 of its 4 modules are not in the base"),
        ("wrong size", "another base or size"),
        ("NaN", "holds NaN or infinity"),
        ("all zero", "all zero, it changes nothing"),
    ],
)
def test_a_bad_adapter_is_set_aside_and_the_rest_goes_on(pool: Path, base: LocalBase, how: str, reason: str) -> None:
    spoil(pool / "a1", how)
    hashes: dict[str, str] = {}
    for _ in range(2):  # the second time from what the first remembered
        found = open_pool(pool, base, hashes=hashes)
        assert ids_of(found.candidates) == ["a0", "a2", "b0", "b1", "b2"]
        assert list(reasons(found)) == ["a1"]
        assert reason in reasons(found)["a1"]
        assert "\n" not in reasons(found)["a1"]


def test_a_card_that_cannot_be_read_is_no_reason(pool: Path, base: LocalBase) -> None:
    spoil(pool / "a1", "unreadable card")
    found = open_pool(pool, base)
    assert (found.candidates[1].licence, found.candidates[1].description) == (None, "")


def test_nothing_usable_is_an_error_that_says_why(pool: Path, base: LocalBase) -> None:
    for name in ("a0", "a1", "a2", "b0", "b1", "b2"):
        spoil(pool / name, "truncated")
    said = "none of its 6 models can be used: a0, a1, a2 and 3 more: adapter_model"
    with pytest.raises(PoolError, match=said) as caught:
        open_pool(pool, base)
    assert "\n" not in str(caught.value)
    for name in ("a1", "b0"):
        shutil.rmtree(pool / name)
        shutil.copytree(pool / "a0", pool / name)
        (pool / name / "adapter_config.json").write_text("{}")
    with pytest.raises(PoolError, match=r"a0, a2, b1 and 1 more: adapter_model.*; a1, b0: adapter_config[^:]*: peft"):
        open_pool(pool, base)


def test_the_same_weights_under_two_names(pool: Path, base: LocalBase) -> None:
    shutil.copytree(pool / "b0", pool / "a9 copy")
    (pool / "a9 copy" / "README.md").write_text("Another card.")
    found = open_pool(pool, base)
    assert reasons(found) == {"b0": "same weights as a9 copy; remove one of the two"}


def test_order_and_place_do_not_matter(pool: Path, tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    first = open_pool(tiny_pool, base)
    names = ["b2", "a1", "b0", "a0", "b1", "a2"]
    manifest = tmp_path / "any.yaml"
    manifest.write_text("version: 1\nmodels:\n" + "".join(f"  - path: pool/{name}\n" for name in names))
    second = open_pool(manifest, base)
    assert second.digest == first.digest
    assert [c.fingerprint for c in second.candidates] == [c.fingerprint for c in first.candidates]


def test_another_base_named_is_a_note(base: LocalBase, tmp_path: Path) -> None:
    for name, named in (
        ("moved", "/somewhere/else"),
        ("same", "hub/Tiny-Llama"),
        ("same-too", "C:\\models\\tiny-llama\\"),
    ):
        write_lora(tmp_path / "p" / name, LLAMA_MODULES, base=named, seed=len(name))
    notes = {candidate.id: candidate.notes for candidate in open_pool(tmp_path / "p", base).candidates}
    assert notes["same"] == notes["same-too"] == ()
    assert notes["moved"] == ("its configuration names the base '/somewhere/else'; keys and shapes fit tiny-llama",)


@pytest.mark.parametrize(
    "name", ["with space", "plus+at@sign", "ünïcode", "semi;colon", "quote'\"", "%41", "-x", "a.b"]
)
def test_odd_names_that_are_fine(tiny_pool: Path, base: LocalBase, tmp_path: Path, name: str) -> None:
    shutil.copytree(tiny_pool / "a0", tmp_path / "p" / name)
    assert ids_of(open_pool(tmp_path / "p", base).candidates) == [name]
    check_id(name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("new\nline", "cannot be printed"),
        ("right\u202eleft", "cannot be printed"),
        ("bad\udcffbytes", "cannot be printed"),
        (" led by space", "begins or ends with space"),
        ("shots_lora", "is kept for"),
        ("back\\..\\slash", "has '.' or '..' for a part"),
        ("x" * 201, "longer than 200"),
    ],
)
def test_odd_names_that_are_set_aside(pool: Path, base: LocalBase, name: str, reason: str) -> None:
    (pool / "a1").rename(pool / name)
    found = open_pool(pool, base)
    assert len(found.candidates) == 5
    assert reason in found.refused[0].reason
    assert found.refused[0].id.isprintable()
    assert found.refused[0].reason.isprintable()


@pytest.mark.parametrize("name", ["", "..", ".", "/a", "a/", "a//b", "a/../b", "\\a", "a\0"])
def test_ids_that_are_none(name: str) -> None:
    with pytest.raises(PoolError, match="rename it"):
        check_id(name)


def test_ids_with_a_slash_inside_are_hub_ids() -> None:
    check_id("org/name")


def test_manifest(tiny_pool: Path, base: LocalBase, tmp_path: Path) -> None:
    shutil.copytree(tiny_pool / "a0", tmp_path / "sub" / "a0")
    manifest = tmp_path / "pool.yaml"
    manifest.write_text(
        "version: 1\nbase: org/tiny\ntemplate: plain\nmodels:\n"
        "  - {path: sub/a0, id: rhymes, description: Writes rhymes.}\n"
        f"  - {{path: '{tiny_pool / 'b0'}'}}\n"
        "  - {path: sub/gone}\n"
        "descriptions: {b0: Of family b.}\n"
    )
    found = open_pool(manifest, base)
    assert ids_of(found.candidates) == ["b0", "rhymes"]
    assert [c.description for c in found.candidates] == ["Of family b.", "Writes rhymes."]
    assert [c.source for c in found.candidates] == ["b0", "a0"]
    assert reasons(found) == {"gone": "no such folder; correct its path in the manifest"}
    assert found.template == "plain"
    assert read_manifest(manifest).base == "org/tiny"
    assert open_pool(tmp_path, base) == found  # a pool.yaml that lists models speaks for its folder


def test_a_pool_yaml_beside_the_folders(pool: Path, base: LocalBase) -> None:
    (pool / "pool.yaml").write_text("version: 1\ntemplate: chat\ndescriptions: {a0: Said by the manifest.}\n")
    found = open_pool(pool, base)
    assert len(found.candidates) == 6
    assert found.template == "chat"
    assert [c.description for c in found.candidates[:2]] == ["Said by the manifest.", "Adapter of family a."]
    (pool / "pool.yaml").write_text("version: 1\ndescriptions: {a7: Nobody.}\n")
    with pytest.raises(PoolError, match="describes 'a7', which is not there"):
        open_pool(pool, base)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no manifest"),
        ("- a\n- b", "is no manifest"),
        ("version: 1\nmodels: [", r"line \d+: not YAML"),
        ("version: 1\nmodels: !!python/object/apply:os.system [false]", "line 2: not YAML"),
        ("version: 2\nmodels: []", "version is 2, not 1"),
        ("models: []", "version is None, not 1"),
        ("version: 1\nmodel: []", "unknown key 'model'; known are base, descriptions, models, template, version"),
        ("version: 1\nmodels: []", "lists no models"),
        ("version: 1\ntemplate: plain", "lists no models"),
        ("version: 1\nmodels: {a: b}", "models is no list"),
        ("version: 1\nmodels: [a]", "model 1: is no mapping"),
        ("version: 1\nmodels: [{path: a, rank: 3}]", "model 1: unknown key 'rank'"),
        ("version: 1\nmodels: [{id: a}]", "model 1: needs either path or hub"),
        ("version: 1\nmodels: [{path: a, hub: b/c}]", "model 1: needs either path or hub"),
        ("version: 1\nmodels: [{path: a, revision: x}]", "revision belongs to hub"),
        ("version: 1\nmodels: [{hub: b/c@x, revision: y}]", "names two revisions"),
        ("version: 1\nmodels: [{hub: ../c}]", "'../c' is no hub id"),
        ("version: 1\nmodels: [{hub: b/c, revision: 12}]", "revision is '12', not text; put it in quotes"),
        ("version: 1\nmodels: [{path: ../a}]", "leads out of the manifest's folder"),
        ("version: 1\nmodels: [{path: sub/../../a}]", "leads out of the manifest's folder"),
        ("version: 1\nmodels: [{path: 'sub\\..\\..\\a'}]", "leads out of the manifest's folder"),
        ("version: 1\nmodels: [{path: a}, {path: b/a}]", "the id 'a' is there twice"),
        ("version: 1\nmodels: [{path: a}]\ndescriptions: {b: x}", "describes 'b', which is not listed"),
        ("version: 1\na: &a [x, x]\nmodels: [*a, *a]", r"line 3: .*aliases \(\*\) are not read"),
        ("version: 1\nmodels: " + "[" * 100_000 + "]" * 100_000, "line 2: .*nested too deep"),
        ("version: 1\nbase: 2024-99-99", "a bad value"),
        ("version: 1\nbase: !!timestamp x", "a bad value"),
        ("version: 1\nbase: !!int ''", "a bad value"),
        ("version: 1\nbase: !!bool maybe", "a bad value"),
        ("version: 0x" + "f" * 5000, "line 1: .*a number of too many digits"),
        ("version: 1\nbase: " + ":".join(["59"] * 100_000), "line 2: .*a number of too many digits"),
        ("version: 1\nmodels: " + "[" * 5000, "not YAML"),
    ],
)
def test_bad_manifests(base: LocalBase, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(PoolError, match=message) as caught:
        open_pool(path, base)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_manifest_that_is_no_text(base: LocalBase, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_bytes(b"\xff\xfe\x00version")
    with pytest.raises(PoolError, match="is no UTF-8 text"):
        open_pool(tmp_path / "p.yaml", base)


@pytest.mark.parametrize(
    ("text", "message"), [("", "lists no hub ids"), ("a/b\nnonsense\n", "line 2: 'nonsense' is no hub id")]
)
def test_bad_lists(base: LocalBase, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(PoolError, match=message):
        open_pool(tmp_path / "p.txt", base)


def test_include_exclude_licence(pool: Path, base: LocalBase) -> None:
    (pool / "b1" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (pool / "b2" / "README.md").unlink()

    def ids(**filters: Any) -> list[str] | None:
        return ids_of(open_pool(pool, base, **filters).candidates)

    assert ids(include=["a*"]) == ["a0", "a1", "a2"]
    assert ids(include=["a*", "b0"], exclude=["?1", "shots_lora"]) == ["a0", "a2", "b0"]
    assert ids(licence=["apache-*"]) == ["a0", "a1", "a2", "b0"]
    assert ids(licence=["CC-*", "unknown"]) == ["b1", "b2"]
    with pytest.raises(PoolError, match=r"`include` 'c\*' matches no model; the ids begin with a0, a1, a2, b0"):
        ids(include=["a*", "c*"])
    with pytest.raises(PoolError, match="`exclude` 'a' matches no model"):
        ids(exclude=["a"])
    with pytest.raises(PoolError, match="leave no model"):
        ids(exclude=["*"])
    with pytest.raises(PoolError, match=r"`licence` 'mit' matches no model; .* apache-2\.0, cc-by-nc-4\.0, unknown"):
        ids(licence=["mit"])
    spoil(pool / "a0", "truncated")
    assert open_pool(pool, base, exclude=["a0"]).refused == ()  # what is filtered out is not opened


def test_a_known_pool_is_opened_without_reading_weights(pool: Path, base: LocalBase) -> None:
    hashes: dict[str, str] = {}
    first = open_pool(pool, base, hashes=hashes)
    reading = {key: "0" * 64 for key in hashes if "adapter_model" in key}
    assert len(reading) == 6
    remembered = dict(hashes)
    assert open_pool(pool, base, hashes=remembered) == first
    assert remembered == hashes
    found = open_pool(pool, base, hashes=hashes | reading)  # all six remembered as the same file: nothing is reread
    assert ids_of(found.candidates) == ["a0"]


def tune(base: LocalBase, folder: Path, change: Callable[..., Any] = lambda tensors: tensors) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    shutil.copy(base.path / "config.json", folder)
    tensors = load_file(base.path / "model.safetensors")
    tensors = {name: array + rng.normal(0, 0.1, array.shape).astype(np.float32) for name, array in tensors.items()}
    save_file(change(tensors), folder / "model.safetensors")
    return folder


def test_checkpoints_are_candidates_too(pool: Path, base: LocalBase) -> None:
    embedding = "model.embed_tokens.weight"
    tune(base, pool / "full")
    tune(base, pool / "head-too", lambda t: {n: 2 * x for n, x in t.items()} | {"lm_head.weight": 2 * t[embedding]})
    tune(base, pool / "untied", lambda t: t | {"lm_head.weight": t[embedding] + 1})
    tune(base, pool / "nan", lambda t: t | {"model.norm.weight": t["model.norm.weight"] * np.nan})
    tune(base, pool / "resized", lambda t: t | {embedding: np.ones((400, 32), np.float32)})
    tune(base, pool / "cut", lambda t: t | {embedding: np.ones((300, 32), np.float32)})
    tune(base, pool / "narrow", lambda t: t | {"model.norm.weight": np.ones(16, np.float32)})
    tune(base, pool / "less", lambda t: dict(itertools.islice(t.items(), 5)))
    tune(base, pool / "more", lambda t: t | {"model.layers.9.extra.weight": np.ones(3, np.float32)})
    tune(base, pool / "whole", lambda t: t | {"model.norm.weight": np.ones(32, np.int32)})
    tune(base, pool / "same", lambda _: load_file(base.path / "model.safetensors"))
    for name, change in (("other", {"architectures": ["QwenForCausalLM"]}), ("quantised", {"quantization_config": {}})):
        config = tune(base, pool / name) / "config.json"
        config.write_text(
            json.dumps(json.loads(config.read_text()) | change | {"quantization_config": name == "quantised"})
        )
    hashes: dict[str, str] = {}
    for _ in range(2):
        found = open_pool(pool, base, hashes=hashes)
        assert ids_of(found.candidates) == ["a0", "a1", "a2", "b0", "b1", "b2", "full", "head-too", "resized"]
        full = found.candidates[6]
        assert (full.kind, full.rank) == ("checkpoint", 0)
        assert {"q_proj", "embed_tokens"} <= set(full.modules)
        resized = found.candidates[8]
        assert "resized from 320 to 400 rows: the first 320 count, the others are left out" in resized.notes[0]
        update = read_candidate(resized, base)[embedding]
        np.testing.assert_allclose(update.dense(), 1 - load_file(base.path / "model.safetensors")[embedding], atol=1e-6)
        wanted = {
            "untied": "lm_head.weight differs from the embedding",
            "nan": "model.norm.weight holds NaN or infinity",
            "cut": "the vocabulary was cut from 320 to 300",
            "narrow": "is (16,), the base's is (32,)",
            "less": "of the base's weights, e.g.",
            "more": "model.layers.9.extra.weight is not in the base",
            "whole": "model.norm.weight is I32",
            "same": "it changes nothing",
            "other": "architectures ['QwenForCausalLM'] is not the base's ['LlamaForCausalLM']",
            "quantised": "its weights are quantised (of an unknown kind) and have to be dequantised",
        }
        assert reasons(found).keys() == wanted.keys()
        for name, reason in wanted.items():
            assert reason in reasons(found)[name], name


def test_a_hub_id_offline_that_was_never_fetched(base: LocalBase, tmp_path: Path) -> None:
    with pytest.raises(OfflineError, match="acme/absent: not in the hub's cache, and fetching is off"):
        open_pool("acme/absent", base, offline=True)
    with pytest.raises(OfflineError):
        open_pool("acme/absent,acme/gone", base, offline=True)


@pytest.mark.parametrize("name", ["pool-smollm2", "pool-bigbench"])
def test_real_pools_open_whole(shared: Path, name: str, tmp_path: Path) -> None:
    """A base of the right shapes stands in for the real one: no weights of it are read."""
    shapes = {
        f"model.layers.{layer}.self_attn.{kind}_proj.weight": shape
        for layer in range(30)
        for kind, shape in (("q", (576, 576)), ("v", (192, 576)))
    }
    (tmp_path / "base").mkdir()
    save_file(
        {key: np.zeros(shape, np.float16) for key, shape in shapes.items()}, tmp_path / "base" / "model.safetensors"
    )
    (tmp_path / "base" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    base = resolve_base(str(tmp_path / "base"), cache=tmp_path)
    found = open_pool(shared / name, base)
    assert found.refused == ()
    assert len(found.candidates) == sum(1 for _ in (shared / name).glob("*/adapter_config.json"))
    assert all(candidate.rank == 8 for candidate in found.candidates)
