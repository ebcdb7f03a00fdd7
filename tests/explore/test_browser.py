"""The page in a real browser, on made hubs and, from examples to verdict, on the tiny Llama."""

import csv
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from merge_advisor.explore import export_page
from merge_advisor.hub import Hub
from merge_advisor.types import Base
from tests.explore.browser import chromium, served, visiting
from tests.explore.explore_world import HOSTILE, clustered
from tests.hub.hub_world import SPACE, TIME, entry_of

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
def test_a_hundred_thousand_models_are_drawn_and_can_be_clicked(tmp_path: Path) -> None:
    chromium()
    hub = clustered(tmp_path / "hub", groups=4, each=25_000)
    with served(hub, tmp_path) as address:
        for draw in ("gl", "2d"):
            with visiting(address) as visit:
                visit.open(f"&draw={draw}")
                assert visit.page.inner_text("#count") == "100,000 models"
                left, top = visit.place_of("clinical-14")
                for _ in range(12):
                    visit.page.mouse.move(left, top)
                    visit.page.mouse.wheel(0, -300)
                    visit.page.wait_for_timeout(50)
                visit.page.evaluate("window.navigatorPage.open(15)")
                visit.wait("html[data-model='15']")
                with Hub.open(hub) as opened:
                    expected = [f"{hit.score:.3f}" for hit in opened.search(like="clinical-14", k=10).hits]
                rows = visit.page.query_selector_all("#neighbours tbody tr")
                assert [row.query_selector_all("td")[2].inner_text().strip() for row in rows] == expected


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


def test_from_examples_to_a_verdict(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    """On the tiny Llama: examples are ranked, models are lassoed and planned with, the report opens, runs compare."""
    chromium()
    with Hub.open(tmp_path / "hub", make=True) as hub:
        hub.add(tiny_pool, base=str(tiny_llama), cache=tmp_path / "cache")
    rows = [{"input": f"say {n} twice", "output": f"{n} {n}"} for n in range(60)]
    (tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with served(tmp_path / "hub", tmp_path) as address, visiting(address) as visit:
        visit.open()
        page = visit.page
        # what merging costs, read from the weights: within a family much is shared
        page.mouse.click(*visit.place_of("a0"))
        visit.wait("html[data-model]:not([data-model=''])")
        page.click("#costs")
        visit.wait("#neighbours th:nth-child(6)")
        overlap = {
            row.query_selector(".name").inner_text(): float(row.query_selector_all("td")[5].inner_text())
            for row in page.query_selector_all("#neighbours tbody tr")
        }
        assert min(overlap["a1"], overlap["a2"]) > 0.5 > max(overlap[name] for name in ("b0", "b1", "b2"))
        page.set_input_files("#task-file", tmp_path / "twice.jsonl")
        visit.wait("#tasks .chip.done, #tasks .chip.failed")
        assert page.query_selector("#tasks .bad") is None, page.inner_text("#tasks")
        captions = [caption.inner_text() for caption in page.query_selector_all(".ranks caption")]
        assert captions == ["by delta", "by gradient", "by measured loss"]
        for table in page.query_selector_all(".ranks table"):
            values = [float(row.query_selector_all("td")[2].inner_text()) for row in table.query_selector_all("tr")]
            assert len(values) == 6 and values == sorted(values, reverse=True)
        assert page.evaluate("window.navigatorPage.scene.marks.tasks.map((task) => task.name)") == ["twice"]
        page.focus("#map")
        page.keyboard.press("a")
        visit.until("document.getElementById('picked-count').textContent === '6 ticked'")
        for number in (1, 2):
            page.click("#panel-selection details summary")
            page.select_option("#panel-selection label:has-text('Adaptation') select", "none")
            page.select_option("#panel-selection label:has-text('Strategy') select", ["top_k", "shot_loss"][number - 1])
            page.click("#plan")
            visit.until(f"document.querySelectorAll('#plans .chip').length === {number}")
            visit.until("document.querySelector('#plans .chip.running') === null")
            assert page.query_selector("#plans .bad") is None, page.inner_text("#plans")
        page.click("#plans .job:first-of-type button.link, #plans button.link")
        visit.wait("#files li")
        with Hub.open(tmp_path / "hub") as hub:
            runs = hub.runs()
        assert {Path(run.folder).name for run in runs} == {"twice", "twice-2"} and all(run.verdict for run in runs)
        assert page.inner_text("#report .verdict") in {run.verdict for run in runs}
        with page.expect_download() as saved:
            page.click("#files button.link:has-text('recipe.json')")
        assert json.loads(Path(saved.value.path()).read_text())["composition"] == "exact"
        for box in page.query_selector_all(".runlist input"):
            index = box.evaluate("(element) => [...document.querySelectorAll('.runlist input')].indexOf(element)")
            page.locator(".runlist input").nth(index).check()
            page.wait_for_timeout(200)
        visit.until("document.querySelector('.compare') !== null")
        assert len(page.query_selector_all(".rows tbody tr")) == 28
        assert "say" in page.inner_text(".rows tbody tr")
    shutil.rmtree(tmp_path / "runs")
