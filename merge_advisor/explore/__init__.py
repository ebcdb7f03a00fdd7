"""The Navigator: a hub folder as a map in a browser, served on this machine alone, or as one page to send.

`explore` (`serving.py`) serves it, `export_page` (`page_export.py`) writes the page. `map_points.py`, `projection.py`
and `clusters.py` make the map; `model_details.py`, `run_views.py` and `jobs.py` are what the page asks for;
`server.py` answers, behind `guarded.py`, which lets nobody else ask; `tokens.py` has the secret for that. What is slow
or needs torch runs in a process of its own, `child.py`. The page itself is under `web/`, made by `scripts/build_web`
from the sources in `scripts/web/` of the repository.
"""

from __future__ import annotations

from merge_advisor.explore.page_export import export_page
from merge_advisor.explore.serving import explore

__all__ = ["explore", "export_page"]
