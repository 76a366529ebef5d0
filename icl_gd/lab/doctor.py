"""Checks that runs work on this machine: system, versions, devices, precision, memory, cache, paths, a training step.

    python -m experiments.doctor

Prints one line per check, beginning with "ok" or "FAILS". Exit codes: 0 all checks passed; 1 a check failed; 2 bad
input.
"""

import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.resources import available_memory
from icl_gd.lab.lifecycle.devices import INSTALL, check_device, check_system, unused_gpus, why_not
from icl_gd.lab.reporting.results import PACKAGES


class CheckFailed(Exception):
    """A check failed. The message describes the problem and how to solve it."""


def system() -> str:
    """The operating system; fails if it is not supported."""
    try:
        check_system()
    except ConfigError as error:
        raise CheckFailed(str(error)) from error
    return f"{platform.system()} {platform.release()} ({platform.machine()})"


def memory() -> str:
    """The memory that a run may use."""
    available, owner = available_memory()
    return f"{available / 2**30:.3g} GiB (limit of {owner})"


def versions() -> str:
    """The versions of Python and of the required packages; fails if a package is not installed."""
    missing = []
    installed = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            installed.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise CheckFailed(f"not installed: {', '.join(missing)}; run python -m pip install -e .")
    return ", ".join(installed)


def devices() -> str:
    """The devices of JAX; fails if JAX has none, or cannot use the GPUs of this machine."""
    try:
        device = check_device("float32")
    except ConfigError as error:
        raise CheckFailed(str(error)) from error
    if unused := unused_gpus():
        raise CheckFailed(unused)
    import jax

    names = f"{jax.device_count()} x {jax.devices()[0].device_kind} ({device})"
    if device == "cpu":
        names += f"; no accelerator, so runs use the CPU ({INSTALL['gpu']}; {INSTALL['tpu']})"
    return names


def precision() -> str:
    """The default precision, the error of a matrix product with it, and whether float64 is available."""
    import jax
    import jax.numpy as jnp

    default = "float32, with matrix products at the highest precision"
    if why := why_not(jax.devices()[0].platform, "float64"):
        return f"{default}; --config.precision=float64: {why}"
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        a = jnp.full((64, 64), 1 / 3)
        error = float(abs(a.astype(jnp.float32) @ a.astype(jnp.float32) - a @ a).max())
    return f"{default} (error of a product: {error:.1g}); --config.precision=float64: available"


def cache() -> str:
    """The directory of the compilation cache; fails if it is not writable."""
    from icl_gd.lab.lifecycle.compile_cache import cache_directory, why_unusable

    directory = cache_directory()
    why = why_unusable(directory)
    if why:
        raise CheckFailed(f"{why}, so every run compiles again; set JAX_COMPILATION_CACHE_DIR to a writable directory")
    return f"{directory}, {sum(1 for _ in directory.glob('*-cache'))} programs"


def paths() -> str:
    """The default directory of runs; fails if it is not writable."""
    runs = Path("runs").absolute()
    existing = runs if runs.exists() else runs.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise CheckFailed(f"{existing} is not writable; start runs in another directory, or give --workdir=DIR")
    return f"{runs} is writable"


def step() -> str:
    """The seconds for one training step, saving and loading; fails if the loss is not finite."""
    import jax.numpy as jnp

    import icl_gd

    settings = icl_gd.TrainSettings(steps=1, batch_size=16)
    task, losses, began = icl_gd.LinearRegression(d_input=2, n_context=4), [], time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        icl_gd.train(
            task,
            icl_gd.TransformerConfig(d_token=3),
            settings,
            checkpoints=directory,
            on_chunk=lambda trained, step, loss: losses.append(loss),
        )
        icl_gd.load(directory)
    if not bool(jnp.all(jnp.isfinite(losses[0]))):
        raise CheckFailed(f"the loss of one training step is not finite: {losses[0]}")
    seconds = time.monotonic() - began
    return f"trained, saved and loaded in {seconds:.1f} s, including compilation; loss {float(losses[0].mean()):.3g}"


CHECKS: dict[str, Callable[[], str]] = {
    "system": system,
    "versions": versions,
    "devices": devices,
    "precision": precision,
    "memory": memory,
    "cache": cache,
    "paths": paths,
    "one step": step,
}


def main(words: Sequence[str] = ()) -> int:
    """Runs all checks and prints their results. If there is no device, checks that need one are skipped.

    Args:
      words: the command line after the name of the program: nothing, or --help.

    Returns:
      The exit code.
    """
    if list(words) in (["--help"], ["-h"]):
        print(__doc__)
        return 0
    if words:
        print(f"error: {' '.join(words)}: doctor takes no arguments except --help", file=sys.stderr)
        return 2
    well, has_device = True, True
    for name, check in CHECKS.items():
        if not has_device and check in (precision, step):
            continue
        try:
            print(f"ok     {name}: {check()}", flush=True)
        except Exception as error:
            well = False
            message = str(error) if isinstance(error, CheckFailed) else f"{type(error).__name__}: {error}"
            print(f"FAILS  {name}: {' '.join(message.split())}", flush=True)
            has_device = has_device and check is not devices
    print("all checks passed" if well else "some checks failed: see the lines that start with FAILS")
    return 0 if well else 1
