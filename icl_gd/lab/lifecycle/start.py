"""The weights that training starts from, where an experiment names some: `train.start`."""

from icl_gd import interop, training
from icl_gd.lab.config.asked import Run
from icl_gd.lab.config.errors import ConfigError, one_line
from icl_gd.paths import local
from icl_gd.training.warm_start import Trained, weights_to_start


def weights_of(start: str | None) -> Trained | None:
    """A population from its workdir or from one of its checkpoints, or a model that `save_pretrained` wrote.

    Raises:
      FileNotFoundError: if it is not there.
      ValueError: if it cannot be read.
    """
    if start is None:
        return None
    if (local(start, "train.start") / "model.safetensors").is_file():
        return interop.from_pretrained(start)
    return training.load(start)


def check_start(run: Run) -> None:
    """Whether the weights to start from are there, and fit every population that is trained.

    A finished run is drawn again without them.

    Raises:
      ConfigError: if they are not, or do not.
    """
    for _, one in run.experiment.in_turn():
        if (start := one.train.start) is None or (run.workdir / "results.json").exists():
            continue
        try:
            if local(start, "train.start").resolve().is_relative_to(run.workdir.resolve()):
                raise ValueError("is in the run's own workdir; raise train.steps to go on with it, or give another")
            if (weights := weights_of(start)) is not None:
                weights_to_start(weights, one.network, one.seeds * len(one.together()), one.seeds)
        except (FileNotFoundError, ValueError) as error:
            why = one_line(error).removeprefix(f"{start} ").removeprefix("start: ")
            raise ConfigError(f"train.start={start}: {why.removeprefix(f'train.start={start}: ')}") from error
