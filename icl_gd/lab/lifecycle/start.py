"""Loads and checks the weights from which training starts (`train.start`)."""

from functools import cache

from icl_gd import training
from icl_gd.lab.config.errors import ConfigError, one_line
from icl_gd.lab.config.run_request import RunRequest
from icl_gd.models import load_model
from icl_gd.paths import local
from icl_gd.training.warm_start import Trained, start_weights


def weights_of(start: str | None) -> Trained | None:
    """Loads the weights from which training starts.

    Args:
      start: a workdir, one of its checkpoints, or a directory written by `Model.save`; None for random weights.

    Returns:
      The population or model; None if `start` is None.

    Raises:
      FileNotFoundError: if there is no population or model at this path.
      ValueError: if it cannot be read.
    """
    if start is None:
        return None
    if (local(start, "train.start") / "model.safetensors").is_file():
        return load_model(start)
    return training.load(start)


def check_start(run: RunRequest) -> None:
    """Checks that the weights of `train.start` exist and fit every population. A finished run does not need them.

    Raises:
      ConfigError: if the weights do not exist, cannot be read, or do not fit.
    """
    load_once = cache(weights_of)  # most populations of a sweep start from the same weights
    for _, one in run.experiment.populations():
        if (start := one.train.start) is None or (run.workdir / "results.json").exists():
            continue
        try:
            if local(start, "train.start").resolve().is_relative_to(run.workdir.resolve()):
                raise ValueError(
                    "is in the workdir of this run; to continue it raise train.steps, or give another path"
                )
            if (weights := load_once(start)) is not None:
                start_weights(weights, one.network, one.seeds * len(one.combinations()), one.seeds)
        except (FileNotFoundError, ValueError) as error:
            why = one_line(error).removeprefix(f"{start} ").removeprefix(f"{start}: ").removeprefix("start: ")
            raise ConfigError(f"train.start={start}: {why.removeprefix(f'train.start={start}: ')}") from error
