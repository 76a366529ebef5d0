"""A strict test world without hardware: two CPU devices, no silent rank promotion, warnings are errors (pyproject).

Compiling is what the tests spend their time on, so it is made cheap: few optimisations, one thread a worker, and a
compilation cache of the tests' own that lies among pytest's (`--cache-clear` empties it).
"""

import os
import shutil

import typechecks  # noqa: F401 -- beside this file; first, as it checks what is imported from then on

# isort: split
import chex
import hypothesis
import jax
import pytest
from costs import Costs  # beside this file

from icl_gd.lab.lifecycle import compile_cache

# Before the first use of a device, here and in the processes that tests start.
compile_cache.compile_quickly()
os.environ.setdefault("NPROC", "1")  # XLA's threads: workers have a core each
# JAX's LAPACK calls wait for parts of themselves in the pool of threads they run in. On two cores, three batched solves
# that run at once wait for ever; one after another they do not.
os.environ["XLA_FLAGS"] += " --xla_cpu_enable_concurrency_optimized_scheduler=false"
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)

# For mutations.py: a failing example need not be made small.
hypothesis.settings.register_profile("first_failure", phases=[hypothesis.Phase.generate])

CACHE_BYTES = 2**30  # of programs; a larger cache is begun anew


def pytest_addoption(parser):
    parser.addoption("--costs", action="store_true", help="print what tests cost: seconds, and those of compiling")


def pytest_configure(config):
    if config.getoption("--costs"):
        config.pluginmanager.register(Costs())
    if not hasattr(config, "workerinput"):  # workers, and the processes that tests start, inherit it
        directory = config.cache.mkdir("programs") / compile_cache.cache_directory().name
        if sum(path.stat().st_size for path in directory.glob("*")) > CACHE_BYTES:
            shutil.rmtree(directory)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(directory)
    compile_cache.use(compile_cache.cache_directory())


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """A worker for every core that may be used, not for every core there is."""
    from icl_gd.cores import usable_cores

    return usable_cores()


@pytest.fixture
def x64():
    """The test runs in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _forget_programs():
    """Compiled programs go with the module that needed them.

    Each maps some tens of pieces of memory, and where a process has 65,530 of them (Linux's `vm.max_map_count`) XLA
    dies of a segmentation fault in the middle of compiling.
    """
    from icl_gd import programs

    yield
    programs.forget()


@pytest.fixture(autouse=True, scope="module")
def _quick_chunks(request):
    """Chunks of training compile as quickly as all else, but where a law is about their bits."""
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
    """`chex.assert_max_traces` counts by where a function is written: the traces of one test alone."""
    chex.clear_trace_counter()
