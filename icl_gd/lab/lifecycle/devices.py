"""Whether the device a run is asked to use is there, and can do what is asked; said before anything is written."""

import platform
import re
import subprocess
from typing import Any

from icl_gd.lab.config.errors import ConfigError, nearest
from icl_gd.lab.config.experiment import Experiment

PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu")
CUDA = "for NVIDIA GPUs: pip install 'icl-gd[cuda13]', or [cuda12] with a driver of CUDA 12"
INSTALL = {"gpu": CUDA, "cuda": CUDA, "tpu": "for TPUs: pip install 'icl-gd[tpu]'"}
SYSTEMS = ("Linux", "Darwin")


def check_system() -> None:
    """Whether runs are supported here.

    Raises:
      ConfigError: if they are not.
    """
    if (system := platform.system()) not in SYSTEMS:
        said = "runs take Linux or macOS; on Windows use WSL (wsl --install)"
        raise ConfigError(f"{system} is not supported: {said}")


def unused_gpus() -> str | None:
    """What would make JAX use NVIDIA GPUs that it leaves alone; None if there are none of them."""
    import jax

    if jax.devices()[0].platform != "cpu" or (_config().jax_platforms or "") == "cpu":
        return None
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
        if "GPU" not in listed:
            return None
        driver = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    version = re.search(r"CUDA Version: (\d+)", driver)
    extra = "cuda12" if version and int(version[1]) < 13 else "cuda13"
    return f"{listed.splitlines()[0]} is there, and JAX does not use it: pip install 'icl-gd[{extra}]'"


def check_device(precision: str) -> str:
    """The platform a run computes on.

    Raises:
      ConfigError: if JAX_PLATFORMS names none that is there, or the platform has no such precision.
    """
    import jax

    asked = _config().jax_platforms or ""
    for word in asked.split(",") if asked else ():
        if word not in PLATFORMS:
            raise ConfigError(f"JAX_PLATFORMS={asked}: {nearest(word, PLATFORMS)}, or nothing")
    try:
        device = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # JAX asserts that an asked platform is installed
        hints = {INSTALL[word]: None for word in asked.split(",") if word in INSTALL}
        why = " ".join(str(error).partition("(set JAX_PLATFORMS")[0].split()).rstrip(".") or "JAX cannot use it"
        accepted = "; ".join(["accepted here: cpu, or nothing", *hints])
        raise ConfigError(f"JAX_PLATFORMS={asked}: no such device: {why}; {accepted}") from error
    if why := why_not(device, precision):
        raise ConfigError(f"precision={precision}: {why}")
    return device


def check_placement(experiment: Experiment) -> None:
    """Whether population and batch divide among the devices as `train.parallel` asks.

    Raises:
      ConfigError: if they do not.
    """
    from icl_gd.training import mesh

    for _, one in experiment.in_turn():
        members = one.seeds * len(one.together())
        try:
            mesh.place(one.train.parallel, members, one.train.batch_size, one.train.share_batches)
        except ValueError as error:
            raise ConfigError(f"train.parallel={one.train.parallel}: {error}") from error


def _config() -> Any:
    import jax

    return jax.config


def why_not(device: str, precision: str) -> str | None:
    """Why a platform cannot compute in a precision; None if it can."""
    if device == "tpu" and precision == "float64":
        return (
            "a TPU has no float64: XLA puts two float32 in its place, with their range, fewer digits and much more "
            "time; accepted on a TPU: float32, or float64 on the CPU with JAX_PLATFORMS=cpu"
        )
    return None
