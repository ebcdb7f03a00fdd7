"""Names of the array types: one name for one type, everywhere."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
"""Weights, activations and deltas: what models compute in."""
Float64Array = NDArray[np.float64]
"""Losses, weights of members and statistics: what decisions are computed in."""
FloatingArray = NDArray[np.floating]
"""Either of them."""
