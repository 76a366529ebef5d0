"""Tasks: distributions of prompts. `task.sample(key)` draws one `Prompt`; `jax.vmap` over keys draws a batch."""

from icl_gd.tasks.elementwise import ELEMENTWISE, ElementwiseRegression
from icl_gd.tasks.families import PROMPT_DISTRIBUTIONS, PromptDistribution
from icl_gd.tasks.functions import (
    FUNCTIONS,
    Affine,
    Chebyshev,
    DecisionTree,
    FunctionClass,
    FunctionPool,
    Linear,
    Polynomial,
    Quadratic,
    ReLUNetwork,
    Signs,
    Sparse,
)
from icl_gd.tasks.linear import INPUT_DISTRIBUTIONS, LinearRegression
from icl_gd.tasks.nonlinear import SineRegression
from icl_gd.tasks.pools import FinitePool, FinitePrefixPool
from icl_gd.tasks.prompts import draw_prompts
from icl_gd.tasks.regression import FunctionRegression
from icl_gd.tasks.shifts import (
    SHIFTS,
    Shift,
    change_context,
    change_family,
    corrupt_labels,
    scale_inputs,
    scale_weights,
)
from icl_gd.tasks.suites import EVAL_SUITE
from icl_gd.tasks.tables import Table, standardised_table

__all__ = [
    "ELEMENTWISE",
    "EVAL_SUITE",
    "FUNCTIONS",
    "INPUT_DISTRIBUTIONS",
    "PROMPT_DISTRIBUTIONS",
    "SHIFTS",
    "Affine",
    "Chebyshev",
    "DecisionTree",
    "ElementwiseRegression",
    "FinitePool",
    "FinitePrefixPool",
    "FunctionClass",
    "FunctionPool",
    "FunctionRegression",
    "Linear",
    "LinearRegression",
    "Polynomial",
    "PromptDistribution",
    "Quadratic",
    "ReLUNetwork",
    "Shift",
    "Signs",
    "SineRegression",
    "Sparse",
    "Table",
    "change_context",
    "change_family",
    "corrupt_labels",
    "draw_prompts",
    "scale_inputs",
    "scale_weights",
    "standardised_table",
]
