"""`merge-advisor explore` on the command line: what it refuses is one line, and the page to send is written."""

import json
import os
import stat
import sys
from pathlib import Path

import pytest

from merge_advisor.cli import main
from merge_advisor.errors import InputError
from merge_advisor.explore.page_export import nearest_table
from merge_advisor.explore.serving import free_socket
from merge_advisor.explore.tokens import kept_token
from tests.explore.explore_world import HOSTILE, clustered


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub of few made models, in the folder one works in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGE_ADVISOR_CACHE", str(tmp_path / "cache"))
    return clustered(tmp_path / "hub", groups=2, each=5, names=HOSTILE)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "no hub folder named: `merge-advisor explore DIR`"),
        (["nowhere"], 2, "is no hub folder (no catalogue.sqlite); make one with `merge-advisor hub add`"),
        (["hub", "--hub", "other"], 2, "hub and other are two hub folders; name one"),
        (["hub", "--base", "x"], 2, "--base is not needed, the hub knows it; leave it out"),
        (["hub", "--port", "70000"], 2, "--port 70000: give 1 to 65535"),
        (["hub", "--space", "1"], 2, "--space: goes with --export"),
        (["hub", "--token-file", "t"], 2, "--token-file: goes with --port: at any that is free"),
        (["hub", "--new-token"], 2, "--new-token: goes with --token-file; without it every start has a new one"),
        (["hub", "--export", "m.html", "--watch-log", "w"], 2, "--watch-log: goes with the page that is served"),
        (["hub", "--port", "65000", "--token-file", "hub"], 2, "--token-file hub: it is no regular file; --new-token"),
        (["hub", "--export", "map.txt"], 2, "--export map.txt: a page is written; give a name that ends in .html"),
        (["hub", "--export", "map.html", "--space", "9"], 2, "has no space 9; it has 1"),
        (["hub", "--export", "hub/catalogue.sqlite/map.html"], 2, "cannot be written"),
    ],
)
def test_what_it_refuses_is_one_line(
    hub: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, says: str
) -> None:
    assert main(["explore", "--no-browser", *words]) == code
    told = capsys.readouterr()
    assert says in told.err.replace("\n", " ") and "Traceback" not in told.err and told.out == ""


def test_a_port_in_use_and_a_missing_package_are_one_line(
    hub: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with free_socket(0) as taken:
        port = str(taken.getsockname()[1])
        assert main(["explore", "hub", "--no-browser", "--port", port]) == 2
        assert f"--port {port}: cannot be used (Address already in use); give another" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "starlette", None)
    assert main(["explore", "hub", "--no-browser"]) == 2
    told = capsys.readouterr().err
    assert "starlette is not installed; pip install 'merge-advisor[explore]' (--export works without it)" in told
    assert main(["explore", "hub", "--export", "map.html"]) == 0


def test_the_page_to_send_says_what_it_is_and_holds_names_as_text(
    hub: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["explore", "hub", "--export", "map.html", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["notes"][0].startswith("wrote map.html: 10 models, 0.1 MB")
    page = Path("map.html").read_text("utf-8")
    policy = page.split('http-equiv="Content-Security-Policy" content="')[1].split('"')[0]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "connect-src" not in policy
    assert page.count("<script") == 2 and page.count("</script>") == 2, "names and cards end no element"
    data = page.split('id="embedded">')[1].split("</script>")[0]
    assert "<" not in data and json.loads(data)["names"][:6] == list(HOSTILE)
    assert str(hub) not in page and "/nowhere" not in page, "no folder of this machine"
    # cards are cut until the page is small enough, which is said
    monkeypatch.setattr("merge_advisor.explore.page_export.MOST_BYTES", len(page.encode()) - 100)
    monkeypatch.setattr("merge_advisor.explore.page_export._CARD_LENGTHS", (600, 20))
    assert main(["explore", "hub", "--export", "small.html"]) == 0
    assert "cards are cut to 20 characters" in capsys.readouterr().out
    cut = json.loads(Path("small.html").read_text("utf-8").split('id="embedded">')[1].split("</script>")[0])["cards"]
    assert max(map(len, cut)) == 20 and all(card.endswith("…") for card in cut)


def test_a_kept_secret_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "made" / "token"
    token = kept_token(file)
    assert kept_token(file) == token and len(token) >= 32 and stat.S_IMODE(file.stat().st_mode) == 0o600
    newer = kept_token(file, anew=True)
    assert newer != token and kept_token(file) == newer and stat.S_IMODE(file.stat().st_mode) == 0o600
    file.chmod(0o640)
    with pytest.raises(InputError, match=r"others can read it \(mode 640\); `new_token` replaces it, or name another"):
        kept_token(file)
    assert kept_token(file, anew=True) != newer and stat.S_IMODE(file.stat().st_mode) == 0o600
    link, pipe, short = tmp_path / "link", tmp_path / "pipe", tmp_path / "short"
    link.symlink_to(file)
    os.mkfifo(pipe, 0o600)
    short.write_text("abc\n")
    short.chmod(0o600)
    for path, says in ((link, "it is a link"), (pipe, "no regular file"), (short, "keeps no secret of 32 or more")):
        with pytest.raises(InputError, match=says):
            kept_token(path)
    assert link.is_symlink() and kept_token(link, anew=True) != kept_token(file), "what a link leads to is left alone"


def test_the_nearest_of_a_page_are_those_of_all_cosines() -> None:
    import numpy as np

    rows = np.random.default_rng(0).normal(size=(700, 6))
    units = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    places, cosines = nearest_table(units)
    exact = units @ units.T
    np.fill_diagonal(exact, -2)
    assert places.tolist() == np.argsort(-exact, axis=1)[:, :8].tolist()
    np.testing.assert_allclose(cosines, np.sort(exact, axis=1)[:, :-9:-1], atol=1e-6)
    assert nearest_table(units[:1])[0].shape == (1, 0)
