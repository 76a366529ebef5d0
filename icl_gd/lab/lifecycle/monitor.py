"""What a run shows while it goes (metrics.jsonl, TensorBoard events, progress), and the signals it hears."""

import contextlib
import hashlib
import importlib.util
import json
import math
import os
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

SHOWN = ("training_loss", "loss_", "sensitivity_cosine_")  # on the terminal, by how names begin


class Stop:
    """Ctrl-C and SIGTERM. While steps are unsaved a signal waits for the end of the chunk; otherwise, and the second
    time, it stops the run at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None
        self.saved = True

    def __enter__(self) -> "Stop":
        heard = self.SIGNALS if threading.current_thread() is threading.main_thread() else ()  # others hear none
        self._before = {number: signal.signal(number, self._hear) for number in heard}
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._ignored
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        sys.unraisablehook = self._hook

    def _ignored(self, raised: Any) -> None:
        """Python ignores what is raised in a callback of its garbage collector. The signal is known all the same."""
        if not issubclass(raised.exc_type, KeyboardInterrupt):
            self._hook(raised)

    def _hear(self, number: int, frame: object) -> None:
        at_once = self.saved or self.signal is not None
        self.signal = self.signal or number
        if at_once:
            raise KeyboardInterrupt
        print("stopping after this chunk", file=sys.stderr)


class _Board:
    """A TensorBoard event file, written where it is called: a `SummaryWriter` writes from a thread of its own, which a
    full disk ends with a traceback, and whose queue then blocks the run.

    Args:
      purge_step: events of the directory's other files from this step on are forgotten.
    """

    def __init__(self, directory: Path, purge_step: int | None = None):
        # Its import takes PyTorch's with it where that is installed, for seconds: not before a run begins.
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
        """Appends and flushes values of one step."""
        for name, value in values.items():
            self._write(step, summary=self._scalar(name, value))
        self._writer.flush()

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(self._events.Event(wall_time=time.time(), step=step, **content))

    def close(self) -> None:
        self._writer.close()


def redraws() -> bool:
    """Whether what is printed is seen on a terminal or below a notebook's cell, where one line can be drawn again."""
    return (sys.stderr.isatty() and sys.stdout.isatty()) or "ipykernel" in sys.modules


class _Wandb:
    """A run of Weights & Biases, by the name of what is trained; the same one when it goes on.

    Args:
      config: what is shown of the run's settings.
    """

    def __init__(self, project: str, workdir: Path, label: str, config: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]  # an extra, which takes a second to import

        name = f"{workdir.name}/{label}" if label else workdir.name
        identity = hashlib.sha256(f"{workdir.absolute()}/{label}".encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, dir=str(workdir), name=name, id=identity, resume="allow", config=dict(config)
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values of one step; one that is there already is left alone, as the service has it."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()


def check_wandb(project: str | None) -> None:
    """Whether Weights & Biases is there, if it is asked for.

    Raises:
      ConfigError: if it is not.
    """
    if project is not None and importlib.util.find_spec("wandb") is None:
        reject("train.wandb", project, "needs wandb: pip install 'icl-gd[wandb]', or leave it at None")


class Monitor:
    """Writes metrics per step and seed, and shows progress: a bar where it can be redrawn, plain lines otherwise.

    Args:
      points: the fields in which combinations of a population differ; all seeds of one come before the next.
      wandb: a project of Weights & Biases that means over seeds are logged to; None for none.
      config: what it shows of the run's settings.
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
        # Populations in turn have directories of their own: TensorBoard forgets in a whole directory what is after the
        # step where one of its files goes on.
        self._events = workdir / "events" / label if label else workdir
        self._board = _Board(self._events)
        self._wandb = None if wandb is None else _Wandb(wandb, workdir, label, config)
        self._bar = tqdm(total=steps, desc=self._label, unit="step") if redraws() else None
        self._next_line = 0
        self._points, self._warned = points, set()
        self._names = [",".join(filter(None, (label, label_of(fields)))) for fields in points]

    def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Appends and flushes metrics `[member]` of one step."""
        lines, shown, means = [], [], {}
        for name, values in metrics.items():
            values = np.asarray(values, np.float64)
            parts = np.split(values, len(self._points))
            for fields, point, part in zip(self._points, self._names, parts, strict=True):
                for seed, value in enumerate(part.tolist(), self._first_seed):
                    value = value if math.isfinite(value) else None
                    line = {"step": step, "seed": seed, "metric": self._prefix + name, "value": value}
                    lines.append(json.dumps(line | ({"fields": fields} if fields else {})))
                if math.isfinite(mean := _finite_mean(part)):
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
        """Says of every member `[member]` that has been frozen, once, at which step; -1 stands for none."""
        seeds = len(diverged_at) // len(self._points)
        for member, step in enumerate(diverged_at.tolist()):
            if step >= 0 and member not in self._warned:
                self._warned.add(member)
                point = self._names[member // seeds]
                seed = f"seed {self._first_seed + member % seeds}" + (f" of {point}" if point else "")
                said = f"{seed} diverged at step {step} and is kept as it was before that step"
                print(f"warning: {said}", file=sys.stderr)

    def resume(self, step: int) -> None:
        """Takes back what was written after `step`, from where a run goes on, and what a crash left half written.

        A run that crashed before its first checkpoint goes on from step 0.
        """
        self._file.close()
        kept = [
            line
            for line in _lines(self._path)
            if line["step"] <= step or _name_under(self._prefix, line["metric"]) is None
        ]
        partial = self._path.with_name("metrics.jsonl.partial")
        partial.write_text("".join(f"{json.dumps(line)}\n" for line in kept))
        os.replace(partial, self._path)
        self._file = open(self._path, "a")  # noqa: SIM115 - closed by close()
        self._board.close()
        self._board = _Board(self._events, purge_step=step + 1)

    def close(self) -> None:
        with contextlib.ExitStack() as each:  # also when one that has no room left for its last bytes raises
            if self._bar is not None:
                each.callback(self._bar.close)
            if self._wandb is not None:
                each.callback(self._wandb.close)
            each.callback(self._board.close)
            each.callback(self._file.close)


def _lines(path: Path) -> list[dict]:
    """The whole lines of metrics.jsonl; one that a crash cut short is no JSON."""
    found = []
    for text in path.read_text().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(text))
    return found


def _name_under(prefix: str, metric: str) -> str | None:
    """The name of a metric written under this very prefix; None for another's."""
    name = metric.removeprefix(prefix)
    return name if metric.startswith(prefix) and "/" not in name else None


def _finite_mean(values: np.ndarray) -> float:
    """The mean over members that have not diverged."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan


def read_history(
    workdir: Path, label: str = "", fields: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, dict[int, dict[int, float]]]:
    """metrics.jsonl as `metric -> step -> seed -> value`, of one combination of a swept population."""
    prefix = f"{label}/" if label else ""
    history: dict[str, dict[int, dict[int, float]]] = {}
    for line in _lines(workdir / "metrics.jsonl"):
        name, value = _name_under(prefix, line["metric"]), line["value"]
        if name is not None and line.get("fields", {}) == fields:
            by_step = history.setdefault(name, {})
            by_step.setdefault(line["step"], {})[line["seed"]] = math.nan if value is None else value
    return history
