"""Where seconds go: stages of a run, and how much of each is compiling.

Compiling is tracing, lowering and XLA's own work, as `jax.monitoring` reports them. A program that is found in the
compilation cache is counted too, with the seconds its loading takes.
"""

import time
from collections import defaultdict
from collections.abc import Mapping

COMPILING = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "xla",
}
COLUMNS = ("seconds", *COMPILING.values(), "programs")


class Clock:
    """Counts this process's seconds, seconds of compiling and compiled programs from its making on."""

    def __init__(self):
        import jax  # a second to import, and the command line does without

        self._began = time.perf_counter()
        self._compiling: dict[str, float] = defaultdict(float)
        self._programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_: object) -> None:
        if stage := COMPILING.get(event):
            self._compiling[stage] += seconds
            self._programs += stage == "xla"

    def read(self) -> dict[str, float]:
        """The value of every column up to now."""
        seconds = time.perf_counter() - self._began
        values = seconds, *(self._compiling[stage] for stage in COMPILING.values()), self._programs
        return dict(zip(COLUMNS, values, strict=True))


def row(cost: Mapping[str, float]) -> str:
    """One line of a table with `COLUMNS` as its columns."""
    return "".join(f"{cost[column]:10.0f}" if column == "programs" else f"{cost[column]:10.2f}" for column in COLUMNS)


def minus(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    """What was spent between two readings of a clock."""
    return {column: after[column] - before[column] for column in COLUMNS}
