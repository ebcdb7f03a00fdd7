"""Views in a real browser: their links, hubs that change beside them, many models."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.explore import export_page
from merge_advisor.explore.map_points import read_points
from merge_advisor.explore.serving import free_socket
from merge_advisor.hub import Hub
from merge_advisor.hub.values import HubRun, HubScore
from tests.explore.browser import chromium, served, visiting
from tests.explore.explore_world import HOSTILE, clustered
from tests.hub.hub_world import TIME, put

MARKED = "window.navigatorPage.scene.marks.neighbours.map(({ index }) => window.navigatorPage.model.names[index])"
SEEN = "window.navigatorPage.model.names.filter((_, index) => window.navigatorPage.scene.shown[index])"
TICKED = "window.navigatorPage.scene.marks.picked.map((index) => window.navigatorPage.model.names[index])"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
def test_a_hub_that_changes_is_loaded_again_and_what_was_chosen_stays(tmp_path: Path) -> None:
    chromium()
    hub = clustered(tmp_path / "hub", groups=4, each=20)
    with served(hub, tmp_path) as address, visiting(address) as visit:
        visit.open()
        page, ticked = visit.page, ["clinical-2", "python-77", "algebra-79"]
        page.click("#tab-list")
        for name in ticked:
            page.check(f"#list input[aria-label='tick {name}']")
        page.fill("#search", "a")
        visit.until("document.getElementById('count').textContent.includes(' of 80')")
        page.evaluate("() => window.navigatorPage.scene.camera.zoomAt(200, 200, 0.8)")
        page.evaluate("() => window.navigatorPage.scene.moved()")
        visit.until("location.hash.includes('at=')")
        view = page.evaluate("location.hash.match(/at=[^&]*/)[0]")
        with Hub.open(hub) as opened:
            for name in ("legal-0", "clinical-2"):  # what stands behind moves up
                opened.remove(name)
            put(opened, 200, "newcomer", np.ones(16))
        # a click on the old map: nothing of the new one is marked on it
        page.mouse.click(*visit.place_of("clinical-14"))
        visit.until("document.getElementById('said').textContent.includes('map was loaded again')")
        said = page.inner_text("#said")
        assert "The hub has changed; the map was loaded again; 1 ticked models are not in it any more" in said
        visit.until("window.navigatorPage.model.count === 79 && !window.navigatorPage.reloading")
        assert set(page.evaluate(TICKED)) == {"python-77", "algebra-79"}
        assert page.evaluate("location.hash.match(/at=[^&]*/)[0]") == view and page.input_value("#search") == "a"
        visit.wait("html[data-model='15']")
        with Hub.open(hub) as opened:
            hits = opened.search(like="clinical-14", k=10).hits
        assert page.inner_text(".title") == "clinical-14" and page.evaluate(MARKED) == [hit.entry.id for hit in hits]
        visit.wrong.clear()  # the browser logs the answers 409, which the page has spoken of
        # weights that come again under the same id: the tick is the id's
        with Hub.open(hub) as opened:
            opened.remove("python-77")
            put(opened, 300, "python-77", np.ones(16) * 2 + np.arange(16))
            opened.remove("clinical-14")
        page.evaluate("window.dispatchEvent(new Event('focus'))")  # who comes back to the window
        visit.until("document.getElementById('said').textContent.includes('that was open is not in it any more')")
        visit.until("window.navigatorPage.model.count === 78 && !window.navigatorPage.reloading")
        assert set(page.evaluate(TICKED)) == {"python-77", "algebra-79"}
        assert page.evaluate("document.documentElement.dataset.model") == ""
        visit.wrong.clear()


@pytest.mark.slow
def test_a_page_that_nobody_touches_notices_that_the_hub_has_changed(tmp_path: Path) -> None:
    chromium()
    hub = clustered(tmp_path / "hub", groups=3, each=8)
    with served(hub, tmp_path) as address, visiting(address) as visit:
        visit.open()
        page, asked = visit.page, list[str]()
        page.on("request", lambda request: asked.append(request.url.partition("?")[0].rpartition("/")[2]))
        page.mouse.click(*visit.place_of("clinical-1"))
        visit.wait("html[data-model='2']")
        visit.wait("html[data-layout=ready]")
        page.wait_for_timeout(1000)
        asked.clear()
        visit.until("performance.getEntriesByName('first-picture')[0].startTime + 40000 < performance.now()")
        assert set(asked) == {"version"} and len(asked) >= 2  # nothing changed: nothing else is asked for
        with Hub.open(hub) as opened:
            opened.add_score("clinical-1", HubScore("sums", "accuracy", 0.5, 0.4, 0.6, 40, "fast 1", "d1"))
        visit.until("document.querySelector('#panel-model').innerText.includes('sums')")
        assert page.inner_text(".title") == "clinical-1" and "changed" not in page.inner_text("#said")
        page.click("#view-runs")
        visit.wait("#runs .empty")
        with Hub.open(hub) as opened:
            opened.results.keep_run(HubRun("from-elsewhere", TIME, ("sums",), "no-gain"))
        visit.until("document.getElementById('runs').innerText.includes('from-elsewhere')")
        page.click("#view-map")
        with Hub.open(hub) as opened:
            put(opened, 200, "newcomer", np.ones(16))
        visit.until("window.navigatorPage.model.count === 25 && !window.navigatorPage.reloading")
        assert page.inner_text(".title") == "clinical-1" and "loaded again" in page.inner_text("#said")
        visit.wrong.clear()  # the browser logs the answer 409, which the page has spoken of


@pytest.mark.slow
def test_a_view_with_all_that_is_chosen_is_in_its_link(tmp_path: Path) -> None:
    """Density, UMAP, colour by score, decisions, what is free, a lasso, many ticks: each works, and the link has it."""
    chromium()
    hub = clustered(tmp_path / "hub", groups=4, each=100, names=HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merge_advisor.explore.layouts.lay_out", lambda vectors: vectors[:, 1:3].astype(np.float32))
        export_page(hub, tmp_path / "map.html", cache=tmp_path / "cache", offline=True)
    with Hub.open(hub) as opened:
        for place, name in enumerate(["clinical-14", "clinical-18", "algebra-15"]):
            opened.add_score(name, HubScore("sums", "accuracy", 0.25 * (place + 1), 0.1, 0.9, 40, "fast 1", "d1"))
    log = tmp_path / "gate" / "log.jsonl"
    log.parent.mkdir()
    told = {
        "model": "m",
        "kind": "new",
        "text": "m: <b>improves</b> sums by 3 points",
        "at": "2026-11-29T14:00:00+00:00",
    }
    log.write_text(json.dumps(told) + "\n")
    token = tmp_path / "token"
    with free_socket(0) as taken:
        port = str(taken.getsockname()[1])
    more = ("--port", port, "--token-file", str(token), "--watch-log", str(log.parent))
    allowed = ["clipboard-read", "clipboard-write"]
    with served(hub, tmp_path, *more) as address, visiting(address, permissions=allowed) as visit:
        visit.open()
        page = visit.page
        visit.wait("html[data-layout=ready]")
        drawn = """(() => { const { under } = window.navigatorPage.scene, copy = document.createElement('canvas');
          [copy.width, copy.height] = [under.width, under.height];
          const context = copy.getContext('2d');
          context.drawImage(under, 0, 0);
          return context.getImageData(0, 0, copy.width, copy.height).data.some((value) => value > 0); })()"""
        assert not page.evaluate(drawn)
        page.check("#density")
        visit.until(drawn)
        places = "Array.from(window.navigatorPage.scene.x.slice(0, 5))"
        before = page.evaluate(places)
        page.click("#layout-umap")
        assert page.evaluate(places) != before and "UMAP of cosines" in page.inner_text("#layout-says")
        page.select_option("#colour", "score:sums:accuracy")
        visit.until("document.querySelector('.ramp') !== null")
        assert page.inner_text(".ramp .ends").split() == ["0.250", "0.750"]
        assert "397 not scored, in grey" in page.inner_text(".ramp")
        page.evaluate(f"window.navigatorPage.open({visit.entry_of('clinical-14')})")
        visit.wait("#freely tbody tr")
        with Hub.open(hub) as opened:
            near = opened.search(like="clinical-14", k=399).hits
        free = [hit.entry.id for hit in near if hit.entry.licence in ("apache-2.0", "mit")][:5]
        rows = page.query_selector_all("#freely tbody tr")
        assert [row.query_selector(".name").inner_text() for row in rows] == free
        assert "0.250" in page.inner_text("#panel-model") and "sums" in page.inner_text("#panel-model")
        page.fill("#wanted", "rank<=5")
        visit.until(f"({SEEN}).length < 300")
        left, top = visit.place_of("clinical-14")
        page.click("#lasso")
        page.mouse.move(left - 90, top - 90)
        page.mouse.down()
        for across, down in ((90, -90), (90, 90), (-90, 90), (-90, -86)):
            page.mouse.move(left + across, top + down, steps=4)
        page.mouse.up()
        visit.until("document.getElementById('picked-count') !== null")
        ticked = page.evaluate(TICKED)
        assert len(ticked) > 20
        page.focus("#map")
        page.keyboard.press("+")
        visit.until("location.hash.includes('at=')")
        page.click("#copy-link")
        visit.until("document.getElementById('said').textContent.includes('The link is copied; it holds the token')")
        link = page.evaluate("navigator.clipboard.readText()")
        zoom = "window.navigatorPage.scene.camera.zoom"
        seen = {what: page.evaluate(what) for what in (SEEN, places)}
        zoomed = page.evaluate(zoom)
        # more than an address can hold is said
        page.evaluate(
            "(app) => { app = window.navigatorPage; "
            "app.lassoed(Array.from({ length: 200 }, (_, index) => 2 * index), false); }"
        )
        assert "too many" not in page.inner_text("#panel-selection")
        page.evaluate("() => { for (let n = 1e9; n < 1e9 + 4000; n += 2) window.navigatorPage.state.picked.add(n); }")
        page.click("#copy-link")
        visit.until("document.getElementById('said').textContent.includes('ticks are too many for it and left out')")
        page.click("#view-runs")
        visit.until("document.getElementById('decisions') !== null")
        assert "m: <b>improves</b> sums by 3 points" in page.inner_text("#decisions")
        assert str(log) in page.inner_text("#decisions") and page.query_selector("#decisions b") is None
    with served(hub, tmp_path, *more) as address, visiting(address) as again:
        assert link.startswith(address), "the next start has the same address"
        again.page.goto(link)
        again.wait("html[data-names]")
        again.wait("html[data-layout=ready]")
        for what, was in seen.items():
            assert again.page.evaluate(what) == was
        assert sorted(again.page.evaluate(TICKED)) == sorted(ticked)
        assert again.page.evaluate(zoom) == pytest.approx(zoomed, abs=1e-3)
        assert again.page.is_checked("#density") and again.page.input_value("#colour") == "score:sums:accuracy"
        assert again.page.inner_text(".title") == "clinical-14" and again.page.input_value("#wanted") == "rank<=5"


@pytest.mark.slow
def test_a_hundred_thousand_models_are_drawn_and_can_be_clicked(tmp_path: Path) -> None:
    chromium()
    hub = clustered(tmp_path / "hub", groups=4, each=25_000)
    with Hub.open(hub) as opened:
        vectors = np.stack([delta for _, _, delta in opened.deltas.delta_rows(1, most=100_000)])
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        number = opened.entry("clinical-14").number
        exact = (units @ units[number - 1]).tolist()
        cosines = dict(zip(read_points(opened, 1).names, exact, strict=True))
    best = sorted((value for name, value in cosines.items() if name != "clinical-14"), reverse=True)[:10]
    with served(hub, tmp_path) as address:
        for draw in ("gl", "2d"):
            with visiting(address) as visit:
                visit.open(f"&draw={draw}")
                assert visit.page.inner_text("#count") == "100,000 models"
                for _ in range(12):  # anew each time: a wheel turns at whole pixels
                    visit.page.mouse.move(*visit.place_of("clinical-14"))
                    visit.page.mouse.wheel(0, -300)
                    visit.page.wait_for_timeout(50)
                visit.page.mouse.click(*visit.place_of("clinical-14"))
                visit.wait(f"html[data-model='{visit.entry_of('clinical-14')}']")
                rows = visit.page.query_selector_all("#neighbours tbody tr")
                names = [row.query_selector(".name").inner_text() for row in rows]
                assert visit.page.evaluate(MARKED) == names and len(set(names)) == 10
                values = [float(row.query_selector_all("td")[2].inner_text()) for row in rows]
                assert values == pytest.approx(best, abs=2e-3), "those of all cosines"
                assert [cosines[name] for name in names] == pytest.approx(values, abs=2e-3)


@pytest.mark.slow
def test_a_page_of_ten_thousand_models_has_five_megabytes_at_most_and_is_searched(tmp_path: Path) -> None:
    chromium()
    words = (
        "adapter trained on notes of wards, contracts, code reviews, sums and letters, with its limits stated".split()
    )
    rng = np.random.default_rng(0)
    hub = clustered(tmp_path / "hub", groups=4, each=2500, dim=64)
    with Hub.open(hub) as opened, opened.catalogue.file.transaction():
        for entry in opened.entries():
            text = " ".join(rng.choice(words, 250))
            opened.catalogue.keep_entry(replace(entry, card=f"{entry.card} {text}"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("merge_advisor.explore.layouts.lay_out", lambda vectors: vectors[:, :2].astype(np.float32))
        notes = export_page(hub, tmp_path / "map.html", cache=tmp_path / "cache", offline=True)
    assert (tmp_path / "map.html").stat().st_size <= 5_000_000 and "10000 models" in notes[0]
    cut = int(re.search(r"cards are cut to (\d+) characters", notes[1])[1])  # type: ignore[index]
    with visiting((tmp_path / "map.html").as_uri()) as visit:
        visit.open()
        visit.page.fill("#search", "medicine")
        visit.until("document.getElementById('count').textContent.startsWith('2,500 of 10,000')")
        assert f"of cards, the first {cut} characters are searched" in visit.page.inner_text("#count")
