"""Time profiles of a run, by stage, or of a test: total seconds, and seconds of compilation.

Compilation consists of tracing, lowering and XLA compilation, as reported by `jax.monitoring`. For a program from the
compilation cache, the time to load it is counted.
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

Cost = dict[str, float]  # seconds and number of programs by column of COLUMNS


class Clock:
    """Counts the seconds, compilation seconds and compiled programs of this process.

    Args:
      since: the reading of `time.perf_counter` from which the seconds are counted. Default: now.
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
        """The seconds and the number of programs so far, by column."""
        seconds = time.perf_counter() - self._since
        values = seconds, *(self._compiling[stage] for stage in COMPILING.values()), self._programs
        return dict(zip(COLUMNS, values, strict=True))


class _Stages:
    """The cost of every stage of a run. A stage lasts until the next one begins; a stage may begin several times."""

    def __init__(self, since: float):
        self.clock = Clock(since)
        self.costs: dict[str, Cost] = {}
        self._stage, self._read = "import", dict.fromkeys(COLUMNS, 0.0)

    def begin(self, stage: str) -> None:
        now = self.clock.read()
        before = self.costs.get(self._stage, dict.fromkeys(COLUMNS, 0.0))
        self.costs[self._stage] = plus(before, minus(now, self._read))
        self._stage, self._read = stage, now


_stages: _Stages | None = None  # the profile of the current run; None if it is not profiled


def profile(since: float) -> None:
    """Starts the profile of a run.

    Its first stage, "import", began when `time.perf_counter` had the reading `since`.
    """
    global _stages
    _stages = _Stages(since)


def stage(name: str) -> None:
    """Begins a stage of the run. Does nothing if the run is not profiled."""
    if _stages is not None:
        _stages.begin(name)


def spent() -> list[dict]:
    """Ends the profile of the run.

    Returns:
      One dict per stage, with its name ("stage") and its columns, in the order in which the stages first began.
    """
    global _stages
    assert _stages is not None, "no run is profiled"
    _stages.begin("end")
    costs, _stages = _stages.costs, None
    return [{"stage": name, **cost} for name, cost in costs.items()]


def plus(a: Mapping[str, float], b: Mapping[str, float]) -> Cost:
    """The sum of two costs."""
    return {column: a[column] + b[column] for column in COLUMNS}


def minus(after: Mapping[str, float], before: Mapping[str, float]) -> Cost:
    """The difference of two costs."""
    return {column: after[column] - before[column] for column in COLUMNS}


def table(costs: Sequence[tuple[str, Cost]]) -> str:
    """A text table with one row per (name, cost), and the total in the last row."""
    total = dict.fromkeys(COLUMNS, 0.0)
    for _, cost in costs:
        total = plus(total, cost)
    lines = ["".join(f"{column:>10}" for column in COLUMNS)]
    for name, cost in [*costs, ("all", total)]:
        shown = [f"{cost[column]:10.0f}" if column == "programs" else f"{cost[column]:10.2f}" for column in COLUMNS]
        lines.append(f"{''.join(shown)}  {name}")
    return "\n".join(lines)
