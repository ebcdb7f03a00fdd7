"""Finetunes as the hub lists them, from a stand-in server: which, how many, what files they have, who may read them."""

import pytest

from merge_advisor.errors import ExternalError, InputError
from merge_advisor.hub_options import FindOptions
from merge_advisor.pool.hub_models import HubListing, HubModel, list_hub_models
from tests.support.hub_server import Hub

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"x" * 1000}
FULL = {"config.json": b"{}", "model.safetensors": b"x" * 5000}
CARD = b"---\nlicense: mit\n---\nWrites rhymes.\n"


def adapter_of(base: str, *tags: str) -> list[str]:
    return [f"base_model:adapter:{base}", *tags]


@pytest.fixture
def hub(hub_here: Hub) -> Hub:
    """A base, a quantised copy of it, and six finetunes."""
    hub_here.commit("meta/base", FULL)
    hub_here.commit("fast/base-4bit", FULL, tags=["base_model:quantized:meta/base"], downloads=900)
    hub_here.commit(
        "acme/rhymes", {**ADAPTER, "README.md": CARD}, tags=adapter_of("meta/base", "license:mit"), downloads=50
    )
    hub_here.commit("acme/sums", ADAPTER, tags=adapter_of("meta/base", "license:apache-2.0"), downloads=500)
    hub_here.commit("acme/quick", ADAPTER, tags=adapter_of("fast/base-4bit"), downloads=70)
    hub_here.commit(
        "acme/old", {"adapter_config.json": b"{}", "adapter_model.bin": b"y" * 300, "training_args.bin": b"z" * 99},
        tags=adapter_of("meta/base"), downloads=40,
    )  # fmt: skip
    hub_here.commit(
        "acme/closed", ADAPTER, tags=adapter_of("meta/base", "license:llama3.1"), downloads=30, gated="manual"
    )
    hub_here.commit("acme/chat", FULL, tags=["base_model:finetune:meta/base"], downloads=20)
    return hub_here


def found(base: str = "meta/base", **options: object) -> HubListing:
    return list_hub_models(base, FindOptions(**options))  # type: ignore[arg-type]


def by_id(listing: HubListing) -> dict[str, HubModel]:
    return {model.id: model for model in listing.models}


def test_each_model_is_pinned_sized_and_marked(hub: Hub) -> None:
    listing = found()
    models = by_id(listing)
    assert [model.downloads for model in listing.models] == [500, 70, 50, 40, 30, 20]
    assert all(model.revision == next(iter(hub.repos[model.id])) for model in listing.models)
    assert listing.base.revision == next(iter(hub.repos["meta/base"]))
    assert (models["acme/sums"].kind, models["acme/sums"].size, models["acme/sums"].licence) == (
        "adapter", 1002, "apache-2.0",
    )  # fmt: skip
    assert (models["acme/rhymes"].card, models["acme/rhymes"].licence) == ("Writes rhymes.", "mit")
    assert (models["acme/chat"].kind, models["acme/chat"].size) == ("checkpoint", 5002)
    assert (models["acme/old"].weights, models["acme/old"].size) == ("pickle", 302)
    assert {model.id: model.marks for model in listing.models if model.marks} == {
        "acme/quick": ("of fast/base-4bit",),
        "acme/old": ("pickles only",),
        "acme/closed": ("gated, not open to you",),
    }
    assert listing.notes == ("1 of 6 are adapters of quantised copies of the base (copies looked at: 1)",)


def test_a_token_opens_what_is_gated_or_private(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", hub.token)
    hub.commit("acme/mine", ADAPTER, tags=adapter_of("meta/base"), private=True)
    models = by_id(found())
    assert models["acme/closed"].usable and models["acme/closed"].marks == ("gated",)
    assert models["acme/mine"].usable and models["acme/mine"].marks == ("private",)


def test_all_pages_of_the_list_are_read(hub: Hub) -> None:
    for number in range(23):
        hub.commit(f"acme/a{number:02}", ADAPTER, tags=adapter_of("meta/base"))
    hub.page = 5
    assert len(found(kind="adapter").models) == 28
    assert any("cursor=25" in path for _, path in hub.requests)
    fewer = found(limit=7)
    assert len(fewer.models) == 7
    assert "the hub has more than these 7; a larger `limit` takes them in" in fewer.notes


def test_filters_leave_out_and_say_so_where_nothing_is_left(hub: Hub) -> None:
    assert set(by_id(found(licence=("mit", "apache*")))) == {"acme/sums", "acme/rhymes"}
    assert set(by_id(found(min_downloads=60))) == {"acme/sums", "acme/quick"}
    assert set(by_id(found(kind="checkpoint"))) == {"acme/chat"}
    with pytest.raises(InputError, match="meta/base: no finetune on the hub is left by `kind`, `licence` and"):
        found(licence=("bsd*",))
    with pytest.raises(InputError, match="acme/chat@main: the hub lists no finetunes of it"):
        found("acme/chat@main")


def test_a_kind_is_what_the_files_are(hub: Hub) -> None:
    hub.commit("acme/full", FULL, tags=adapter_of("meta/base"))
    hub.commit("acme/light", ADAPTER, tags=["base_model:finetune:meta/base"])
    for kind, wrong in (("adapter", "acme/full"), ("checkpoint", "acme/light")):
        listing = found(kind=kind)
        assert {model.kind for model in listing.models} == {kind} and wrong not in by_id(listing)
        assert "left out, as their files are of the other kind than the hub says: 1" in listing.notes
    assert by_id(found())["acme/full"].kind == "checkpoint"


def test_adapters_in_shards_are_whole(hub: Hub) -> None:
    parts = {f"adapter_model-0000{number}-of-00002.safetensors": b"x" * 10 for number in (1, 2)}
    index = {"adapter_model.safetensors.index.json": b"{}"}
    hub.commit("acme/parts", {"adapter_config.json": b"{}", **parts, **index}, tags=adapter_of("meta/base"))
    assert (by_id(found())["acme/parts"].weights, by_id(found())["acme/parts"].size) == ("safetensors", 24)


def test_a_filter_that_does_not_look_through_all_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merge_advisor.pool.hub_models._SCANNED", 2)
    listing = found(licence=("apache*",))
    assert set(by_id(listing)) == {"acme/sums"}
    assert "`licence` looked through the 2 downloaded most of each kind; the hub has more" in listing.notes


def test_a_licence_outside_the_hubs_list_is_read_from_the_card(hub: Hub) -> None:
    card = b"---\nlicense: other\nlicense_name: acme-research\n---\n"
    hub.commit("acme/lab", {**ADAPTER, "README.md": card}, tags=adapter_of("meta/base", "license:other"))
    assert set(by_id(found(licence=("acme-*",)))) == {"acme/lab"}


def test_what_vanished_since_it_was_listed_is_set_aside(hub: Hub) -> None:
    hub.fail("/api/models/acme/sums/tree", (404, {"X-Error-Code": "RepoNotFound"}, b""))
    hub.commit("loner", ADAPTER, tags=adapter_of("meta/base"))
    listing = found()
    reasons = {item.id: item.reason for item in listing.refused}
    assert set(reasons) == {"acme/sums", "loner"}
    assert "no such model on the hub" in reasons["acme/sums"]
    assert "names no organisation" in reasons["loner"]
    assert len(listing.models) == 5


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("nowhere/base", "no such model on the hub"),
        ("meta/base@v9", "no such revision"),
        ("/my/folder", "is no hub id"),
    ],
)
def test_a_base_that_is_none_is_told(hub: Hub, base: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        found(base)


def test_a_list_that_breaks_off_is_no_short_list(hub: Hub, slept: list[float]) -> None:
    hub.page = 2
    hub.fail("cursor=2", *[(502, {}, b"")] * 6)
    with pytest.raises(ExternalError, match="meta/base: the hub failed"):
        found()
    hub.fail("cursor=2", (429, {"Retry-After": "3"}, b""))
    assert len(found().models) == 6
    assert slept[-1] == 4.0
