"""Finished, resumed and extended runs: reads results and last step of a workdir, and writes its config.json."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from icl_gd.lab.reporting import results
from icl_gd.migrations import CONFIGS, newest_of


def finished(workdir: Path, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The results of a run that is finished.

    Args:
      workdir: the workdir of the run.
      config: the nested config of the requested run.

    Returns:
      The content of results.json; None if the run is not finished, or the request raises `train.steps`.

    Raises:
      ValueError: if results.json or config.json cannot be read.
    """
    path, steps = workdir / "results.json", config["train"]["steps"]
    if not path.exists():
        return None
    try:
        done = json.loads(path.read_text())
        taken = done.get("steps", _stored(workdir)["train"]["steps"])
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is unreadable ({error}); remove it to analyse the run again") from error
    return done if taken == json.loads(json.dumps(steps)) else None


def last_step(workdir: Path) -> int:
    """The largest step of all checkpoints of a run; 0 if there are no checkpoints."""
    steps = (path.name for path in (workdir / "checkpoints").glob("**/*/") if path.name.isdigit())
    return max(map(int, steps), default=0)


def store(workdir: Path, about: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Writes config.json. If `train.steps` was raised, also removes a checkpoint that a longer run would not have.

    `extended_from` in config.json lists the earlier final steps. The chunk that ended at such a step may be shorter
    than the others. A run with more steps from the start has no shorter chunk there. So the checkpoint of this chunk is
    removed, and training resumes from the checkpoint before it.

    Args:
      workdir: the workdir of the run.
      about: name of the experiment, versions and device, which are stored together with the config.
      config: the nested config of the run.
    """
    before = json.loads((workdir / "config.json").read_text()) if (workdir / "config.json").exists() else {}
    ends, steps = list(before.get("extended_from", [])), config["train"]["steps"]
    if before and (old := before["config"]["train"]["steps"]) != steps and isinstance(steps, int):
        print(f"extending the run from step {old} to {steps}", flush=True)
        ends.append(old)
    # The list is written before checkpoints are removed. So if the run is killed in between, the next one removes them.
    extended = {"extended_from": ends} if ends else {}
    stored = {**about, **extended, "format": newest_of(CONFIGS), "config": config}
    results.write_json(workdir / "config.json", stored)
    for end in ends:
        if end % config["train"]["log_every"]:
            for checkpoint in workdir.glob(f"**/checkpoints/**/{end}/"):
                shutil.rmtree(checkpoint)


def _stored(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "config.json").read_text())["config"]
