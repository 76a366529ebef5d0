"""What a workdir says of the run it holds: whether it is finished, or goes on, perhaps to more steps than before."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_gd.lab.reporting import results
from icl_gd.migrations import CONFIGS, newest_of


def finished(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of a run that took all its steps; None while there are none, or `train.steps` was raised since.

    Raises:
      ValueError: if they cannot be read.
    """
    path, steps = workdir / "results.json", config["train"]["steps"]
    if not path.exists():
        return None
    try:
        done = json.loads(path.read_text())
        taken = done.get("steps", _stored(workdir)["train"]["steps"])
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is unreadable ({error}); without it the run is analysed again") from error
    return done if taken == json.loads(json.dumps(steps)) else None


def last_step(workdir: Path) -> int:
    """The largest step of a checkpoint there, of all combinations; zero where there is none."""
    steps = (path.name for path in (workdir / "checkpoints").glob("**/*/") if path.name.isdigit())
    return max(map(int, steps), default=0)


def store(workdir: Path, about: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes config.json and, when a run is extended, says so and takes back what a longer run would not have.

    `extended_from` lists the steps where the run once ended. Such an end may cut a chunk short, which a run that is
    longer from the start does not do: its checkpoint goes, and the metrics after the one before it are written again.
    """
    before = json.loads((workdir / "config.json").read_text()) if (workdir / "config.json").exists() else {}
    ends, steps = list(before.get("extended_from", [])), config["train"]["steps"]
    if before and (old := before["config"]["train"]["steps"]) != steps and isinstance(steps, int):
        print(f"extending the run from step {old} to {steps}", flush=True)
        ends.append(old)
    # First the list, then what it stands for: a run killed in between does the same again.
    extended = {"extended_from": ends} if ends else {}
    stored = {**about, **extended, "format": newest_of(CONFIGS), "config": config}
    results.write_json(workdir / "config.json", stored)
    for end in ends:
        if end % config["train"]["log_every"]:
            for checkpoint in workdir.glob(f"**/checkpoints/**/{end}/"):
                shutil.rmtree(checkpoint)


def _stored(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "config.json").read_text())["config"]
