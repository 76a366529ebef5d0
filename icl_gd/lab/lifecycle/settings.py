"""Settings of the process during a run (JAX's precision and cache, warnings, logging), restored after the run."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import absl.logging
import jax
from absl import flags

from icl_gd.lab.lifecycle.compile_cache import Cache
from icl_gd.training import mesh

OF_JAX = (
    *("jax_enable_x64", "jax_default_matmul_precision", "jax_disable_most_optimizations"),
    *("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"),
    *("jax_persistent_cache_min_entry_size_bytes", "jax_enable_compilation_cache"),
)


def silence() -> None:
    """Silences Orbax and its tasks, which log tracebacks of errors and also raise these errors."""
    if not flags.FLAGS["verbosity"].present:  # unless the command line sets the verbosity
        absl.logging.set_verbosity(absl.logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@contextlib.contextmanager
def jax_settings(precision: str, quickly: bool) -> Iterator[Cache]:
    """A context that sets the precision of JAX, and silences libraries that log errors and also raise them.

    Args:
      precision: "float32" or "float64".
      quickly: whether XLA compiles faster with fewer optimisations, for a run that spends more time on compilation than
        on computation.

    Yields:
      The compilation cache of the run.
    """
    before = {name: jax.config.values[name] for name in OF_JAX}
    verbosity, asyncio = absl.logging.get_verbosity(), logging.getLogger("asyncio")
    level = asyncio.level
    stream = sys.stderr if mesh.is_primary() else sys.stdout  # only the first process prints warnings

    def show_warning(message: Warning | str, *_: Any) -> None:
        print("warning:", " ".join(str(message).split()), file=stream)

    try:
        with warnings.catch_warnings():
            jax.config.update("jax_enable_x64", precision == "float64")
            # Errors of TF32 or bfloat16 products exceed the differences between trained and constructed weights.
            jax.config.update("jax_default_matmul_precision", "highest")
            jax.config.update("jax_disable_most_optimizations", quickly)
            warnings.showwarning = show_warning
            silence()
            with contextlib.closing(Cache()) as cache:
                yield cache
    finally:
        absl.logging.set_verbosity(verbosity)
        asyncio.setLevel(level)
        for name, value in before.items():
            jax.config.update(name, value)
