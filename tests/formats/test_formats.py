"""Renderings of a recipe give the same model as our own merge, or are refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from merge_advisor import registry
from merge_advisor.compose.truncate import truncate
from merge_advisor.errors import InputError
from merge_advisor.formats import ModelPlaces, formats_of
from merge_advisor.formats.lorahub import parse_lorahub
from merge_advisor.formats.mergekit import MergekitFormat, mergekit_config
from merge_advisor.formats.mergekit_schema import names_folders_only, parse_mergekit
from merge_advisor.formats.peft import PeftFormat, task_type
from tests.support.merges import (
    assert_same_weights,
    by_plain_peft,
    merge_of,
    merged_weights,
    state_of,
)
from tests.support.models import LLAMA_MODULES, write_lora

FORMATS = registry.names("format")


def folders_for(composition: str, tiny_pool: Path, tuned: Path) -> list[Path]:
    """Two models the composition takes."""
    takes = registry.load("composition", composition.partition(":")[0]).takes
    return [tuned, tuned.with_name("tuned-2")] if takes == "checkpoints" else [tiny_pool / "a0", tiny_pool / "b0"]


class TestEveryFormat:
    @pytest.mark.parametrize("composition", registry.names("composition"))
    @pytest.mark.parametrize("name", FORMATS)
    def test_writes_what_it_says_or_refuses(
        self, name: str, composition: str, tiny_llama: Path, tiny_pool: Path, tuned: Path, tmp_path: Path
    ) -> None:
        folders = folders_for(composition, tiny_pool, tuned)
        recipe, places = merge_of(tiny_llama, folders, [0.5, 0.5], composition)
        rendering = registry.build("format", name)
        assert rendering.name == name and rendering.runs_with
        if why := rendering.refusal(recipe):
            with pytest.raises(InputError, match="write another format"):
                rendering.write(recipe, places, tmp_path)
            assert "\n" not in why and not list(tmp_path.iterdir())
        else:
            rendering.write(recipe, places, tmp_path)
            assert [path.name for path in tmp_path.iterdir()] == [rendering.writes.rstrip("/")]

    @pytest.mark.parametrize("name", FORMATS)
    def test_the_same_recipe_gives_the_same_bytes(
        self, name: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
    ) -> None:
        composition = "lorahub" if name == "lorahub" else "exact"
        recipe, places = merge_of(tiny_llama, [tiny_pool / "a0", tiny_pool / "b0"], [0.1, 1e-7], composition)
        found = []
        for folder in (tmp_path / "one", tmp_path / "two"):
            folder.mkdir()
            registry.build("format", name).write(recipe, places, folder)
            found.append({str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()})
        assert found[0] == found[1] and found[0]

    def test_what_shows_for_a_composition_is_what_is_written(
        self, tiny_llama: Path, tiny_pool: Path, tuned: Path
    ) -> None:
        for composition in registry.names("composition"):
            recipe, _ = merge_of(tiny_llama, folders_for(composition, tiny_pool, tuned), [0.5, 0.5], composition)
            found = [name for name in FORMATS if not registry.build("format", name).refusal(recipe)]
            assert formats_of(composition) == found
            # what draws at random is written as a full model alone: no other tool draws the same numbers
            assert bool(found) == registry.load("composition", composition).deterministic

    def test_weights_by_layer_group(self, tiny_llama: Path, tiny_pool: Path, tuned: Path) -> None:
        for composition, fit in (("exact", {"mergekit", "peft"}), ("lorahub", {"peft"}), ("ties", {"mergekit"}),
                                 ("model_stock", {"peft"}), ("slerp", set()), ("linear", {"peft"})):  # fmt: skip
            folders = folders_for(composition, tiny_pool, tuned)
            recipe, _ = merge_of(tiny_llama, folders, [0.5, 0.5], composition, layers=(0.5, 2.0))
            assert {name for name in FORMATS if not registry.build("format", name).refusal(recipe)} == fit

    def test_what_each_cannot_reproduce(self, tiny_llama: Path, tiny_pool: Path, tuned: Path) -> None:
        recipe, _ = merge_of(tiny_llama, [tiny_pool / "a0", tuned], [0.5, 0.5])
        refusal = registry.build("format", "mergekit").refusal
        for composition, weights, reason in (
            ("ties:sign=count", (0.5, 0.5), "counts members"), ("breadcrumbs:consensus=count", (1, 1), "counts"),
            ("ties", (0.5, -0.5), "negative"), ("model_stock", (0.6, 0.4), "1/2 each"),
            ("model_stock", (1.0, 0.0), "two models"), ("slerp", (0.5, 0.6), "sum to 1"), ("slerp", (1.0, 0.0), "two"),
            ("dare_ties", (0.5, 0.5), "draws at random"), ("svd", (0.5, 0.5), "svd"), ("linear", (1, 1), "linear"),
        ):  # fmt: skip
            members = tuple(replace(m, weight=float(w)) for m, w in zip(recipe.members, weights, strict=True))
            assert reason in refusal(replace(recipe, composition=composition, members=members))
        why = {name: registry.build("format", name).refusal(recipe) for name in FORMATS}
        assert why["mergekit"] == "" and "tuned is a checkpoint" in why["peft"] and "exact" in why["lorahub"]
        cut = replace(recipe, rank=2, members=recipe.members[:1])
        assert "rank 2" in registry.build("format", "mergekit").refusal(cut)
        assert registry.build("format", "peft").refusal(cut) == ""
        hub = replace(cut, composition="lorahub")
        assert "rank 2" in registry.build("format", "lorahub").refusal(hub)
        assert "lorahub" in registry.build("format", "mergekit").refusal(hub)
        nothing = replace(cut, members=(replace(recipe.members[0], weight=0.0),))
        assert "base" in registry.build("format", "peft").refusal(nothing)


class TestPeft:
    def test_plain_peft_loads_our_merge(self, tiny_llama: Path, four: list[Path], tmp_path: Path) -> None:
        recipe, places = merge_of(tiny_llama, four, [0.6, -0.3, 0.5, 1.2])
        PeftFormat().write(recipe, places, tmp_path)
        assert_same_weights(by_plain_peft(tiny_llama, tmp_path / "adapter"), merged_weights(tiny_llama, places.merged))

    def test_a_merge_cut_to_a_rank_says_what_is_lost(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        recipe, places = merge_of(tiny_llama, [tiny_pool / "a0", tiny_pool / "b1"], [0.5, 0.5], "ties:density=0.5")
        assert "no LoRA factors" in PeftFormat().refusal(recipe)
        cut, error = truncate(places.merged, 6)
        recipe, places = replace(recipe, rank=6), replace(places, merged=cut, rank_error=error)
        PeftFormat().write(recipe, places, tmp_path)
        assert_same_weights(by_plain_peft(tiny_llama, tmp_path / "adapter"), merged_weights(tiny_llama, cut))
        card = (tmp_path / "adapter" / "README.md").read_text()
        assert f"cut to rank 6 by truncated SVD (relative error {error:.3g}" in card and 0.01 < error < 1

    def test_lorahub_merges_are_adapters_too(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        recipe, places = merge_of(tiny_llama, [tiny_pool / "a0", tiny_pool / "b1"], [0.6, -0.3], "lorahub")
        PeftFormat().write(recipe, places, tmp_path)
        assert_same_weights(by_plain_peft(tiny_llama, tmp_path / "adapter"), merged_weights(tiny_llama, places.merged))

    def test_encoder_decoder(self, tiny_t5: Path, tmp_path: Path) -> None:
        modules = {
            f"{side}.block.1.layer.0.SelfAttention.{n}": (32, 32) for side in ("encoder", "decoder") for n in "qv"
        }
        folders = [write_lora(tmp_path / n, modules, seed=i, task_type="SEQ_2_SEQ_LM") for i, n in enumerate("xy")]
        recipe, places = merge_of(tiny_t5, folders, [0.5, 0.7])
        PeftFormat().write(recipe, places, tmp_path)
        assert_same_weights(by_plain_peft(tiny_t5, tmp_path / "adapter"), merged_weights(tiny_t5, places.merged))

    @pytest.mark.parametrize("inner", [False, True])
    def test_gpt2_saved_from_the_inner_model_or_the_outer(self, inner: Any, tmp_path: Path) -> None:
        import torch
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(0)
        config = GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=32, n_positions=16)
        model = GPT2LMHeadModel(config)
        base = tmp_path / "gpt2"
        (model.transformer if inner else model).save_pretrained(base)
        config.architectures = ["GPT2LMHeadModel"]
        config.save_pretrained(base)
        modules = {f"transformer.h.{i}.attn.c_attn": (48, 16) for i in range(2)}
        folders = [write_lora(tmp_path / n, modules, seed=i, fan_in_fan_out=True) for i, n in enumerate("xy")]
        recipe, places = merge_of(base, folders, [0.5, 0.7])
        PeftFormat().write(recipe, places, tmp_path)
        wanted = merged_weights(base, places.merged)
        wanted = {f"transformer.{name}": array for name, array in wanted.items()} if inner else wanted
        assert_same_weights(by_plain_peft(base, tmp_path / "adapter"), wanted)

    def test_the_card_says_what_it_is_and_names_are_text(self, tiny_llama: Path, tmp_path: Path) -> None:
        evil = "<script>x</script> | [a](b) `c`"
        card = "---\nlicense: cc-by-4.0\n---\n"
        folder = write_lora(tmp_path / "odd", LLAMA_MODULES, card=card)
        recipe, places = merge_of(tiny_llama, [folder], [0.25])
        recipe = replace(recipe, members=(replace(recipe.members[0], source=evil),))
        PeftFormat().write(recipe, places, tmp_path)
        text = (tmp_path / "adapter" / "README.md").read_text()
        assert "<script>" not in text and "[a](b)" not in text and r"\[a\]" in text
        assert "cc-by-4.0" in text and "0.25" in text and "`exact`" in text and "tiny-llama" in text
        front = yaml.safe_load(text.split("---")[1])
        assert front["base_model"] == "tiny-llama" and front["library_name"] == "peft"
        assert str(tmp_path) not in text  # nothing of this machine

    def test_a_hub_id_is_not_looked_up_in_this_folder(
        self, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_lora(tmp_path / "org" / "x", LLAMA_MODULES, card="---\nlicense: wrong\n---\n")
        recipe, places = merge_of(tiny_llama, [folder], [0.25])
        monkeypatch.chdir(tmp_path)
        PeftFormat().write(recipe, replace(places, members={"x": "org/x"}), tmp_path)
        assert "wrong" not in (tmp_path / "adapter" / "README.md").read_text()

    def test_task_type_by_architecture(self) -> None:
        for name in ("T5ForConditionalGeneration", "MT5ForConditionalGeneration", "BartForConditionalGeneration",
                     "MBartForConditionalGeneration", "MarianMTModel", "LEDForConditionalGeneration"):  # fmt: skip
            assert task_type(name) == "SEQ_2_SEQ_LM"
        for name in ("LlamaForCausalLM", "Gemma3ForConditionalGeneration", "GPT2LMHeadModel", "BartForCausalLM",
                     "Qwen2VLForConditionalGeneration", "Mistral3ForConditionalGeneration"):  # fmt: skip
            assert task_type(name) == "CAUSAL_LM"


class TestLoraHub:
    def written(
        self, tiny_llama: Path, folders: list[Path], weights: list[float], place: Path
    ) -> tuple[ModelPlaces, str]:
        recipe, places = merge_of(tiny_llama, folders, weights, "lorahub")
        registry.build("format", "lorahub").write(recipe, places, place)
        return places, (place / "lorahub.json").read_text()

    def test_the_lines_it_carries_give_our_model(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        from transformers import AutoModelForCausalLM

        other = write_lora(tmp_path / "o", {n: s for n, s in LLAMA_MODULES.items() if "q" in n}, alpha=2, seed=3)
        folders, weights = [tiny_pool / "a0", tiny_pool / "b1", other], [0.6, -0.3, 0.9]
        places, text = self.written(tiny_llama, folders, weights, tmp_path)
        found = parse_lorahub(text, "lorahub.json")
        names = {"base": AutoModelForCausalLM.from_pretrained(tiny_llama), "modules": list(found.modules)}
        names |= {"weights": list(found.weights), "revisions": list(found.revisions)}
        exec("\n".join(line[4:] for line in found.usage if line.startswith("    ")), names)
        assert_same_weights(state_of(names["merged"]), merged_weights(tiny_llama, places.merged))

    @pytest.mark.parametrize(
        ("change", "why"),
        [({"wieghts": [1.0]}, "wieghts"), ({"weights": [0.5]}, "one weight"), ({"version": 9}, "version 9"),
         ({"weights": ["a", "b"]}, "weights"), ({"modules": []}, "one weight")],
    )  # fmt: skip
    def test_strict(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path, change: Any, why: str) -> None:
        _, text = self.written(tiny_llama, [tiny_pool / "a0", tiny_pool / "b1"], [0.6, -0.3], tmp_path)
        with pytest.raises(InputError, match=f"some.json.*{why}"):
            parse_lorahub(json.dumps(json.loads(text) | change), "some.json")


class TestMergekitText:
    def text(self, model: Path, folders: list[Path], weights: list[float], place: Path, **changes: Any) -> str:
        recipe, places = merge_of(model, folders, weights)
        MergekitFormat().write(recipe, replace(places, **changes), place)
        return (place / "mergekit.yaml").read_text()

    def test_is_what_people_know(self, tiny_llama: Path, tiny_pool: Path, tuned: Path, tmp_path: Path) -> None:
        text = self.text(tiny_llama, [tiny_pool / "a0", tuned], [0.6, -0.3], tmp_path)
        assert yaml.safe_load(text) == {
            "merge_method": "task_arithmetic",
            "base_model": str(tiny_llama),
            "models": [
                {"model": f"{tiny_llama}+{tiny_pool / 'a0'}", "parameters": {"weight": 0.6}},
                {"model": str(tuned), "parameters": {"weight": -0.3}},
            ],
            "parameters": {"normalize": False},
            "dtype": "float32",
        }
        assert text.startswith("# mergekit-yaml ") and names_folders_only(parse_mergekit(text, "x"))

    def test_ties(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        folders = [tiny_pool / "a0", tiny_pool / "b0"]
        recipe, places = merge_of(tiny_llama, folders, [0.5, 1.0], "ties:density=0.4", (0.5, 2.0))
        MergekitFormat().write(recipe, places, tmp_path)
        found = yaml.safe_load((tmp_path / "mergekit.yaml").read_text())
        assert found["merge_method"] == "ties"
        assert found["models"][1]["parameters"] == {"weight": 1.0, "density": 0.4}
        assert found["parameters"]["normalize"] is True
        assert found["parameters"]["lambda"] == [
            {"value": 0.75, "filter": "model.layers.0."}, {"value": 3.0, "filter": "model.layers.1."}, {"value": 1.5},
        ]  # fmt: skip

    def test_slerp_and_model_stock(self, tiny_llama: Path, tiny_pool: Path, tuned: Path, tmp_path: Path) -> None:
        folders = [tuned, tuned.with_name("tuned-2")]
        recipe, places = merge_of(tiny_llama, folders, [0.75, 0.25], "slerp")
        MergekitFormat().write(recipe, places, tmp_path)
        found = yaml.safe_load((tmp_path / "mergekit.yaml").read_text())
        assert (found["base_model"], found["parameters"]) == (str(tuned), {"t": 0.25})
        assert found["models"] == [{"model": str(folder)} for folder in folders]
        folders = [tiny_pool / name for name in ("a0", "b0", "b1")]
        recipe, places = merge_of(tiny_llama, folders, [0.5, 0.0, 0.5], "model_stock")
        found = mergekit_config(recipe, places)  # one of weight 0 would count where there are no weights
        assert len(found.models) == 2 and found.parameters.filter_wise is False

    def test_hub_models_are_pinned(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        text = self.text(
            tiny_llama, [tiny_pool / "a0"], [1.0], tmp_path, base="org/base", base_revision="c0ffee",
            members={"a0": "you/lora"}, revisions={"a0": "beef"},
        )  # fmt: skip
        found = yaml.safe_load(text)
        assert found["base_model"] == "org/base@c0ffee"
        assert found["models"][0]["model"] == "org/base@c0ffee+you/lora@beef"
        assert not names_folders_only(parse_mergekit(text, "x"))

    @pytest.mark.parametrize("name", ["a+b", "a@b", "a b", 'a"b', "a\nb", "a\tb"])
    def test_odd_names_take_the_mapping_form(
        self, name: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
    ) -> None:
        place = f"/models/{name}"
        text = self.text(tiny_llama, [tiny_pool / "a0"], [1.0], tmp_path, members={"a0": place})
        model = yaml.safe_load(text)["models"][0]["model"]
        assert model == {"model": {"path": str(tiny_llama)}, "lora": {"path": place}}
        assert yaml.safe_load(text)["base_model"] == str(tiny_llama)

    @pytest.mark.parametrize("name", ["é: #x", "- a", "null", "a'b", "{x}", "*a", "0123"])
    def test_yaml_reads_back_every_name(self, name: str, tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
        text = self.text(tiny_llama, [tiny_pool / "a0"], [1.0], tmp_path, base=name)
        base = yaml.safe_load(text)["base_model"]
        assert base in (name, {"model": {"path": name}})

    @pytest.mark.parametrize("weight", [0.1, 1e-7, -1.5, 1 / 3, 1e20, 0.0])
    def test_weights_are_read_back_to_the_bit(
        self, weight: Any, tiny_llama: Path, tiny_pool: Path, tmp_path: Path
    ) -> None:
        text = self.text(tiny_llama, [tiny_pool / "a0"], [weight], tmp_path)
        parameters = parse_mergekit(text, "x").models[0].parameters
        assert parameters is not None and parameters.weight == weight

    @pytest.mark.parametrize(
        ("old", "new", "why"),
        [
            ("dtype:", "dytpe:", "dytpe: unknown key"),
            ("weight:", "wieght:", "wieght: unknown key"),
            ("normalize: false", "normalize: true", "normalize"),
            ("normalize: false", "int8_mask: true", "int8_mask"),
            ("normalize: false", "normalise: false", "normalise"),
            ("normalize: false", "filter_wise: false", "task_arithmetic needs normalize"),
            ("normalize: false", "normalize: false\n  t: 0.5", "task_arithmetic has no t"),
            ("normalize: false", "normalize: false\n  lambda: x", "lambda"),
            ("weight: 0.6", "weight: 0.6\n    density: 0.5", "task_arithmetic has no density"),
            ("task_arithmetic", "ties", "ties needs density"),
            ("task_arithmetic", "dare_ties", "merge_method"),
            ("float32", "bfloat16", "dtype"),
            ("weight: 0.6", "weight: .nan", "float values"),
            ("weight: 0.6", "weight: '0.6'", "weight"),
            ("weight: 0.6", "weight: 2020-01-01", "date"),
            ("base_model", "density: 1\nbase_model", "density"),
            ("models:", "models: [", "not a mergekit configuration"),
            ("merge_method", "!!python/object:os.x merge_method", "not a mergekit configuration"),
        ],
    )
    def test_strict(self, tiny_llama: Path, tiny_pool: Path, tmp_path: Path, old: Any, new: Any, why: str) -> None:
        text = self.text(tiny_llama, [tiny_pool / "a0"], [0.6], tmp_path)
        parse_mergekit(text, "x")
        changed = text.split("\n", 1)[1].replace(old, new, 1)
        with pytest.raises(InputError, match=rf"some.yaml: .*({why})") as caught:
            parse_mergekit(changed, "some.yaml")
        assert "\n" not in str(caught.value)

    def test_no_models(self) -> None:
        text = (
            "{merge_method: task_arithmetic, base_model: a, models: [], parameters: {normalize: false}, dtype: float32}"
        )
        with pytest.raises(InputError, match="models"):
            parse_mergekit(text, "x.yaml")
