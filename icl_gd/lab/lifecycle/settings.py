"""What a run sets in its process: JAX's precision and cache, and who speaks; all of it as it was, afterwards."""

import contextlib
import logging
import sys
import warnings
from collections.abc import Iterator

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


@contextlib.contextmanager
def set_for(precision: str, quickly: bool) -> Iterator[Cache]:
    """Sets JAX for a precision, and quiets libraries that report what is raised too.

    Args:
      quickly: whether to compile quickly rather than well, for a run that compiles more than it computes.

    Yields:
      The compilation cache of the run.
    """
    before = {name: jax.config.values[name] for name in OF_JAX}
    verbosity, asyncio = absl.logging.get_verbosity(), logging.getLogger("asyncio")
    level = asyncio.level
    said_by = sys.stderr if mesh.is_primary() else sys.stdout
    try:
        with warnings.catch_warnings():
            jax.config.update("jax_enable_x64", precision == "float64")
            # Comparisons of trained with constructed weights drown in TF32 or bfloat16 products.
            jax.config.update("jax_default_matmul_precision", "highest")
            jax.config.update("jax_disable_most_optimizations", quickly)
            warnings.showwarning = lambda message, *_: print("warning:", " ".join(str(message).split()), file=said_by)
            # Orbax and its tasks log, with tracebacks, what is also raised.
            if not flags.FLAGS["verbosity"].present:  # unless the command line asks for them
                absl.logging.set_verbosity(absl.logging.FATAL)
            asyncio.setLevel(logging.CRITICAL)
            with contextlib.closing(Cache()) as cache:
                yield cache
    finally:
        absl.logging.set_verbosity(verbosity)
        asyncio.setLevel(level)
        for name, value in before.items():
            jax.config.update(name, value)
