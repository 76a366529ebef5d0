"""The output of a run during training (metrics.jsonl, TensorBoard events, progress), and its signal handlers."""

import contextlib
import hashlib
import importlib.util
import json
import math
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from tqdm import tqdm

from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.sweeps import label as label_of
from icl_gd.paths import replacing

SHOWN = ("training_loss", "loss_", "sensitivity_cosine_")  # prefixes of the metrics that the terminal shows


class Stop:
    """Handles Ctrl-C and SIGTERM while a run is in this context.

    If there are unsaved steps, the first signal is only recorded, and training stops after the current chunk of steps.
    If all steps are saved, or at the second signal, KeyboardInterrupt is raised immediately.

    Attributes:
      signal: the number of the first signal; None if there was none.
      saved: whether all steps are saved.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None
        self.saved = True

    def __enter__(self) -> "Stop":
        is_main = threading.current_thread() is threading.main_thread()  # only the main thread can handle signals
        self._previous_handlers = {
            number: signal.signal(number, self._handle) for number in (self.SIGNALS if is_main else ())
        }
        self._previous_hook = sys.unraisablehook
        sys.unraisablehook = self._on_unraisable
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        if sys.unraisablehook == self._on_unraisable:  # not if a checkpoint failed, whose hook has to stay
            sys.unraisablehook = self._previous_hook

    def _on_unraisable(self, raised: Any) -> None:
        """Suppresses the message about a KeyboardInterrupt that was raised in a garbage collector callback.

        Python ignores such an exception, but `_handle` has recorded the signal.
        """
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            self._previous_hook(raised)

    def _handle(self, number: int, frame: object) -> None:
        stop_now = self.saved or self.signal is not None
        self.signal = self.signal or number
        if stop_now:
            raise KeyboardInterrupt
        print("stopping after this chunk of steps; send the signal again to stop at once", file=sys.stderr)


class _Board:
    """A TensorBoard event file that is written in the calling thread.

    A `SummaryWriter` would write in a separate thread. On a full disk this thread ends with a traceback, and its full
    queue then blocks the run.

    Args:
      directory: where the file is written; created if it does not exist.
      purge_step: TensorBoard ignores events from this step on in older files of the directory; None to ignore none.
    """

    def __init__(self, directory: Path, purge_step: int | None = None):
        # Imported only when a run begins: if PyTorch is installed, tensorboardX imports it, which takes seconds.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2
        from tensorboardX.summary import scalar

        self._events: Any = event_pb2
        self._scalar = scalar
        directory.mkdir(parents=True, exist_ok=True)
        self._writer = EventsWriter(str(directory / "events"))
        if purge_step is not None:
            self._write(purge_step, session_log=self._events.SessionLog(status=self._events.SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends the values of one step and flushes them."""
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))
        self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._events.Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        self._writer.close()


def redraws() -> bool:
    """Whether the output is a terminal or a notebook, which can redraw a progress bar."""
    return (sys.stderr.isatty() and sys.stdout.isatty()) or "ipykernel" in sys.modules


class _Wandb:
    """A run of Weights & Biases. Its id depends only on workdir and label, so a resumed run continues it.

    Args:
      project: the project.
      workdir: the workdir of the run.
      label: the name of the population; empty if there is only one.
      config: the settings that Weights & Biases shows.
    """

    def __init__(self, project: str, workdir: Path, label: str, config: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]  # an optional package that takes a second to import

        name = f"{workdir.name}/{label}" if label else workdir.name
        identity = hashlib.sha256(f"{workdir.absolute()}/{label}".encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, dir=str(workdir), name=name, id=identity, resume="allow", config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs the values of one step. Weights & Biases ignores a step that was logged before."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def check_wandb(project: str | None) -> None:
    """Checks that the package wandb is installed if metrics are logged to a project.

    Raises:
      ConfigError: if the package is needed but not installed.
    """
    if project is not None and importlib.util.find_spec("wandb") is None:
        reject("train.wandb", project, "needs the package wandb: pip install 'icl-gd[wandb]', or give None")


class Monitor:
    """Writes the metrics of every logged step and seed. Shows progress as a bar; without a terminal, as lines.

    Args:
      workdir: where metrics.jsonl and the TensorBoard events are written.
      steps: the total number of training steps.
      first_seed: the seed of the first member.
      label: the name of the population; empty if there is only one.
      points: the combinations within the population, as mappings from field to value. Members are ordered by
        combination, then by seed.
      wandb: the Weights & Biases project to which means over seeds are logged; None for no project.
      config: the settings that Weights & Biases shows.
    """

    def __init__(
        self,
        workdir: Path,
        steps: int,
        first_seed: int,
        label: str = "",
        points: Sequence[Mapping[str, Any]] = ({},),
        wandb: str | None = None,
        config: Mapping[str, Any] = MappingProxyType({}),
    ):
        self._prefix = f"{label}/" if label else ""
        self._steps, self._first_seed = steps, first_seed
        self._label = label or "training"
        self._path = workdir / "metrics.jsonl"
        self._file = open(self._path, "a")  # noqa: SIM115 - closed by close()
        # One directory per population: if one population resumes at a step, TensorBoard ignores later events in all
        # files of the directory.
        self._events = workdir / "events" / label if label else workdir
        self._board = _Board(self._events)
        self._wandb = None if wandb is None else _Wandb(wandb, workdir, label, config)
        self._bar = tqdm(total=steps, desc=self._label, unit="step") if redraws() else None
        self._next_line = 0
        self._points, self._warned = points, set()
        self._names = [",".join(filter(None, (label, label_of(fields)))) for fields in points]

    def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Appends the metrics of one step, each `[member]`, and flushes the files."""
        lines, shown, means = [], [], {}
        for name, values in metrics.items():
            values = np.asarray(values, np.float64)
            by_point = np.split(values, len(self._points))
            for fields, point, seed_values in zip(self._points, self._names, by_point, strict=True):
                for seed, value in enumerate(seed_values.tolist(), self._first_seed):
                    value = value if math.isfinite(value) else None
                    line = {"step": step, "seed": seed, "metric": self._prefix + name, "value": value}
                    lines.append(json.dumps(line | ({"fields": fields} if fields else {})))
                if math.isfinite(mean := _finite_mean(seed_values)):
                    means[f"{point}/{name}" if point else name] = mean
            if name.startswith(SHOWN):
                shown.append(f"{name} {_finite_mean(values):.4g}")
        self._file.write("".join(f"{line}\n" for line in lines))
        self._file.flush()
        self._board.write(step, means)
        if self._wandb is not None:
            self._wandb.write(step, means)
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(", ".join(shown))
        elif step >= self._next_line or step >= self._steps:
            print(f"{self._label}: step {step}/{self._steps}  {', '.join(shown)}", flush=True)
            self._next_line = step + self._steps // 10

    def warn(self, diverged_at: np.ndarray) -> None:
        """Prints a warning for every member that has diverged, once per member.

        Args:
          diverged_at: `[member]`, the step at which the member diverged; -1 if it has not diverged.
        """
        seeds = len(diverged_at) // len(self._points)
        for member, step in enumerate(diverged_at.tolist()):
            if step >= 0 and member not in self._warned:
                self._warned.add(member)
                point = self._names[member // seeds]
                seed = f"seed {self._first_seed + member % seeds}" + (f" of {point}" if point else "")
                print(
                    f"warning: {seed} diverged at step {step}; its weights stay as they were before that step",
                    file=sys.stderr,
                )

    def resume(self, step: int) -> None:
        """Removes metrics of steps after `step`, where the run resumes, and lines that a crash truncated.

        Args:
          step: the step of the last checkpoint; 0 if the run crashed before its first checkpoint.
        """
        self._file.close()
        remaining = [
            line
            for line in _lines(self._path)
            if line["step"] <= step or _name_under(self._prefix, line["metric"]) is None
        ]
        with replacing(self._path) as partial:
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in remaining))
        self._file = open(self._path, "a")  # noqa: SIM115 - closed by close()
        self._board.close()
        self._board = _Board(self._events, purge_step=step + 1)

    def close(self) -> None:
        """Closes all outputs, even if closing one of them fails, for example on a full disk."""
        with contextlib.ExitStack() as stack:
            if self._bar is not None:
                stack.callback(self._bar.close)
            if self._wandb is not None:
                stack.callback(self._wandb.close)
            stack.callback(self._board.close)
            stack.callback(self._file.close)


def _lines(path: Path) -> list[dict]:
    """The lines of metrics.jsonl. A line that a crash truncated is not valid JSON and is skipped."""
    lines = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(text))
    return lines


def _name_under(prefix: str, metric: str) -> str | None:
    """The name of a metric without `prefix`; None if the metric has another prefix."""
    name = metric.removeprefix(prefix)
    return name if metric.startswith(prefix) and "/" not in name else None


def _finite_mean(values: np.ndarray) -> float:
    """The mean over the finite values; nan if there are none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def read_history(
    workdir: Path, label: str = "", fields: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, dict[int, dict[int, float]]]:
    """Reads the metrics of one population, or of one combination of a population, from metrics.jsonl.

    Args:
      workdir: the workdir of the run.
      label: the name of the population; empty if there is only one.
      fields: the values of the swept fields that select a combination. Default: none, for a population without a sweep.

    Returns:
      `metric -> step -> seed -> value`. A value that was not finite is nan.
    """
    prefix = f"{label}/" if label else ""
    history: dict[str, dict[int, dict[int, float]]] = {}
    for line in _lines(workdir / "metrics.jsonl"):
        name, value = _name_under(prefix, line["metric"]), line["value"]
        if name is not None and line.get("fields", {}) == fields:
            by_step = history.setdefault(name, {})
            by_step.setdefault(line["step"], {})[line["seed"]] = math.nan if value is None else value
    return history
