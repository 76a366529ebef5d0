"""What a run shows while it goes (metrics.jsonl, TensorBoard events, progress), and the signals it hears."""

import json
import signal
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm


class Stop:
    """Ctrl-C and SIGTERM. While steps are unsaved a signal waits for the end of the chunk; otherwise, and the second
    time, it stops the run at once."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self):
        self.signal: int | None = None
        self.saved = True

    def __enter__(self) -> "Stop":
        self._before = {number: signal.signal(number, self._hear) for number in self.SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        at_once = self.saved or self.signal is not None
        self.signal = self.signal or number
        if at_once:
            raise KeyboardInterrupt
        print("stopping after this chunk", file=sys.stderr)


class Monitor:
    """Writes metrics per step and seed, and shows progress: a bar on a terminal, plain lines otherwise."""

    def __init__(self, workdir: Path, steps: int, label: str = ""):
        self._prefix = f"{label}/" if label else ""
        self._steps = steps
        self._label = label or "training"
        self._file = open(workdir / "metrics.jsonl", "a")  # noqa: SIM115 - closed by close()
        self._board = SummaryWriter(str(workdir))
        self._bar = tqdm(total=steps, desc=self._label, unit="step") if sys.stderr.isatty() else None
        self._next_line = 0

    def write(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Appends and flushes metrics `[seed]` of one step."""
        for name, values in metrics.items():
            for seed, value in enumerate(np.asarray(values, np.float64)):
                line = {"step": step, "seed": seed, "metric": self._prefix + name, "value": float(value)}
                self._file.write(json.dumps(line) + "\n")
            self._board.add_scalar(self._prefix + name, float(np.mean(values)), step)
        self._file.flush()
        shown = ", ".join(f"{name} {np.mean(values):.4g}" for name, values in metrics.items())
        if self._bar is not None:
            self._bar.update(step - self._bar.n)
            self._bar.set_postfix_str(shown)
        elif step >= self._next_line or step >= self._steps:
            print(f"{self._label}: step {step}/{self._steps}  {shown}", flush=True)
            self._next_line = step + self._steps // 10

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._bar is not None:
            self._bar.close()


def read_history(workdir: Path, label: str = "") -> dict[str, dict[int, dict[int, float]]]:
    """metrics.jsonl as `metric -> step -> seed -> value`; after a resume the later line of a step counts."""
    prefix = f"{label}/" if label else ""
    history: dict[str, dict[int, dict[int, float]]] = {}
    with open(workdir / "metrics.jsonl") as lines:
        for text in lines:
            if not text.endswith("\n"):
                continue  # cut short by a crash; the resumed run wrote that step again
            line = json.loads(text)
            name = line["metric"]
            if name.startswith(prefix) and "/" not in name[len(prefix) :]:
                history.setdefault(name[len(prefix) :], {}).setdefault(line["step"], {})[line["seed"]] = line["value"]
    return history
