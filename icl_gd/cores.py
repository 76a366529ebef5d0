"""The number of CPU cores available to this process.

>>> 1 <= usable_cores() <= (os.cpu_count() or 1)
True
"""

import os


def usable_cores() -> int:
    """The number of CPU cores that this process may use.

    CPU affinity (`taskset`, containers, batch systems) may allow fewer cores than the machine has.

    Returns:
      The number, at least 1.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
