"""From examples to a verdict in a real browser, by pointer and by keyboard alone, on the tiny Llama."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from merge_advisor.advisor import PlanOptions
from merge_advisor.hub import Hub
from tests.explore.browser import chromium, served, visiting
from tests.support.models import LLAMA_MODULES, write_lora

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.mark.slow
def test_a_plan_is_started_and_followed_to_its_verdict_by_keyboard_alone(
    tiny_llama: Path, tiny_pool: Path, tmp_path: Path
) -> None:
    """Pasted and dropped rows, a job that is stopped, UMAP, a plan; then three runs side by side, and their link."""
    chromium()
    for number in range(8):
        write_lora(tmp_path / "more" / f"m{number}", LLAMA_MODULES, seed=number)
    with Hub.open(tmp_path / "hub", make=True) as hub:
        for pool in (tiny_pool, tmp_path / "more"):
            hub.add(pool, base=str(tiny_llama), cache=tmp_path / "cache")
    rows = "".join(json.dumps({"input": f"say {n} twice", "output": f"{n} {n}"}) + "\n" for n in range(60))
    with served(tmp_path / "hub", tmp_path) as address, visiting(address) as visit:
        visit.open()
        page, keys = visit.page, visit.page.keyboard
        # a file that is dropped starts a job, which is stopped
        page.evaluate(
            """(rows) => { const data = new DataTransfer();
              data.items.add(new File([rows], 'dropped.jsonl'));
              window.dispatchEvent(new DragEvent('drop', { dataTransfer: data, cancelable: true })); }""",
            rows,
        )
        visit.wait("#tasks .chip.running")
        page.focus("#task-name")
        visit.tab_to("Stop")
        keys.press("Enter")
        visit.wait("#tasks .chip.stopped")
        assert visit.focus().startswith("panel-examples")
        # the rows are pasted, typed on while the job is asked about, and ranked
        page.focus("#tab-examples")
        visit.tab_to("panel-examples examples")
        keys.insert_text(rows)
        visit.tab_to("task-name")
        keys.type("twice")
        visit.tab_to("rank")
        keys.press("Enter")
        visit.wait("#tasks .chip.running")
        assert visit.focus() == "panel-examples rank"
        keys.press("Shift+Tab")
        keys.press("End")
        for letter in " again":  # through several polls
            keys.type(letter)
            page.wait_for_timeout(300)
        assert page.input_value("#task-name") == "twice again" and visit.focus() == "panel-examples task-name"
        visit.wait("#tasks .chip.done, #tasks .chip.failed")
        assert page.query_selector("#tasks .bad") is None, page.inner_text("#tasks")
        visit.until("document.querySelectorAll('.ranks th button').length === 3")
        assert visit.focus() == "panel-examples task-name"
        # ranked before UMAP was there or after it: once it is, the task lies on it
        visit.wait("html[data-layout=ready]")
        placed = "(window.navigatorPage.scene.marks.tasks[0]?.umap ?? []).length === 2"
        visit.until(placed)
        page.focus("#layout-umap")
        keys.press("Enter")
        assert "UMAP of cosines" in page.inner_text("#layout-says") and visit.focus() == "panel-view layout-umap"
        assert "its five nearest models lie" in page.inner_text("#tasks")
        visit.tab_to("map")
        keys.press("a")
        visit.until("document.getElementById('picked-count').textContent === '14 ticked'")
        visit.tab_to("Settings")
        keys.press("Enter")
        visit.tab_to("Adaptation")
        keys.type("none")
        assert page.input_value(":focus") == "none"
        visit.tab_to("plan")
        keys.press("Enter")
        visit.wait("#plans .chip.running")
        held = page.evaluate_handle("document.activeElement")
        visit.until("document.querySelector('#plans .chip.running') === null")
        assert page.query_selector("#plans .bad") is None, page.inner_text("#plans")
        assert page.evaluate("(held) => document.activeElement === held && held.id === 'plan'", held)
        assert page.evaluate("document.querySelector('#panel-selection details').open"), "settings stay open"
        visit.tab_to("open the report")
        keys.press("Enter")
        visit.wait("#report .verdict")
        visit.until("document.activeElement.id === 'run-title'")
        with Hub.open(tmp_path / "hub") as hub:
            assert page.inner_text("#report .verdict") == hub.runs()[0].verdict
        # two more by pointer; then three side by side
        page.click("#view-map")
        for number, strategy in ((2, "top_k"), (3, "random")):
            page.select_option("#panel-selection label:has-text('Strategy') select", strategy)
            page.click("#plan")
            visit.until(f"document.querySelectorAll('#plans .chip.done').length === {number}")
        page.click("#view-runs")
        visit.until("document.querySelectorAll('.runlist input').length === 3")

        def one_won(route: Any) -> None:
            told = (answer := route.fetch()).json()
            told["tasks"][0]["rows"][0]["values"][2] = 1.0
            route.fulfill(response=answer, json=told)

        # the tiny model gets every row wrong in every run: of three runs, the third is made to win a row
        page.route(re.compile(r"/api/compare\?runs=\w+%2C\w+%2C"), one_won)
        page.focus(".runlist input")
        for number in range(3):
            keys.press("Space")
            visit.until(f"document.querySelectorAll('.runlist input:checked').length === {number + 1}")
            assert page.evaluate("document.activeElement.checked")
            if number == 1:
                visit.until("document.getElementById('report').innerText.includes('No row tells them apart.')")
                assert page.query_selector(".differ") is None
            keys.press("Tab")
            keys.press("Tab")
        visit.until("document.querySelectorAll('.compare thead th').length === 4")
        page.focus(".differ")
        keys.press("Space")
        assert page.evaluate("document.activeElement.className") == "differ" and page.is_checked(".differ")
        visit.until("location.hash.includes('differ=1')")
        assert len(page.query_selector_all(".rows tbody tr")) == 1 and "won" in page.inner_text(".rows td.won")
        assert "only the 1 that tells them apart" in page.inner_text("#report")
        compared, ranking = page.inner_text("#report"), page.evaluate("window.navigatorPage.state.task")
        link = page.evaluate("location.href")
        page.goto("about:blank")
        page.goto(link)
        visit.until("document.querySelectorAll('.compare thead th').length === 4")
        assert page.inner_text("#report") == compared and page.is_checked(".differ")
        page.click("#view-map")
        page.click("#tab-examples")
        visit.until("document.querySelector('.task .ranks') !== null")
        assert page.evaluate("document.querySelector('.task:has(.ranks)').dataset.job") == ranking
    shutil.rmtree(tmp_path / "runs")


def test_from_examples_to_a_verdict(tiny_llama: Path, tiny_pool: Path, tmp_path: Path) -> None:
    """On the tiny Llama: examples are ranked, models are lassoed and planned with, the report opens, runs compare."""
    chromium()
    cache = tmp_path / "cache"
    with Hub.open(tmp_path / "hub", make=True) as hub:
        hub.add(tiny_pool, base=str(tiny_llama), cache=cache)
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
        # one table, ordered by whichever measure is chosen; each value has the place that it gives its model
        for column, key in enumerate(("cosine", "gradient", "gain"), 1):
            page.click(f"#by-{key}")
            visit.until(f"document.querySelector('.ranks th:nth-child({column + 1})').ariaSort === 'descending'")
            cells = [row.query_selector_all("td")[column] for row in page.query_selector_all(".ranks tbody tr")]
            places = [cell.query_selector(".place").inner_text() for cell in cells]
            values = [float(cell.evaluate("(cell) => cell.lastChild.data")) for cell in cells]
            assert places == ["1", "2", "3", "4", "5", "6"] and values == sorted(values, reverse=True)
            assert page.evaluate("document.activeElement.id") == f"by-{key}"
        assert page.evaluate("window.navigatorPage.scene.marks.tasks.map((task) => task.name)") == ["twice"]
        page.focus("#map")
        page.keyboard.press("a")
        visit.until("document.getElementById('picked-count').textContent === '6 ticked'")
        page.click("#panel-selection details summary")  # it stays open, whatever the page draws anew meanwhile
        page.select_option("#panel-selection label:has-text('Adaptation') select", "none")
        page.select_option("#panel-selection label:has-text('Strategy') select", "top_k")
        page.click("#plan")
        visit.wait("#plans .chip.done, #plans .chip.failed")
        assert page.query_selector("#plans .bad") is None, page.inner_text("#plans")
        with Hub.open(tmp_path / "hub") as hub:  # by somebody else, whose run the page lists as well
            options = PlanOptions(strategy="shot_loss", adaptation="none")
            hub.plan(tmp_path / "twice.jsonl", out=tmp_path / "runs" / "twice-2", options=options, cache=cache)
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
        # on a narrow screen too a run is told from another by its whole name
        page.set_viewport_size({"width": 400, "height": 800})
        cut = "[...document.querySelectorAll('.runlist .name')].filter((name) => name.scrollWidth > name.clientWidth)"
        assert page.evaluate(f"document.querySelectorAll('.runlist .name').length > 1 && {cut}.length === 0")
    shutil.rmtree(tmp_path / "runs")
