"""Tiny models in memory, for the tests of what measures them."""

import pytest

from merge_advisor.backbone.model import Backbone, load_backbone


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_t5"])
def backbone(request: pytest.FixtureRequest) -> Backbone:
    """A decoder and an encoder-decoder, one after the other."""
    return load_backbone(request.getfixturevalue(request.param), threads=1)


@pytest.fixture(scope="module")
def llama(request: pytest.FixtureRequest) -> Backbone:
    """The tiny Llama."""
    return load_backbone(request.getfixturevalue("tiny_llama"), threads=1)
