"""Settings of all tests: two CPU devices, no implicit rank promotion; warnings are errors (pyproject.toml).

Tests spend most of their time on compilation, so it is made cheap: few optimisations, one XLA thread per worker, and a
separate compilation cache inside pytest's cache directory (`--cache-clear` empties it).
"""

import gc
import os
import shutil

import typechecks  # noqa: F401 -- from this directory; first, because it only checks modules imported after it

# isort: split
import chex
import hypothesis
import jax
import pytest
from costs import Costs  # from this directory

from icl_gd.lab.lifecycle import compile_cache

# These settings must precede the first use of a device. Environment variables also reach the processes of tests.
compile_cache.compile_quickly()
os.environ.setdefault("NPROC", "1")  # one XLA thread per worker, because every worker has one core
# A batched LAPACK call of JAX runs in a thread pool and waits for tasks in the same pool. On two cores, three batched
# solves at the same time therefore deadlock. Without this scheduler, XLA runs them one after another.
os.environ["XLA_FLAGS"] += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
# XLA otherwise splits a program into many parts, to compile them on many threads. One part costs less.
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)
# Tracing makes millions of objects that live as long as their program. Visit them less often than by default.
gc.set_threshold(50_000, 20, 20)

# For mutations.py: Hypothesis does not shrink failing examples.
hypothesis.settings.register_profile("first_failure", phases=[hypothesis.Phase.generate])

CACHE_BYTES = 2**30  # a larger compilation cache is deleted


def pytest_addoption(parser):
    parser.addoption("--costs", action="store_true", help="print the seconds of tests, and of their compilation")


def pytest_configure(config):
    if config.getoption("--costs"):
        config.pluginmanager.register(Costs())
    if not hasattr(config, "workerinput"):  # not a worker: workers and the processes of tests inherit the variable
        directory = config.cache.mkdir("programs") / compile_cache.cache_directory().name
        if sum(path.stat().st_size for path in directory.glob("*")) > CACHE_BYTES:
            shutil.rmtree(directory)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    compile_cache.use(compile_cache.cache_directory())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """One worker per usable core, instead of one per core of the machine."""
    from icl_gd.cores import usable_cores

    return usable_cores()


@pytest.fixture
def x64():
    """Runs the test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Drops the compiled programs of a module after its last test.

    Each program maps some tens of memory regions. A process can have 65,530 of them (Linux's `vm.max_map_count`); if it
    needs more, XLA crashes with a segmentation fault during compilation.
    """
    from icl_gd import programs

    yield
    programs.clear_caches()


@pytest.fixture(autouse=True, scope="module")
def _quick_chunks(request):
    """Compiles training chunks with few optimisations, unless the tests of a module compare bits (TO_THE_BIT)."""
    from icl_gd.training import population

    with pytest.MonkeyPatch.context() as patch:
        if not getattr(request.module, "TO_THE_BIT", False):
            patch.setattr(population, "TO_THE_BIT", {})
        yield


@pytest.fixture(autouse=True)
def _no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield


@pytest.fixture(autouse=True)
def _no_traces():
    """Resets the counts of `chex.assert_max_traces`, which otherwise include the traces of earlier tests."""
    chex.clear_trace_counter()
