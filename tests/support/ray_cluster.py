"""A Ray cluster of this machine, begun once for several tests."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec

import psutil
import pytest

needs_ray = pytest.mark.skipif(find_spec("ray") is None, reason="the package ray is not installed (extra `ray`)")


@contextmanager
def local_cluster(cpus: int) -> Iterator[None]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray

        seen = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        ray.init(
            address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, configure_logging=False,
            object_store_memory=100_000_000, runtime_env={"env_vars": seen},
        )  # fmt: skip
    try:
        yield
    finally:
        ray.shutdown()


def actor_processes() -> list[int]:
    """The processes of the actors of this process's own cluster, by number: another test may have one too."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if " ".join(child.cmdline()).startswith("ray::ActorHost"):
                found.append(child.pid)
    return sorted(found)
