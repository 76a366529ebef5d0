"""Says whether runs will work here: versions, devices, precision, compilation cache, writable paths, one training step.

    python -m experiments.doctor

Prints a line for each, those that fail marked. Exit codes: 0 all is well; 1 something is not.
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
from icl_gd.lab.config.resources import memory_there
from icl_gd.lab.lifecycle.devices import INSTALL, check_device, check_system, unused_gpus, why_not
from icl_gd.lab.reporting.results import PACKAGES


class Unwell(Exception):
    """What a check found wrong, and what would help."""


def system() -> str:
    try:
        check_system()
    except ConfigError as error:
        raise Unwell(str(error)) from error
    return f"{platform.system()} {platform.release()} ({platform.machine()})"


def memory() -> str:
    there, by = memory_there()
    return f"{there / 2**30:.3g} GiB, of {by}"


def versions() -> str:
    missing = []
    found = [f"python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise Unwell(f"not installed: {', '.join(missing)}; python -m pip install -e .")
    return ", ".join(found)


def devices() -> str:
    try:
        found = check_device("float32")
    except ConfigError as error:
        raise Unwell(str(error)) from error
    if unused := unused_gpus():
        raise Unwell(unused)
    import jax

    names = f"{jax.device_count()} x {jax.devices()[0].device_kind} ({found})"
    return names + (f"; no accelerator: runs use the CPU ({INSTALL['gpu']}; {INSTALL['tpu']})" * (found == "cpu"))


def precision() -> str:
    import jax
    import jax.numpy as jnp

    why = why_not(jax.devices()[0].platform, "float64")
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        a = jnp.full((64, 64), 1 / 3)
        error = "" if why else f"{float(abs(a.astype(jnp.float32) @ a.astype(jnp.float32) - a @ a).max()):.1g}"
    default = "float32, products at the highest precision" + f" (error of a product {error})" * bool(error)
    return f"{default}; --config.precision=float64: {why or 'available'}"


def cache() -> str:
    from icl_gd.lab.lifecycle.compile_cache import cache_directory, why_unusable

    directory = cache_directory()
    why = why_unusable(directory)
    if why:
        raise Unwell(f"{why}; runs compile everything again; set JAX_COMPILATION_CACHE_DIR to a directory of yours")
    return f"{directory}, {sum(1 for _ in directory.glob('*-cache'))} programs"


def paths() -> str:
    runs = Path("runs").absolute()
    above = runs if runs.exists() else runs.parent
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise Unwell(f"{above} cannot be written; start runs elsewhere, or give them --workdir=DIR")
    return f"{runs} can be written"


def step() -> str:
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
        raise Unwell(f"the loss of one training step is {losses[0]}")
    seconds = time.monotonic() - began
    return f"trained, saved and loaded in {seconds:.1f} s, compilation included; loss {float(losses[0].mean()):.3g}"


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
    """Runs every check and returns the exit code. Without a device, what needs one is not tried."""
    if words:
        asks_help = list(words) in (["--help"], ["-h"])
        print(
            __doc__ if asks_help else f"error: {' '.join(words)}: accepted is nothing, or --help",
            file=sys.stdout if asks_help else sys.stderr,
        )
        return 0 if asks_help else 2
    well, there = True, True
    for name, check in CHECKS.items():
        if not there and check in (precision, step):
            continue
        try:
            print(f"ok     {name}: {check()}", flush=True)
        except Exception as error:
            well = False
            said = str(error) if isinstance(error, Unwell) else f"{type(error).__name__}: {error}"
            print(f"FAILS  {name}: {' '.join(said.split())}", flush=True)
            there = there and check is not devices
    print("all is well" if well else "not well: see the lines that fail")
    return 0 if well else 1
