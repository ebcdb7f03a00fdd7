"""Hub folders: a catalogue of models with their deltas and scores, searched and planned from.

`Hub` (`hub_folder.py`) is the API; the command line calls nothing else. The catalogue (`catalogue.py`, one SQLite file)
is what all else is made from: `deltas.py`, `results.py` and `texts.py` are its tables, `stored_vectors.py` the files
beside it that `index.py` and `vectors.py` search.
"""

from __future__ import annotations

from merge_advisor.hub.hub_folder import Hub

__all__ = ["Hub"]
