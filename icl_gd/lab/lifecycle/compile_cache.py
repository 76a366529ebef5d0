"""JAX's persistent compilation cache: where it lies, and how much of a run came from it.

Compiling is most of a short run, and a run that is resumed compiles the same programs again.
`JAX_COMPILATION_CACHE_DIR` moves the cache, `JAX_ENABLE_COMPILATION_CACHE=false` goes without.
"""

import hashlib
import os
import platform
import re
import warnings
from pathlib import Path

LEAST_SECONDS = 0.0  # of compilation: the many small programs of a run together take longer than its large ones
HITS, REQUESTS = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_requests_use_cache"


def cache_directory() -> Path:
    """The user's choice, or a directory for this very kind of machine and version of JAX.

    Programs compiled for another CPU may crash, and a home directory may be shared by several.
    """
    import jax

    if chosen := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "icl_gd" / f"jax-{jax.__version__}-{_cpu()}"


def _cpu() -> str:
    """A short hash of the processor: its architecture, model and instruction sets."""
    described = [platform.machine(), platform.processor()]
    try:
        text = Path("/proc/cpuinfo").read_text()
        described += [found[0] for name in ("model name", "flags", "Features") if (found := _field(name, text))]
    except OSError:
        pass  # not Linux
    return hashlib.sha256("\n".join(described).encode()).hexdigest()[:8]


def _field(name: str, text: str) -> re.Match[str] | None:
    return re.search(rf"^{name}\s*:.*$", text, re.MULTILINE)


def why_unusable(directory: Path) -> str | None:
    """Why no cache can be kept in a directory (made if need be); None if one can."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return f"{directory}: {error.strerror}"
    return None if os.access(directory, os.W_OK | os.X_OK) else f"{directory}: cannot be written"


def compile_quickly() -> None:
    """Makes XLA's code for CPUs cheap to compile, and slower: before the first use of a device."""
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_use_fusion_emitters" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_use_fusion_emitters=false".strip()


def use(directory: Path) -> None:
    """Keeps every compiled program in a directory, and takes from there what an earlier process left."""
    import jax

    # What cannot be read or written later (a full disk, an entry cut short) is compiled, which loses time alone.
    warnings.filterwarnings("ignore", message=".*persistent compilation cache entry")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST_SECONDS)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


class Cache:
    """The compilation cache of one run, switched on where it can be, with a count of what came from it."""

    def __init__(self):
        import jax

        self.hits = self.requests = 0
        self.why_not: str | None = "switched off by JAX_ENABLE_COMPILATION_CACHE"
        if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
            return
        self.directory = cache_directory()
        self.why_not = why_unusable(self.directory)
        if self.why_not:
            jax.config.update("jax_enable_compilation_cache", False)  # or JAX warns of every program
            return
        use(self.directory)
        jax.monitoring.register_event_listener(self._count)

    def close(self) -> None:
        """Ends the count."""
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
