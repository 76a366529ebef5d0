"""Whether the device a run is asked to use is there, and can do what is asked; said before anything is written."""

from __future__ import annotations

from typing import Any

from icl_gd.lab.config.bad_input import BadInput, nearest
from icl_gd.lab.config.experiment import Experiment

PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu")
INSTALL = {
    "gpu": "for NVIDIA GPUs: pip install -e '.[cuda]'",
    "cuda": "for NVIDIA GPUs: pip install -e '.[cuda]'",
    "tpu": "for TPUs: pip install -e '.[tpu]'",
}


def check_device(precision: str) -> str:
    """The platform a run computes on.

    Raises:
      BadInput: if JAX_PLATFORMS names none that is there, or the platform has no such precision.
    """
    import jax

    asked = _config().jax_platforms or ""
    for word in asked.split(",") if asked else ():
        if word not in PLATFORMS:
            raise BadInput(f"JAX_PLATFORMS={asked}: {nearest(word, PLATFORMS)}, or nothing")
    try:
        platform = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # JAX asserts that an asked platform is installed
        hints = {INSTALL[word]: None for word in asked.split(",") if word in INSTALL}
        why = " ".join(str(error).partition("(set JAX_PLATFORMS")[0].split()).rstrip(".") or "JAX cannot use it"
        accepted = "; ".join(["accepted here: cpu, or nothing", *hints])
        raise BadInput(f"JAX_PLATFORMS={asked}: no such device: {why}; {accepted}") from error
    if why := why_not(platform, precision):
        raise BadInput(f"precision={precision}: {why}")
    return platform


def check_placement(experiment: Experiment) -> None:
    """Whether population and batch divide among the devices as `train.parallel` asks.

    Raises:
      BadInput: if they do not.
    """
    from icl_gd.training import mesh

    for _, one in experiment.in_turn():
        members = one.seeds * len(one.together())
        try:
            mesh.place(one.train.parallel, members, one.train.batch_size, one.train.share_batches)
        except ValueError as error:
            raise BadInput(f"train.parallel={one.train.parallel}: {error}") from error


def _config() -> Any:
    import jax

    return jax.config


def why_not(platform: str, precision: str) -> str | None:
    """Why a platform cannot compute in a precision; None if it can."""
    if platform == "tpu" and precision == "float64":
        return (
            "a TPU has no float64: XLA puts two float32 in its place, with their range, fewer digits and much more "
            "time; accepted on a TPU: float32, or float64 on the CPU with JAX_PLATFORMS=cpu"
        )
    return None
