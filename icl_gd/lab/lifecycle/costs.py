"""Where seconds go: of a run stage by stage, of a test, and how many of them are compiling.

Compiling is tracing, lowering and XLA's own work, as `jax.monitoring` reports them. A program that the compilation
cache has is counted too, with the seconds its loading takes.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence

import jax

COMPILING = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "xla",
}
COLUMNS = ("seconds", *COMPILING.values(), "programs")

Cost = dict[str, float]  # a number for every column


class Clock:
    """Seconds, seconds of compiling and compiled programs of this process, from its making on.

    Args:
      since: a reading of `time.perf_counter` from which seconds count; now when left out.
    """

    def __init__(self, since: float | None = None):
        self._since = time.perf_counter() if since is None else since
        self._compiling: dict[str, float] = defaultdict(float)
        self._programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
        if stage := COMPILING.get(event):
            self._compiling[stage] += duration_secs
            self._programs += stage == "xla"

    def read(self) -> Cost:
        """What was spent up to now."""
        seconds = time.perf_counter() - self._since
        values = seconds, *(self._compiling[stage] for stage in COMPILING.values()), self._programs
        return dict(zip(COLUMNS, values, strict=True))


class _Stages:
    """What every stage of a run cost. A stage lasts until the next one begins, and may come again."""

    def __init__(self, since: float):
        self.clock = Clock(since)
        self.costs: dict[str, Cost] = {}
        self._stage, self._read = "import", dict.fromkeys(COLUMNS, 0.0)

    def begin(self, stage: str) -> None:
        now = self.clock.read()
        before = self.costs.get(self._stage, dict.fromkeys(COLUMNS, 0.0))
        self.costs[self._stage] = plus(before, minus(now, self._read))
        self._stage, self._read = stage, now


_stages: _Stages | None = None  # of the run that is profiled in this process


def profile(since: float) -> None:
    """Begins to measure the stages of a run, the first of which is its imports."""
    global _stages
    _stages = _Stages(since)


def stage(name: str) -> None:
    """Says that a stage of the run begins. Does nothing where no run is profiled."""
    if _stages is not None:
        _stages.begin(name)


def spent() -> list[dict]:
    """Every stage's name and columns, in the order in which they first began; the run's profile ends with it."""
    global _stages
    assert _stages is not None, "no run is profiled"
    _stages.begin("end")
    found, _stages = _stages.costs, None
    return [{"stage": name, **cost} for name, cost in found.items()]


def plus(a: Mapping[str, float], b: Mapping[str, float]) -> Cost:
    return {column: a[column] + b[column] for column in COLUMNS}


def minus(after: Mapping[str, float], before: Mapping[str, float]) -> Cost:
    return {column: after[column] - before[column] for column in COLUMNS}


def table(costs: Sequence[tuple[str, Cost]]) -> str:
    """A line for every name, and what all of them cost."""
    every = dict.fromkeys(COLUMNS, 0.0)
    for _, cost in costs:
        every = plus(every, cost)
    lines = ["".join(f"{column:>10}" for column in COLUMNS)]
    for name, cost in [*costs, ("all", every)]:
        shown = [f"{cost[column]:10.0f}" if column == "programs" else f"{cost[column]:10.2f}" for column in COLUMNS]
        lines.append(f"{''.join(shown)}  {name}")
    return "\n".join(lines)
