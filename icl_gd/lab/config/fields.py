"""What every field of a config accepts by itself, as annotations: those of the library's classes, and a run's own.

A field that takes a tuple accepts each of its values.
"""

from collections.abc import Iterable
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from icl_gd.lab.config.recipe_fields import RECIPES
from icl_gd.lab.config.resources import BYTES_PER_FLOAT
from icl_gd.models.config import COMPUTE, TransformerConfig
from icl_gd.schema import LARGEST, OneOf, PoolSize, Seed, Size, hints
from icl_gd.tasks import PROMPT_FAMILIES, PROMPT_SUITE, LinearRegression
from icl_gd.tasks.functions import DecisionTree, ReLUNetwork, Sparse
from icl_gd.training import TrainSettings
from icl_gd.training.mesh import MODES

REFERENCES = ("gd", "gd_plus_plus", "gd_plus_plus_free_steps", "gd_plus_plus_published")
BASELINES = ("least_squares", "averaging", "nearest_3", "lasso", "network", "tree_4", "tree", "xgboost")


_LAYOUTS = {layout for takes in RECIPES.values() for layout in takes.layouts}
# What the config of a model has no field for, or a field of another kind.
_ELSEWHERE = ("d_token", "attention", "init", "causal", "pre_norm", "layer_mlp_width", "biases", "n_positions",
              "d_read_out")  # fmt: skip


def _word(words: Iterable[str]) -> Any:
    return Annotated[str, OneOf(tuple(words))]


def _or_none(hint: Any) -> Any:
    return hint | None


def _of(section: str, its: type, without: tuple[str, ...]) -> dict[str, Any]:
    """The annotations of a class of the library, as fields of a section."""
    return {f"{section}.{name}": hint for name, hint in hints(its).items() if name not in without}


# Of every field but those that are checked with their recipe.
ANNOTATIONS: dict[str, Any] = {
    "recipe": _word(RECIPES),
    "seeds": Size,
    "seed": Seed,
    "precision": _word(BYTES_PER_FLOAT),
    **_of("task", LinearRegression, ("covariance",)),
    "task.eigenvalues": Annotated[float, Gt(0), Le(LARGEST)],
    "task.rotation_seed": _or_none(Annotated[int, Ge(0)]),
    "task.pool": _or_none(PoolSize),
    "task.faithful": bool,
    # Training predicts inputs to come.
    "task.family": _word(name for name, its in PROMPT_FAMILIES.items() if its.in_order),
    "task.function_pool": _or_none(PoolSize),
    "task.non_zeros": hints(Sparse)["non_zeros"],
    "task.hidden": hints(ReLUNetwork)["hidden"],
    "task.depth": hints(DecisionTree)["depth"],
    "reference.learner": _word(REFERENCES),
    "reference.steps": _or_none(Size),
    "reference.learning_rate": Annotated[float, Gt(0), Le(1e30)],
    "reference.step_size": Annotated[float, Gt(0)],
    "reference.published_steps": Size,
    **_of("model", TransformerConfig, _ELSEWHERE),
    "model.layout": _word(sorted(_LAYOUTS)),
    "model.style": _word(("von_oswald", "gpt2")),
    "model.compute": _word(("parameters", *COMPUTE)),
    **_of("train", TrainSettings, ("curriculum",)),
    "train.parallel": _word(MODES),
    "train.log_every": Size,
    "train.checkpoint_every": Size,
    "eval.prompts": Annotated[int, Ge(1), Le(10**9)],
    "eval.curve_prompts": Size,
    "eval.families": _word(PROMPT_SUITE),
    "eval.baselines": _word(BASELINES),
    "eval.suite_values": _or_none(Size),
}  # fmt: skip
