"""JAX's persistent compilation cache: chooses its directory, and counts the programs that a run reuses from it.

Compilation takes most of the time of a short run, and a resumed run needs the same programs again.
`JAX_COMPILATION_CACHE_DIR=DIR` selects another directory; `JAX_ENABLE_COMPILATION_CACHE=false` disables the cache.
"""

import hashlib
import os
import platform
import re
import warnings
from pathlib import Path

# Cache every program: compiling the many small programs of a run takes longer than compiling its large ones.
LEAST_SECONDS = 0.0
HITS, REQUESTS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_requests_use_cache"


def cache_directory() -> Path:
    """The directory of the cache: `JAX_COMPILATION_CACHE_DIR`, or one for this CPU type and version of JAX.

    The path depends on the CPU type because machines with different CPUs may share a home directory, and a program that
    was compiled for another CPU may crash.

    Returns:
      The path, which need not exist yet.
    """
    import jax

    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "icl_gd" / f"jax-{jax.__version__}-{_cpu()}"


def _cpu() -> str:
    """A short hash of the processor: its architecture, model and instruction sets."""
    description = [platform.machine(), platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""  # not Linux
    for name in ("model name", "flags", "Features"):
        if line := re.search(rf"^{name}\s*:.*$", text, re.MULTILINE):
            description.append(line[0])
    return hashlib.sha256("\n".join(description).encode()).hexdigest()[:8]


def why_unusable(directory: Path) -> str | None:
    """The reason why the cache cannot use a directory. Creates the directory if it does not exist.

    Returns:
      The reason, or None if the directory is writable.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{directory}: {error.strerror}"
    return None if os.access(directory, os.W_OK | os.X_OK) else f"{directory}: is not writable"


def compile_quickly() -> None:
    """Sets XLA flags for faster compilation and slower programs on CPU. Call it before the first use of a device."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()


def use(directory: Path) -> None:
    """Stores every compiled program in a directory, and reuses programs that earlier processes stored there."""
    import jax

    # If an entry cannot be read or written (full disk, truncated file), JAX warns and compiles the program again.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class Cache:
    """The compilation cache of one run, enabled if its directory is writable.

    Attributes:
      hits: number of programs that the cache provided.
      requests: number of programs that were requested from the cache.
      directory: the directory of the cache; not set if JAX_ENABLE_COMPILATION_CACHE disables the cache.
      why_not: the reason why the cache is disabled, or None.
    """

    def __init__(self):
        import jax

        self.hits = self.requests = 0
        self.why_not: str | None = "disabled by JAX_ENABLE_COMPILATION_CACHE"
        if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
            return
        self.directory = cache_directory()
        self.why_not = why_unusable(self.directory)
        if self.why_not:
            jax.config.update("jax_enable_compilation_cache", False)  # if enabled, JAX would warn about every program
            return
        use(self.directory)
        jax.monitoring.register_event_listener(self._count)

    def close(self) -> None:
        """Stops counting programs."""
        import jax

        if self.why_not is None:
            jax.monitoring.unregister_event_listener(self._count)

    def _count(self, event: str, **_: object) -> None:
        self.hits += event == HITS
        self.requests += event == REQUESTS

    def __str__(self) -> str:
        if self.why_not:
            return f"compilation cache: none ({self.why_not})"
        return f"compilation cache: {self.hits} of {self.requests} programs reused ({self.directory})"
