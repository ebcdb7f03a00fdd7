"""How far a model that another program merged lies from ours, weight by weight."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from merge_advisor.weights.naming import find_parameter
from merge_advisor.weights.tensorfile import open_folder, read_tensor
from merge_advisor.weights.updates import WeightDelta

_ROUNDING = 1e-6
"""Share of a weight's norm by which two float32 programs may differ."""


def differences(base_path: Path, delta: WeightDelta, folder: Path) -> dict[str, float]:
    """Return by parameter name ‖found - (base + ΔW)‖ / ‖ΔW‖, less what rounding explains.

    One weight is in memory at a time.

    >>> import tempfile
    >>> from merge_advisor.formats.full_model import write_full_model
    >>> out = Path(tempfile.mkdtemp()) / "model"
    >>> lost = write_full_model(Path("base"), {}, out)
    >>> set(differences(Path("base"), {}, out).values())
    {0.0}

    Args:
        base_path: folder of the base.
        delta: what was to be added, by the base's names.
        folder: of the model.

    Returns:
        For each float weight of the base; infinite where ΔW is 0 and the weight is not the base's, where the shape is
        another one, or where a weight that was to change is not there. One that was not to change may be left out.

    Raises:
        FileError: a folder cannot be read.
    """
    base, model = open_folder(base_path), open_folder(folder)
    shapes = {name: info.shape for name, (_, info) in model.items()}
    apart = {}
    for name, (path, info) in base.items():
        if not info.is_float:
            continue
        there = find_parameter(name, shapes)
        if there is None:
            if name in delta:
                apart[name] = math.inf
            continue
        if shapes[there] != info.shape:
            apart[name] = math.inf
            continue
        change = delta[name].dense().astype(np.float64) if name in delta else np.zeros(())
        wanted = read_tensor(path, info).astype(np.float64) + change
        lost = float(np.linalg.norm(read_tensor(*model[there]) - wanted)) - _ROUNDING * float(np.linalg.norm(wanted))
        size = float(np.linalg.norm(change))
        apart[name] = 0.0 if lost <= 0 else lost / size if size else math.inf
    return apart
