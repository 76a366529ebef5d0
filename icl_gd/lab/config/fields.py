"""What every field of a config accepts by itself, as annotations: those of the library's classes, and a run's own.

A field that takes a tuple accepts each of its values.
"""

from functools import cache
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from icl_gd.lab.config.recipe_fields import RECIPES
from icl_gd.lab.config.resources import BYTES_PER_FLOAT

REFERENCES = ("gd", "gd_plus_plus", "gd_plus_plus_free_steps", "gd_plus_plus_published")
BASELINES = ("least_squares", "averaging", "nearest_3", "lasso", "network", "tree_4", "tree", "xgboost")


@cache
def annotations() -> dict[str, Any]:
    """The annotation of every field but those that are checked with their recipe. Imports JAX, which takes a second."""
    from icl_gd.models.config import COMPUTE, TransformerConfig
    from icl_gd.schema import LARGEST, OneOf, PoolSize, Seed, Size, hints
    from icl_gd.tasks import PROMPT_FAMILIES, PROMPT_SUITE, LinearRegression
    from icl_gd.tasks.functions import DecisionTree, ReLUNetwork, Sparse
    from icl_gd.training import TrainSettings
    from icl_gd.training.mesh import MODES

    word = lambda words: Annotated[str, OneOf(tuple(words))]
    or_none = lambda hint: hint | None
    layouts = {layout for takes in RECIPES.values() for layout in takes.layouts}
    of = lambda section, its, without: {
        f"{section}.{name}": hint for name, hint in hints(its).items() if name not in without
    }
    elsewhere = ("d_token", "attention", "init", "causal", "pre_norm", "layer_mlp_width", "biases", "n_positions",
                 "d_read_out")  # fmt: skip
    return {
        "recipe": word(RECIPES),
        "seeds": Size,
        "seed": Seed,
        "precision": word(BYTES_PER_FLOAT),
        **of("task", LinearRegression, ("covariance",)),
        "task.eigenvalues": Annotated[float, Gt(0), Le(LARGEST)],
        "task.rotation_seed": or_none(Annotated[int, Ge(0)]),
        "task.pool": or_none(PoolSize),
        "task.faithful": bool,
        # Training predicts inputs to come.
        "task.family": word(name for name, its in PROMPT_FAMILIES.items() if its.in_order),
        "task.function_pool": or_none(PoolSize),
        "task.non_zeros": hints(Sparse)["non_zeros"],
        "task.hidden": hints(ReLUNetwork)["hidden"],
        "task.depth": hints(DecisionTree)["depth"],
        "reference.learner": word(REFERENCES),
        "reference.steps": or_none(Size),
        "reference.learning_rate": Annotated[float, Gt(0), Le(1e30)],
        "reference.step_size": Annotated[float, Gt(0)],
        "reference.published_steps": Size,
        **of("model", TransformerConfig, elsewhere),
        "model.layout": word(sorted(layouts)),
        "model.style": word(("von_oswald", "gpt2")),
        "model.compute": word(("parameters", *COMPUTE)),
        **of("train", TrainSettings, ("curriculum",)),
        "train.parallel": word(MODES),
        "train.log_every": Size,
        "train.checkpoint_every": Size,
        "eval.prompts": Annotated[int, Ge(1), Le(10**9)],
        "eval.curve_prompts": Size,
        "eval.families": word(PROMPT_SUITE),
        "eval.baselines": word(BASELINES),
        "eval.suite_values": or_none(Size),
    }  # fmt: skip
