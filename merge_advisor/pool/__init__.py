"""Pools: find, check and describe candidates. Headers and configurations are read, nothing is ever unpickled."""

from __future__ import annotations

from merge_advisor.pool.licences import licence_conflicts
from merge_advisor.pool.manifest import Manifest, read_manifest
from merge_advisor.pool.opening import open_pool
from merge_advisor.pool.sources import FoundModel, check_id

__all__ = ["FoundModel", "Manifest", "check_id", "licence_conflicts", "open_pool", "read_manifest"]
