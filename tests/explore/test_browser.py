"""The page in a real browser, on made hubs."""

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from merge_advisor.explore import export_page
from merge_advisor.hub import Hub
from merge_advisor.types import Base
from tests.explore.browser import chromium, served, visiting
from tests.explore.explore_world import HOSTILE, clustered
from tests.hub.hub_world import SPACE, TIME, entry_of

MARKED = "window.navigatorPage.scene.marks.neighbours.map(({ index }) => window.navigatorPage.model.names[index])"
SEEN = "window.navigatorPage.model.names.filter((_, index) => window.navigatorPage.scene.shown[index])"
TICKED = "window.navigatorPage.scene.marks.picked.map((index) => window.navigatorPage.model.names[index])"

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address and the folder of a hub of made models, some with names that are not nice."""
    chromium()
    world = tmp_path_factory.mktemp("made")
    hub = clustered(world / "hub", groups=4, each=20, names=HOSTILE)
    with pytest.MonkeyPatch.context() as patch:
        # UMAP compiles itself for a minute; it has a test of its own
        patch.setattr("merge_advisor.explore.layouts.lay_out", lambda vectors: vectors[:, :2].astype(np.float32))
        export_page(hub, world / "map.html", cache=world / "cache", offline=True)
    with served(hub, world) as address:
        yield address, hub


def test_click_shows_the_true_neighbours_that_the_api_gives(made: tuple[str, Path]) -> None:
    address, hub = made
    with visiting(address) as visit:
        visit.open("&draw=gl")  # by WebGL, where the browser has it
        with Hub.open(hub) as opened:
            expected = [(hit.entry.id, f"{hit.score:.3f}") for hit in opened.search(like="clinical-14", k=10).hits]
        visit.page.mouse.click(*visit.place_of("clinical-14"))
        visit.wait(f'html[data-model="{visit.entry_of("clinical-14")}"]')
        rows = visit.page.query_selector_all("#neighbours tbody tr")
        shown = [
            (row.query_selector(".name").get_attribute("title"), row.query_selector_all("td")[2].inner_text().strip())
            for row in rows
        ]
        escaped = [(re.sub(r"[\u202c\u202e]", "", name), value) for name, value in expected]
        assert [(re.sub(r"\\u202[ce]", "", name), value) for name, value in shown] == escaped
        assert visit.page.inner_text(".title") == "clinical-14"
        # the view is in the address: another visit shows the same
        visit.until("location.hash.includes('model=')")
        link = visit.page.evaluate("location.href")
    with visiting(link) as again:
        again.page.goto(link)
        again.wait("html[data-model]")
        assert again.page.inner_text(".title") == "clinical-14"


def test_names_and_cards_of_others_are_text(made: tuple[str, Path]) -> None:
    address, _ = made
    with visiting(address) as visit:
        visit.open()
        for name in HOSTILE:
            visit.page.evaluate("(entry) => window.navigatorPage.open(entry)", visit.entry_of(name))
            visit.wait(f'html[data-model="{visit.entry_of(name)}"]')
            title = visit.page.inner_text(".title")
            assert "owned" not in visit.page.title() and visit.page.query_selector(".card script, .title img") is None
            assert "\u202e" not in title and title.replace("\n", "") == (
                re.sub(r"[\x00-\x1f\u202c\u202e]", lambda found: f"\\u{ord(found[0]):04x}", name)
            )
            assert "<script>" in visit.page.inner_text(".card")
            wide = "document.documentElement.scrollWidth <= innerWidth"
            assert visit.page.evaluate(wide), f"{name[:20]} makes the page scroll sideways"
        visit.page.click("#tab-list")
        assert visit.page.query_selector("#list script, #list img") is None
        assert "<script>" in visit.page.inner_text("#list")


def test_filters_search_colours_and_files(made: tuple[str, Path], tmp_path: Path) -> None:
    address, hub = made
    with visiting(address) as visit:
        visit.open()
        page = visit.page
        visit.wait("html[data-layout]")
        assert "clinical" in page.inner_text(".legend") and "silhouette" in page.inner_text(".legend")
        page.fill("#search", "algebra-1")
        visit.until("document.getElementById('count').textContent.includes(' of 80')")
        names = "window.navigatorPage.model.names.filter((_, index) => window.navigatorPage.scene.shown[index])"
        visit.until("window.navigatorPage.model.found !== null")
        assert all("algebra" in name or name in HOSTILE for name in page.evaluate(names))
        page.fill("#search", "zzzz")
        visit.until("document.getElementById('status').textContent.includes('No model fits')")
        page.click("#status button")
        page.fill("#wanted", "rank<=4,licence=mit")
        visit.until("window.navigatorPage.model.wanted !== null")
        with Hub.open(hub) as opened:
            expected = [entry.id for entry in opened.entries("rank<=4,licence=mit")]
        assert page.evaluate(names) == expected
        with page.expect_download() as saved:
            page.click("#save-csv")
        rows = list(csv.reader(Path(saved.value.path()).read_text("utf-8-sig").splitlines()))
        assert [row[0] for row in rows[1:]] == expected and all(len(row) == len(rows[0]) for row in rows)
        page.fill("#wanted", "colour=red")
        visit.until("document.getElementById('wanted-says').textContent.includes('unknown field')")
        visit.wrong.clear()  # the browser logs the answer 400, which the page has shown
        page.fill("#wanted", "")
        visit.until("window.navigatorPage.model.wanted === null")
        for colour in ("licence", "kind", "rank", "added", "cluster"):
            page.select_option("#colour", colour)
            codes = page.evaluate("[...new Set(window.navigatorPage.codes)].length")
            assert codes >= (2 if colour in ("licence", "rank", "cluster") else 1), colour
        with page.expect_download() as saved:
            page.click("#save-svg")
        text = Path(saved.value.path()).read_text()
        assert text.startswith("<svg") and text.count("h0") == 80 and "<script" not in text
        with page.expect_download() as saved:
            page.click("#save-png")
        assert Path(saved.value.path()).read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_lasso_ticks_what_lies_inside(made: tuple[str, Path]) -> None:
    address, _ = made
    with visiting(address) as visit:
        visit.open()
        page = visit.page
        left, top = visit.place_of("algebra-15")
        page.click("#lasso")
        reach = 60
        corners = [(-reach, -reach), (reach, -reach), (reach, reach), (-reach, reach), (-reach, -reach + 4)]
        page.mouse.move(left + corners[0][0], top + corners[0][1])
        page.mouse.down()
        for across, down in corners[1:]:
            page.mouse.move(left + across, top + down, steps=6)
        page.mouse.up()
        visit.until("document.getElementById('picked-count') !== null")
        inside = page.evaluate(
            """([left, top, reach]) => { const { model, scene } = window.navigatorPage, found = [];
              const box = scene.element.getBoundingClientRect();
              for (let index = 0; index < model.count; index += 1) {
                const [x, y] = scene.camera.toScreen(scene.x[index], scene.y[index]);
                const away = Math.max(Math.abs(box.left + x - left), Math.abs(box.top + y - top));
                if (away < reach - 3) found.push(index);
              } return found.map((index) => model.entry[index]); }""",
            [left, top, reach],
        )
        ticked = page.evaluate(
            "window.navigatorPage.scene.marks.picked.map((i) => window.navigatorPage.model.entry[i])"
        )
        assert set(inside) <= set(ticked) and len(ticked) <= len(inside) + 6 and len(inside) > 1
        assert page.inner_text("#picked-count") == f"{len(ticked)} ticked"


def test_everything_is_reached_by_keyboard_alone(made: tuple[str, Path]) -> None:
    address, _ = made
    with visiting(address) as visit:
        visit.open()
        keys = visit.page.keyboard
        keys.press("/")
        keys.type("python")
        visit.until("document.getElementById('count').textContent.includes(' of 80')")
        for _ in range(30):
            if visit.page.evaluate("document.activeElement.id") == "map":
                break
            keys.press("Tab")
        assert visit.page.evaluate("document.activeElement.id") == "map"
        keys.press("n")
        visit.until("document.getElementById('announced').textContent !== ''")
        keys.press("Space")
        keys.press("n")
        keys.press("Enter")
        visit.wait("html[data-model]:not([data-model=''])")
        assert "python" in visit.page.inner_text(".title") + visit.page.inner_text(".card")
        zoom = visit.page.evaluate("window.navigatorPage.scene.camera.zoom")
        visit.page.focus("#map")
        keys.press("+")
        assert visit.page.evaluate("window.navigatorPage.scene.camera.zoom") > zoom
        keys.press("5")
        assert visit.page.evaluate("document.activeElement.id") == "tab-list"
        keys.press("ArrowLeft")
        visit.wait("#panel-selection.chosen")
        assert visit.page.inner_text("#picked-count") == "1 ticked"
        keys.press("?")
        visit.wait("dialog[open]")
        keys.press("Escape")
        assert not visit.page.evaluate("document.querySelector('dialog').open")
        # what is pressed keeps the focus, though it is drawn anew; what has gone hands it on
        assert visit.focus() == "tab-selection"
        visit.tab_to("untick " + visit.page.evaluate(TICKED)[0])
        keys.press("Enter")
        visit.until("document.getElementById('picked-count') === null")
        assert visit.focus() == "panel-selection"
        visit.page.focus("#tab-selection")
        keys.press("ArrowRight")
        for _ in range(2):
            keys.press("Tab")
            held = visit.focus()
            assert held.startswith("panel-list tick ")
            keys.press("Space")
            assert visit.focus() == held and visit.page.evaluate("document.activeElement.checked")
            keys.press("Tab")
        visit.page.focus("#colour")
        keys.press("Tab")
        group = visit.focus()
        keys.press("Enter")
        visit.until("window.navigatorPage.state.clusters.size === 1")
        assert visit.focus() == group and visit.page.get_attribute(":focus", "aria-pressed") == "true"
        visit.tab_to("wanted")
        visit.page.evaluate("setInterval(() => window.navigatorPage.renderAll(), 20)")  # as polls do, more often
        keys.type("rank<=4", delay=60)
        visit.until("window.navigatorPage.model.wanted !== null")
        keys.press("Home")
        keys.type("x")
        assert visit.page.input_value("#wanted") == "xrank<=4" and visit.focus() == "panel-view wanted"
        keys.press("Backspace")
        visit.tab_to("density")
        keys.press("Space")
        assert visit.page.is_checked("#density") and visit.focus() == "panel-view density"
        visit.page.wait_for_timeout(500)
        assert visit.page.evaluate("window.navigatorPage.filterError") == ""
        visit.wrong.clear()  # of the field that there is none of, on the way


@pytest.mark.parametrize(("scheme", "size"), [("dark", (1400, 860)), ("light", (400, 780)), ("dark", (400, 780))])
def test_dark_and_narrow_pages_are_whole(made: tuple[str, Path], scheme: str, size: tuple[int, int]) -> None:
    address, _ = made
    with visiting(address, size=size, scheme=scheme) as visit:
        visit.open()
        page = visit.page
        visit.wait("html[data-layout]")
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
        assert (light < 60) == (scheme == "dark")
        for panel in ("view", "model", "examples", "selection", "list"):
            if panel == "view" and size[0] > 820:
                continue
            page.click(f"#tab-{panel}")
            box = page.query_selector(f"#panel-{panel}").bounding_box()
            assert box and box["width"] > 200 and box["x"] >= 0 and box["x"] + box["width"] <= size[0] + 1, panel
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), panel
        page.click("#view-runs")
        visit.until("document.getElementById('runs').textContent.includes('No runs yet')")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.click("#view-map")
        page.click("#theme")
        turned = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert turned != ground


def test_a_huge_file_and_a_task_of_one_row_are_one_line_on_the_page(made: tuple[str, Path]) -> None:
    address, _ = made
    with visiting(address) as visit:
        visit.open()
        page = visit.page
        page.evaluate("window.navigatorPage.panels.examples.send('big.jsonl', { size: 2 ** 30, name: 'big.jsonl' })")
        says = "1024 MB; the page takes task files of up to 32"
        visit.until(f"document.getElementById('said').textContent.includes('{says}')")
        # dropped as a person drops a file
        page.evaluate(
            """() => { const data = new DataTransfer();
              data.items.add(new File(['{"input": "2 + 2", "output": "4"}'], '<b>one.jsonl'));
              window.dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true })); }"""
        )
        visit.wait("#tasks .bad")
        assert "1 row" in page.inner_text("#tasks .bad") and page.query_selector("#tasks b") is None


def test_each_base_has_a_map_of_its_own(tmp_path: Path) -> None:
    chromium()
    clustered(tmp_path / "hub", groups=2, each=5)
    with Hub.open(tmp_path / "hub") as hub:
        hub.catalogue.keep_base(Base("org/other", None, "other", "LlamaForCausalLM"), "org/other")
        number = hub.catalogue.keep_space(replace(SPACE, base="other"))
        for item in range(3):
            entry = hub.catalogue.keep_entry(replace(entry_of(item), base="other"))
            hub.catalogue.keep_name("other", f"other-{item}", entry, TIME)
            hub.deltas.keep_delta(number, entry, np.eye(4, dtype=np.float32)[item])
    with served(tmp_path / "hub", tmp_path) as address, visiting(address) as visit:
        visit.open("#colour=base")
        assert visit.page.inner_text("#count") == "10 models"
        visit.page.click(".legend .item:has-text('org/other')")
        visit.until("document.getElementById('count').textContent === '3 models'")
        visit.until("(window.navigatorPage.model.names ?? []).includes('other-0')")
        visit.page.select_option("#space", label="org/base · delta_activations · 10")
        visit.until("document.getElementById('count').textContent === '10 models'")


@pytest.mark.slow
def test_an_answer_that_comes_late_is_not_taken_for_that_to_the_last_question(made: tuple[str, Path]) -> None:
    address, hub = made
    with visiting(address) as visit:
        visit.open()
        page = visit.page
        held: list[Any] = []

        def hold(route: Any) -> None:
            if held or ("/api/filter" in route.request.url and "rank%3C%3D4" not in route.request.url):
                route.continue_()
            else:
                held.append(route)

        page.route("**/api/filter*", hold)
        page.fill("#wanted", "rank<=4")
        for _ in range(100):
            page.wait_for_timeout(50)
            if held:
                break
        page.fill("#wanted", "licence=mit")
        with Hub.open(hub) as opened:
            expected = [entry.id for entry in opened.entries("licence=mit")]
        visit.until(f"({SEEN}).length === {len(expected)}")
        with page.expect_response("**/api/filter*rank*"):
            held[0].continue_()
        page.wait_for_timeout(300)
        assert page.evaluate(SEEN) == expected and page.evaluate("document.activeElement.id") == "wanted"
        page.unroute("**/api/filter*")
        page.click("text=Show all 80")
        # the same of models that are opened one after the other
        held.clear()
        first, last = visit.entry_of("clinical-14"), visit.entry_of("algebra-15")
        page.route(f"**/api/neighbours*number={first}&*", lambda route: held.append(route))
        page.evaluate(f"() => {{ window.navigatorPage.open({first}); window.navigatorPage.open({last}); }}")
        visit.wait(f"html[data-model='{last}']")
        for route in held:
            route.continue_()
        page.wait_for_timeout(500)
        page.evaluate("window.navigatorPage.panels.model.render()")
        assert page.inner_text(".title") == "algebra-15"
        with Hub.open(hub) as opened:
            hits = opened.search(like="algebra-15", k=10).hits
        assert page.evaluate(MARKED) == [hit.entry.id for hit in hits]


def test_a_page_that_was_sent_works_without_a_server(made: tuple[str, Path], tmp_path: Path) -> None:
    _, hub = made
    # the layout is kept from the fixture
    notes = export_page(hub, tmp_path / "map.html", cache=hub.parent / "cache", offline=True)
    text = (tmp_path / "map.html").read_text("utf-8")
    assert "80 models" in notes[0] and text.count("<script>document.title") == 0 and str(tmp_path) not in text
    with visiting((tmp_path / "map.html").as_uri()) as visit:
        visit.open()
        page = visit.page
        page.mouse.click(*visit.place_of("clinical-14"))
        visit.wait("html[data-model]:not([data-model=''])")
        assert page.inner_text(".title") == "clinical-14" and "clinical medicine" in page.inner_text(".card")
        with Hub.open(hub) as opened:
            expected = [f"{hit.score:.3f}" for hit in opened.search(like="clinical-14", k=8).hits]
        shown = [
            row.query_selector_all("td")[2].inner_text() for row in page.query_selector_all("#neighbours tbody tr")
        ]
        assert [float(value) for value in shown] == pytest.approx([float(value) for value in expected], abs=2e-3)
        assert page.query_selector("#tab-examples") is None and page.query_selector("#view-runs") is None
        page.fill("#search", "python")
        visit.until("document.getElementById('count').textContent.includes(' of 80')")
        page.fill("#search", "medicine contracts")
        visit.until("document.getElementById('count').textContent.startsWith('0 of 80')")
        page.fill("#search", "Medicine model")  # words of cards alone
        visit.until("document.getElementById('count').textContent.startsWith('20 of 80')")
        with Hub.open(hub) as opened:
            assert page.evaluate(SEEN) == [item.id for item in opened.entries() if "medicine" in item.card]
