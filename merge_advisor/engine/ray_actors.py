"""The engine `ray`: actors of a Ray cluster, the one at RAY_ADDRESS or one of this machine alone.

Ray places actors on machines and says when one has died. What is done then is `supervisor`'s: Ray's own restarts
(`max_restarts`) and retries (`max_task_retries`) are off, since they do an item again and again that kills whoever does
it, and know nothing of a worker that hangs.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any

from merge_advisor.engine.life import LifeSigns
from merge_advisor.engine.processes import do_item
from merge_advisor.engine.work import DoItem, Opening, Reply
from merge_advisor.errors import ExternalError, MergeAdvisorError
from merge_advisor.owners import this_machine

_BEAT = 1.0
"""Seconds between two looks for a sign of life."""
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""Variables that keep libraries from fetching."""
LOOKING = "signs of an actor"
"""Name of the threads that ask actors for signs of life."""
RAY_MISSING = "`engine=ray` needs the package ray: pip install 'merge-advisor[ray]', or leave `engine` out"
"""What is said where Ray is not installed."""


def passed_variables() -> dict[str, str]:
    """Return the variables of this process's environment that change what a worker reads: limits, cache, no fetching.

    >>> all(name.startswith(("MERGE_ADVISOR_", "HF_HUB_OFFLINE", "TRANSFORMERS_")) for name in passed_variables())
    True
    """
    return {name: value for name, value in os.environ.items() if name.startswith("MERGE_ADVISOR_") or name in _OFFLINE}


class ActorHost:
    """What lives in an actor: the opened base and the function that does items.

    >>> ActorHost(opening=None, threads=1, variables=passed_variables()).look() >= 0
    True

    Args:
        opening: what it opens.
        threads: CPU threads it may take.
        variables: of the environment, as `passed_variables` gives them where the command was called.
    """

    def __init__(self, opening: Opening, threads: int, variables: dict[str, str]) -> None:
        # a process of this machine inherits them; what is not set there must not be set here either
        for name in passed_variables().keys() - variables.keys():
            del os.environ[name]
        os.environ.update(variables)
        self._opening, self._threads = opening, threads
        self._signs = LifeSigns()
        self._do: DoItem | None = None

    def where(self) -> tuple[str, str, int]:
        """Return the host, the machine (two may have one host name) and the process it runs in."""
        return socket.gethostname(), this_machine(), os.getpid()

    def open(self) -> Reply:
        """Return "done" once all is open; it stays so until the process ends."""
        self._signs.watch()
        try:
            self._context = self._opening.open(self._threads)
            self._do = self._context.__enter__()
        except MergeAdvisorError as error:
            return Reply("refused", f"{error} (worker on {socket.gethostname()})")
        return Reply("done")

    def do(self, value: Any) -> Reply:
        """Return what an item came to.

        Args:
            value: of the item.
        """
        self._signs.watch()  # an actor may do each call in another thread
        return do_item(self._do, value)

    def look(self) -> int:
        """Return the signs of life so far; called in a thread of its own, beside what is done."""
        return self._signs.look()


class RayFleet:
    """Actors, one a worker; each takes its threads as CPUs of the cluster, and a GPU where the cluster has some.

    >>> RayFleet.__name__
    'RayFleet'

    Args:
        opening: what each opens; it is pickled.
        workers: how many there will be, at most.
        threads: CPU threads of each; None: as many as let all of them run side by side.
        gpu: whether each may have a GPU.

    Raises:
        ExternalError: Ray is not installed, its cluster cannot be reached, or has too few CPUs.
    """

    def __init__(self, opening: Opening, workers: int, threads: int | None, *, gpu: bool) -> None:
        self._ray = _import_ray()
        self._begun = not self._ray.is_initialized()
        if self._begun:
            _connect(self._ray, workers * (threads or 1))
        try:
            nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._threads = threads or _threads_for(nodes, workers)
            self._gpus = 1 if gpu and sum(node.get("GPU", 0) for node in nodes) >= workers else 0
            self._opening = self._ray.put(opening)
        except BaseException:
            self.close()
            raise

    def start(self) -> RayWorker:
        """See `Fleet.start`."""
        # "io": looks for signs of life are answered while an item is being done
        remote = self._ray.remote(
            num_cpus=self._threads, num_gpus=self._gpus, max_restarts=0, max_task_retries=0,
            concurrency_groups={"io": 1},
        )  # fmt: skip
        actor = remote(ActorHost)
        return RayWorker(self._ray, actor.remote(self._opening, self._threads, passed_variables()))

    def close(self) -> None:
        """See `Fleet.close`: a cluster that was begun here ends, with all its actors."""
        if self._begun:
            self._ray.shutdown()


class RayWorker:
    """One actor.

    >>> [name for name in ("open", "do", "signs", "kill", "leave") if not hasattr(RayWorker, name)]
    []

    Args:
        ray: the module.
        actor: the handle.
    """

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._count = 0
        self._where: tuple[str, str, int] | None = None
        self._over = threading.Event()
        threading.Thread(target=self._look_on, name=LOOKING, daemon=True).start()

    def open(self) -> Reply:
        """See `Worker.open`."""
        try:
            self._where = self._ray.get(self._actor.where.remote())
        except self._ray.exceptions.RayError as error:
            return self._died(error)
        return self._ask(self._actor.open)

    def do(self, value: Any) -> Reply:
        """See `Worker.do`."""
        return self._ask(self._actor.do, value)

    def signs(self) -> int:
        """See `Worker.signs`."""
        return self._count

    def kill(self) -> None:
        """See `Worker.kill`."""
        self._over.set()
        with suppress(self._ray.exceptions.RayError, ValueError):
            if self._ray.is_initialized():  # else Ray would begin a new cluster, to kill this actor there
                self._ray.kill(self._actor, no_restart=True)
        # a stopped process does not hear Ray; one of another machine is ended by that machine's own Ray
        if self._where and self._where[1] == this_machine():
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self._where[2], signal.SIGKILL)

    def leave(self) -> None:
        """See `Worker.leave`: nothing waits for an actor that has no work."""
        self.kill()

    def _ask(self, method: Any, *values: Any) -> Reply:
        try:
            reply: Reply = self._ray.get(method.remote(*values))
        except self._ray.exceptions.RayError as error:
            return self._died(error)
        return reply

    def _died(self, error: Exception) -> Reply:
        self.kill()  # a crash leaves it alive, and so may a machine that was out of reach
        if isinstance(error, self._ray.exceptions.RayTaskError):
            cause = error.cause if getattr(error, "cause", None) else error
            return Reply("died", f"{type(cause).__name__}: {_first_line(cause)}")
        where = f"on {self._where[0]}" if self._where else "before it began"
        return Reply("died", f"the actor ended {where}")

    def _look_on(self) -> None:
        """Ask for signs of life until the worker is over; one that does not answer keeps its count."""
        pending = None
        # asked after the cluster was left, Ray would begin a new one
        while not self._over.wait(_BEAT) and self._ray.is_initialized():
            try:
                if pending is None:
                    pending = self._actor.look.options(concurrency_group="io").remote()
                self._count, pending = self._ray.get(pending, timeout=_BEAT), None
            except self._ray.exceptions.GetTimeoutError:
                continue
            except Exception:  # out of reach for a moment; or it has died, which `do` or `open` reports
                pending = None


def _import_ray() -> Any:
    # Ray would tell its makers what it is used for, unless told not to before it is imported
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise ExternalError(RAY_MISSING) from error
    return ray


def _connect(ray: Any, cpus: int) -> None:
    """Join the cluster at RAY_ADDRESS, or begin one of this machine."""
    address = os.environ.get("RAY_ADDRESS")
    try:
        if address:
            ray.init(address="auto" if address == "auto" else address, log_to_driver=False, configure_logging=False)
            return
        # the cluster of this machine sees this package where this process does
        seen = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        ray.init(
            address="local", num_cpus=max(cpus, os.cpu_count() or 1), include_dashboard=False, log_to_driver=False,
            configure_logging=False, runtime_env={"env_vars": seen},
        )  # fmt: skip
    except Exception as error:  # Ray raises errors of many kinds here
        where = f"at {address}" if address else "of this machine"
        raise ExternalError(
            f"the Ray cluster {where} cannot be used ({_first_line(error)}); check RAY_ADDRESS, and that its versions "
            "of Ray and Python are these"
        ) from error


def _threads_for(nodes: list[dict[str, float]], workers: int) -> int:
    """Return the most CPUs that each of so many workers can have side by side, each on one machine."""
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    fitting = [size for size in range(1, max(cpus, default=0) + 1) if sum(cpu // size for cpu in cpus) >= workers]
    if not fitting:
        raise ExternalError(
            f"`workers={workers}`: the Ray cluster has {sum(cpus)} CPUs, and a worker takes one or more"
        )
    return fitting[-1]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
