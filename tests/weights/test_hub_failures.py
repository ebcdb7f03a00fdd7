"""The hub fails as it does: one line with the id, what, and a remedy; what was fetched is kept, no token is told."""

from pathlib import Path

import pytest

from merge_advisor.errors import ExternalError, InputError, MergeAdvisorError, OfflineError, RunError
from merge_advisor.weights.hub import HubId, fetch_snapshot
from merge_advisor.weights.hub_errors import hub_error, hub_failures, said_by, switched_off
from tests.support.hub_server import CUT, RESET, Answer, Hub

NAMES = ("README.md", "adapter_model.safetensors")
WEIGHTS = bytes(range(256)) * 40


@pytest.fixture
def hub(hub_here: Hub) -> Hub:
    hub_here.commit("acme/a0", {"README.md": b"# a0\n", "adapter_model.safetensors": WEIGHTS})
    return hub_here


def failure(model: HubId, kind: type[MergeAdvisorError]) -> str:
    with pytest.raises(kind) as caught:
        fetch_snapshot(model, NAMES)
    message = str(caught.value)
    assert type(caught.value) is kind and "\n" not in message and message.startswith(model.repo)
    return message


def test_a_file_cut_off_halfway_goes_on_where_it_ended(
    hub: Hub, slept: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)  # it keeps whole chunks, of 10 MB
    hub.fail("adapter_model.safetensors", CUT)
    found = fetch_snapshot(HubId("acme/a0"), NAMES)
    assert (found.path / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges == [f"bytes={len(WEIGHTS) // 2}-"]
    assert slept


def test_a_reset_connection_is_told_and_whole_files_are_kept(
    hub: Hub, slept: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    hub.fail("adapter_model.safetensors", *[RESET] * 12)
    message = failure(HubId("acme/a0"), ExternalError)
    assert "the connection to the hub broke" in message
    assert "give the command again, what was fetched is kept" in message
    assert capfd.readouterr().err == ""
    hub.faults.clear()
    hub.requests.clear()
    found = fetch_snapshot(HubId("acme/a0"), NAMES)
    assert (found.path / "adapter_model.safetensors").read_bytes() == WEIGHTS
    assert not [path for method, path in hub.requests if method == "GET" and path.endswith("README.md")]


def test_too_many_requests_are_waited_for_as_long_as_the_hub_asks(hub: Hub, slept: list[float]) -> None:
    hub.fail("/tree/", (429, {"Retry-After": "7"}, b""))
    assert fetch_snapshot(HubId("acme/a0"), NAMES).path.is_dir()
    assert slept == [8.0]


def test_too_many_requests_at_last_say_when_to_come_back(hub: Hub, slept: list[float]) -> None:
    hub.fail("/tree/", *[(429, {"Retry-After": "90"}, b"")] * 6)
    message = failure(HubId("acme/a0"), ExternalError)
    assert "(429); give the command again in 90 seconds, what was fetched is kept" in message
    assert "with a token (HF_TOKEN) it takes more" in message


@pytest.mark.parametrize(
    ("path", "answer", "kind", "said"),
    [
        ("/api/", (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""), InputError,
         "asks who you are (401); set HF_TOKEN"),
        ("/api/", (401, {"X-Error-Code": "RepoNotFound"}, b""), InputError,
         "correct the name, or (where it is private) set HF_TOKEN"),
        ("/api/", (404, {"X-Error-Code": "RevisionNotFound"}, b""), InputError, "no such revision; correct it"),
        ("/api/", (403, {"X-Error-Code": "GatedRepo"}, b""), InputError, "it is gated; ask for access on its page"),
        ("/api/", (200, {}, b"<html>please log in</html>"), ExternalError, "no answer of a hub"),
        ("/api/", (403, {"X-Error-Message": "no plan"}, b""), InputError, "forbids it (403: no plan); set HF_TOKEN"),
    ],
)  # fmt: skip
def test_each_answer_has_its_line(
    hub: Hub, slept: list[float], path: str, answer: Answer, kind: type[MergeAdvisorError], said: str
) -> None:
    hub.fail(path, *[answer] * 6)
    assert said in failure(HubId("acme/a0", "v1"), kind)


def test_a_hub_that_is_down_is_not_called_out_of_reach(hub: Hub, slept: list[float]) -> None:
    hub.fail("/tree/", *[(503, {}, b"")] * 6)
    assert "the hub failed" in failure(HubId("acme/a0"), ExternalError)


def test_a_hub_out_of_reach_is_told(hub_here: Hub) -> None:
    from huggingface_hub import HfApi

    nowhere = HfApi(endpoint="http://127.0.0.1:9")
    with pytest.raises(ExternalError, match="acme/a0: the hub cannot be reached"), hub_failures("acme/a0"):
        nowhere.model_info("acme/a0")


def test_a_full_disk_is_no_fault_of_the_hub() -> None:
    error = hub_error(OSError(28, "No space left on device"), "acme/a0")
    assert isinstance(error, RunError)
    assert "free space, or set HF_HOME" in str(error)


def test_a_token_that_is_refused_is_told_without_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_anExpiredToken")
    hub.fail("/api/", (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, b""))
    message = failure(HubId("acme/a0"), InputError)
    assert "does not accept the token (401); give a valid one (HF_TOKEN)" in message and "hf_" not in message


def test_no_token_is_told(hub: Hub, slept: list[float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_TOKEN", "aSecretOfAnotherForm")
    said = (500, {"X-Error-Message": "bad header: Bearer aSecretOfAnotherForm and hf_abcdefghijkl"}, b"")
    hub.fail("/tree/", *[said] * 6)
    message = failure(HubId("acme/a0"), ExternalError)
    assert "bad header" in message and "aSecret" not in message and "hf_abc" not in message
    assert said_by(ValueError("https://me:word@example.org/x")) == "https://***@example.org/x"


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_variables_are_the_hubs(hub: Hub, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "yes")
    assert switched_off()
    assert "fetching is off; run once online" in failure(HubId("acme/a0"), OfflineError)
    assert hub.requests == []
