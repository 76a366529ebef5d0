"""A strict world without hardware: two CPU devices, no silent rank promotion, warnings are errors (pyproject).

Shapes and types in the package's annotations are checked at every call.
"""

import hypothesis
import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_disable_most_optimizations", True)  # compiling is what the tests spend their time on
jax.config.update("jax_enable_compilation_cache", False)  # what tests compile is not left in the user's cache

# For mutations.py: a failing example need not be made small.
hypothesis.settings.register_profile("first_failure", phases=[hypothesis.Phase.generate])

install_import_hook("icl_gd", "beartype.beartype").__enter__()  # before anything imports the package


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
    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def _no_rank_promotion():
    with jax.numpy_rank_promotion("raise"):
        yield
