"""How quick the Navigator's page is, by size: a hub of made models, a server, a real browser.

    python scripts/bench/explore.py --hub /tmp/made --models 100000 --out eval/explore.jsonl

The hub is made once, of vectors as `hub.py` makes them, of 64 dimensions unless --dims says otherwise; no model lies
behind them, so that their cards are one line of a topic and plans are not possible. Then the page is opened in Chromium
(Playwright), by WebGL and by Canvas 2D, each in a new process of the server: seconds until the server answers, seconds
from the address to the first picture, and pictures a second while the map is moved for three seconds.

Without a GPU Chromium draws WebGL by SwiftShader, on the CPU's cores: pictures a second are then those of the worst
machine, not of a usual one. --software says which way that is drawn.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from hub_engines import World
from kept import add_line

from merge_advisor.explore.layouts import find_groups, with_umap
from merge_advisor.explore.map_points import choose_space, read_points, texts_of
from merge_advisor.hub import Hub
from merge_advisor.hub.values import HubEntry
from merge_advisor.progress import quiet_progress
from merge_advisor.spaces import Space
from merge_advisor.types import Base

TOPICS = "law medicine code algebra poetry finance weather chess cooking travel history physics".split()
LICENCES = ("apache-2.0", "mit", None, "cc-by-nc-4.0", "llama3", "apache-2.0")
BROWSER = ["--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
           "--disable-component-update", "--disable-sync"]  # fmt: skip
SOFTWARE = ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
MOVED = """async () => {
  const scene = window.navigatorPage.scene, before = scene.frames, start = performance.now();
  while (performance.now() - start < 3000) {
    scene.camera.pan(Math.sin((performance.now() - start) / 200) * 8, 4);
    scene.camera.zoomAt(400, 300, 1 + 0.01 * Math.cos((performance.now() - start) / 400));
    scene.moved();
    await new Promise(requestAnimationFrame);
    scene.painter.finish();
  }
  return [(scene.frames - before) / 3, Math.min(scene.most, scene.model.count)];
}"""


def make_hub(folder: Path, models: int, dims: int) -> None:
    """Make a hub of so many models, unless it is there."""
    if (folder / "made").is_file():
        return
    world = World(models, dims)
    space = Space("made", "delta_activations", "made", "last", "last token", "float32", dims)
    with Hub.open(folder, make=True) as hub:
        hub.catalogue.keep_base(Base("made/base", None, "made", "LlamaForCausalLM"), "made/base")
        number = hub.catalogue.keep_space(space)
        for start, rows in world.blocks():
            with hub.catalogue.file.transaction():
                for item, row in enumerate(rows, start):
                    topic = TOPICS[item % len(TOPICS)]
                    entry = HubEntry(
                        0, (), "made", f"f{item}", "adapter", rank=2 ** (2 + item % 5), licence=LICENCES[item % 6],
                        size=1_000_000 + item, source=f"made/{topic}-{item}", place="/nowhere",
                        card=f"An adapter for {topic}.", added=f"2026-{1 + item % 11:02d}-{1 + item % 28:02d}T00:00:00",
                    )  # fmt: skip
                    kept = hub.catalogue.keep_entry(entry)
                    hub.catalogue.keep_name("made", f"{topic}-{item}", kept, entry.added)
                    hub.deltas.keep_delta(number, kept, row)
            print(f"{start + len(rows)} of {models} models", file=sys.stderr)
        hub.index.bring_up(number, space)
    (folder / "made").write_text(f"{models} {dims}\n")


def served(folder: Path, cache: Path) -> tuple[subprocess.Popen[str], str, float]:
    """A server of its own, its address, and the seconds until it was there."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "merge_advisor", "explore", str(folder), "--no-browser", "--cache", str(cache)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    line = server.stdout.readline()
    return server, line.split()[-1], time.perf_counter() - start


def memory_of(process: int) -> int:
    """Largest resident size of a process so far, in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def measured(folder: Path, cache: Path, draw: str) -> dict[str, Any]:
    """What a page takes, drawn in one way."""
    from playwright.sync_api import sync_playwright

    server, address, ready = served(folder, cache)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=BROWSER + SOFTWARE
            )
            page = browser.new_page(viewport={"width": 1400, "height": 860})
            page.goto(f"{address}&draw={draw}")
            page.wait_for_selector("html[data-ready]", state="attached", timeout=120_000)
            first = page.evaluate("performance.getEntriesByName('first-picture')[0].startTime")
            page.wait_for_selector("html[data-names]", state="attached", timeout=120_000)
            kind = page.evaluate("window.navigatorPage.scene.painter.kind")
            page.wait_for_timeout(1000)
            rate, shown = page.evaluate(MOVED)
            sent = page.evaluate("performance.getEntriesByType('resource').reduce((a, b) => a + b.transferSize, 0)")
            browser.close()
        return {
            "drawn": kind, "server_s": round(ready, 2), "first_picture_s": round(first / 1000, 2),
            "pictures_a_second": round(rate, 1), "points_while_moving": int(shown),
            "sent_mb": round(sent / 1e6, 1), "server_mb": memory_of(server.pid),
        }  # fmt: skip
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def laid_out(folder: Path) -> dict[str, Any]:
    """What clusters and UMAP take."""
    with Hub.open(folder) as hub:
        clock, busy = [time.perf_counter()], [time.process_time()]
        points = read_points(hub, choose_space(hub))
        clock.append(time.perf_counter())
        busy.append(time.process_time())
        layout = find_groups(points, lambda: texts_of(hub, points, range(len(points.entries))), quiet_progress)
        clock.append(time.perf_counter())
        busy.append(time.process_time())
        layout = with_umap(points, layout, quiet_progress)
        clock.append(time.perf_counter())
        busy.append(time.process_time())
    took = {
        f"{step}_{kind}": round(end - start, 1)
        for kind, times in (("s", clock), ("processor_s", busy))
        for step, (start, end) in zip(("read", "clusters", "umap"), pairwise(times), strict=True)
    }
    return {
        **took, "clusters": len(layout.clusters),
        "silhouette": layout.silhouette, "trust_pca": layout.trust_pca, "trust_umap": layout.trust_umap,
        "note": layout.note, "most_mb": memory_of(os.getpid()),
    }  # fmt: skip


def main() -> None:
    """Make the hub, open its page twice or lay it out, append the lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hub", type=Path, required=True, help="folder of the made hub")
    parser.add_argument("--models", type=int, default=100_000)
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--layout", action="store_true", help="measure clusters and UMAP, not the page")
    parser.add_argument("--out", type=Path, help="file of lines")
    arguments = parser.parse_args()
    make_hub(arguments.hub, arguments.models, arguments.dims)
    made = {"models": arguments.models, "dims": arguments.dims}
    ways = [partial(laid_out, arguments.hub)] if arguments.layout else [
        partial(measured, arguments.hub, arguments.hub / "cache", draw) for draw in ("gl", "2d")
    ]  # fmt: skip
    for way in ways:
        asked = f"scripts/bench/explore.py --models {arguments.models} --dims {arguments.dims}"
        command = asked + (" --layout" if arguments.layout else "")
        record = made | way() | {"when": time.strftime("%Y-%m-%d"), "command": command}
        print(record)
        if arguments.out:
            add_line(arguments.out, record)


if __name__ == "__main__":
    main()
