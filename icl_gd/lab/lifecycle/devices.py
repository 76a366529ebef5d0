"""Checks of the operating system and the devices, made before a run writes anything."""

import platform
import re
import subprocess
from typing import Any

from icl_gd.lab.config.errors import ConfigError, nearest
from icl_gd.lab.config.experiment import Experiment

PLATFORMS = ("cpu", "gpu", "cuda", "rocm", "tpu")
CUDA = "for NVIDIA GPUs: pip install 'icl-gd[cuda13]', or 'icl-gd[cuda12]' if the driver is for CUDA 12"
INSTALL = {"gpu": CUDA, "cuda": CUDA, "tpu": "for TPUs: pip install 'icl-gd[tpu]'"}
SYSTEMS = ("Linux", "Darwin")


def check_system() -> None:
    """Checks that the operating system is supported.

    Raises:
      ConfigError: if it is not supported.
    """
    if (system := platform.system()) not in SYSTEMS:
        raise ConfigError(f"{system} is not supported: use Linux or macOS, or WSL on Windows (wsl --install)")


def unused_gpus() -> str | None:
    """Detects NVIDIA GPUs that this installation of JAX cannot use.

    Returns:
      A sentence with the command that installs GPU support; None if there are no such GPUs, or JAX_PLATFORMS is "cpu".
    """
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
    return f"JAX does not use the GPU of this machine ({listed.splitlines()[0]}): pip install 'icl-gd[{extra}]'"


def check_device(precision: str) -> str:
    """Checks that JAX finds a device, and that this device supports a precision.

    Args:
      precision: "float32" or "float64".

    Returns:
      The platform of the device: "cpu", "gpu" or "tpu".

    Raises:
      ConfigError: if JAX_PLATFORMS names no available platform, or the platform lacks the precision.
    """
    import jax

    requested = _config().jax_platforms or ""
    for word in requested.split(",") if requested else ():
        if word not in PLATFORMS:
            raise ConfigError(f"JAX_PLATFORMS={requested}: {nearest(word, PLATFORMS)}; or unset it")
    try:
        device = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a requested platform is installed
        hints = {INSTALL[word]: None for word in requested.split(",") if word in INSTALL}
        why = " ".join(str(error).partition("(set JAX_PLATFORMS")[0].split()).rstrip(".") or "JAX cannot use it"
        accepted = "; ".join(["accepted on this machine: cpu, or leave it unset", *hints])
        raise ConfigError(f"JAX_PLATFORMS={requested}: no such device: {why}; {accepted}") from error
    if why := why_not(device, precision):
        raise ConfigError(f"precision={precision}: {why}")
    return device


def check_placement(experiment: Experiment) -> None:
    """Checks that members and batches can be divided among the devices as `train.parallel` requires.

    Raises:
      ConfigError: if they cannot be divided so.
    """
    from icl_gd.training import mesh

    for _, one in experiment.populations():
        members = one.seeds * len(one.combinations())
        try:
            mesh.place(one.train.parallel, members, one.train.batch_size, one.train.share_batches)
        except ValueError as error:
            raise ConfigError(f"train.parallel={one.train.parallel}: {error}") from error


def _config() -> Any:
    import jax

    return jax.config


def why_not(device: str, precision: str) -> str | None:
    """The reason why a platform does not support a precision; None if it does."""
    if device == "tpu" and precision == "float64":
        return (
            "a TPU has no float64: XLA emulates it by pairs of float32, with less range and precision and much more "
            "time; use float32, or float64 on the CPU with JAX_PLATFORMS=cpu"
        )
    return None
