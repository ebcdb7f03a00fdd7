"""The engines by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from merge_advisor.engine.work import Fleet, Opening

if TYPE_CHECKING:
    from merge_advisor.machine_options import Machine, Workers


def fleet_of(engine: Workers, machine: Machine, opening: Opening) -> Fleet:
    """Return the fleet that an engine's name stands for; Ray is imported only where it is asked for.

    Args:
        engine: its name, and how many workers.
        machine: threads and device that the user asks for.
        opening: what each worker opens.

    Raises:
        ExternalError: Ray is not installed, or its cluster cannot be used.
    """
    if engine.engine == "ray":
        from merge_advisor.engine.ray_actors import RayFleet

        return RayFleet(opening, engine.workers, machine.threads, gpu=machine.device != "cpu")
    from merge_advisor.engine.processes import ProcessFleet

    # torch takes all cores in every process unless limited: workers would wait for each other
    return ProcessFleet(opening, machine.threads or max(1, (os.cpu_count() or 1) // engine.workers))
