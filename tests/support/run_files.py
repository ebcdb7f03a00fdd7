"""Files of a run folder as tests change them."""

import json
from pathlib import Path
from typing import Any


def unchecked(path: Path) -> Any:
    """What a file says, without its checksum: written so, it is one of before there were any."""
    plain = json.loads(path.read_text())
    plain.get("environment", plain).pop("checksum", None)
    return plain
