"""What every field of a config accepts by itself; whether all of them agree, and fit the memory of this machine."""

import ctypes
import importlib.util
import math
import os
from collections.abc import Collection
from typing import Any

from ml_collections import ConfigDict

from experiments import sweeps
from experiments.agreement import ANALYSES, check_together
from experiments.bad_input import BadInput, check_word, reject
from experiments.defaults import base_config, flatten
from experiments.recipe_fields import MODIFICATIONS, RECIPES
from experiments.resources import BYTES_PER_FLOAT, memory_needed

# Placeholders, which may be None.
OPTIONAL = (
    *("task.rotation_seed", "task.pool", "task.function_pool", "reference.steps", "eval.suite_values"),
    *("model.d_head", "model.clip", "model.d_embed", "model.mlp_width"),
    *(f"model.{name}" for name in MODIFICATIONS),
)
WORDS = ("analyses", "eval.families", "eval.baselines")  # fields that are lists of them
REFERENCES = ("gd", "gd_plus_plus", "gd_plus_plus_free_steps", "gd_plus_plus_published")
STYLES = ("von_oswald", "gpt2")
COMPUTE = ("parameters", "float32", "bfloat16")
BASELINES = ("least_squares", "averaging", "nearest_3", "lasso", "network", "tree_4", "tree", "xgboost")
BESIDE = {"tree": "sklearn", "tree_4": "sklearn", "xgboost": "xgboost"}  # what baselines ask to be installed
BELOW_ONE = math.nextafter(1.0, 0.0)
LARGEST = 1e6  # of scales: moments of sixth order stay finite in float32
# What each field accepts: (lowest, highest, lowest is accepted). None stands for "no such bound".
NUMBERS: dict[str, tuple[float, float | None, bool]] = {
    "seeds": (1, None, True),
    "seed": (0, 2**31 - 1, True),
    "task.d_input": (1, None, True),
    "task.d_output": (1, None, True),
    "task.n_context": (1, None, True),
    "task.input_scale": (0, LARGEST, False),
    "task.weight_scale": (0, LARGEST, False),
    "task.noise_std": (0, LARGEST, True),
    "task.corrupted_labels": (0, None, True),
    "task.pool": (1, 2**31 - 1, True),
    "task.rotation_seed": (0, None, True),
    "task.function_pool": (1, 2**31 - 1, True),
    "task.non_zeros": (1, None, True),
    "task.hidden": (1, None, True),
    "task.depth": (1, 20, True),
    "task.eigenvalues": (0, LARGEST, False),
    "reference.steps": (1, None, True),
    "reference.published_steps": (1, None, True),
    "reference.learning_rate": (0, 1e30, False),
    "reference.step_size": (0, None, False),
    "model.n_layers": (1, None, True),
    "model.n_heads": (1, None, True),
    "model.d_head": (1, None, True),
    "model.d_embed": (1, None, True),
    "model.mlp_width": (1, None, True),
    "model.clip": (0, None, False),
    "model.init_scale": (0, LARGEST, False),
    "model.alpha": (-1, 1, True),
    "model.beta": (0, 1, True),
    "model.share": (0, 0.5, False),
    "model.augment_keys": (0, 1, True),
    "model.augment_values": (0, 1, True),
    "train.steps": (1, 2**31 - 1, True),
    "train.batch_size": (1, None, True),
    "train.learning_rate": (0, 1e30, False),
    "train.clip": (0, None, False),
    "train.beta1": (0, BELOW_ONE, True),
    "train.beta2": (0, BELOW_ONE, True),
    "train.epsilon": (0, None, False),
    "train.weight_decay": (0, None, True),
    "train.log_every": (1, None, True),
    "train.checkpoint_every": (1, None, True),
    "eval.prompts": (1, 10**9, True),
    "eval.curve_prompts": (1, None, True),
    "eval.suite_values": (1, None, True),
}


SIZES = (
    *("seeds", "task.d_input", "task.d_output", "task.n_context", "model.n_layers", "model.n_heads", "model.d_head"),
    *("model.d_embed", "model.mlp_width", "train.batch_size", "eval.curve_prompts"),
)
WHOLE = {
    *SIZES,
    *("seed", "task.rotation_seed", "task.corrupted_labels", "task.pool", "task.function_pool"),
    *("task.non_zeros", "task.hidden", "task.depth"),
    *("reference.steps", "reference.published_steps"),
    *("train.steps", "train.log_every", "train.checkpoint_every", "eval.prompts"),
    "eval.suite_values",
}


def validate(config: ConfigDict) -> None:
    """Checks every field by itself, then the fields against each other, then the memory they need.

    Raises:
      BadInput: at the first field that will not do.
    """
    fields = flatten(config)
    for field, value in fields.items():
        _check_sweep(field, value)
    for field, bounds in NUMBERS.items():
        for value in _each(fields[field]):
            if value is not None or field not in OPTIONAL:
                _check_number(field, value, *bounds)
    if any(not isinstance(claim, dict | ConfigDict) or "metric" not in claim for claim in config.claims):
        reject("claims", fields["claims"], "claims are written in config files; () is accepted")
    _check_words(config, fields)
    _check_rounded(config, fields)
    _check_combinations(config)
    for _, one in sweeps.in_turn(config):
        check_together(one)
        _check_memory(one)
    _check_words_of_the_package(fields)  # last: it imports JAX, which takes a second or more


def _each(value: Any) -> list:
    """The values of a field that may be swept over."""
    return value if isinstance(value, list) else [value]


def check_installed(config: ConfigDict) -> None:
    """Whether the libraries are there that baselines are of; not part of `validate`, which holds on any machine.

    Raises:
      BadInput: if one is not.
    """
    for name in config.eval.baselines:
        if name in BESIDE and importlib.util.find_spec(BESIDE[name]) is None:
            reject("eval.baselines", name, f"needs {BESIDE[name]}: pip install 'icl-gd[baselines]'")


def _check_sweep(field: str, value: Any) -> None:
    """A tuple where one value would do."""
    if not isinstance(value, list) or isinstance(flatten(base_config()).get(field, []), list):
        return
    if field not in sweeps.SWEPT:
        reject(field, tuple(value), f"takes one value; tuples are swept over in {', '.join(sweeps.SWEPT)}")
    if not value:
        reject(field, "()", "a sweep needs at least one value")
    if any(one in value[:i] for i, one in enumerate(value)):
        reject(field, tuple(value), "every value of a sweep is accepted once")


def _check_rounded(config: ConfigDict, fields: dict[str, Any]) -> None:
    """What is an array over members has the precision of the run: there .99999999 is 1, and 1e-50 is 0."""
    for field in sweeps.TOGETHER if config.precision == "float32" else ():
        for value in (value for value in _each(fields[field]) if value is not None):
            rounded = ctypes.c_float(value).value
            try:
                _check_number(field, rounded, *NUMBERS[field])
            except BadInput as error:
                raise BadInput(f"{field}={value} is {rounded} in float32, and {error}") from error


def _check_combinations(config: ConfigDict) -> None:
    if not RECIPES[config.recipe].sweeps and (several := sweeps.swept(config, sweeps.SWEPT)):
        field, values = next(iter(several.items()))
        reject(field, values, f"recipe={config.recipe} takes one value")
    for fields, most, what in ((sweeps.TOGETHER, 10**5, "combinations"), (sweeps.IN_TURN, 10**3, "populations")):
        counts = {field: len(values) for field, values in sweeps.swept(config, fields).items()}
        if math.prod(counts.values()) > most:
            shown = " x ".join(f"{count} of {field}" for field, count in counts.items())
            raise BadInput(f"{shown}: {math.prod(counts.values()):,} {what}; at most {most:,} are accepted in one run")


def _check_words(config: ConfigDict, fields: dict[str, Any]) -> None:
    words: dict[str, Collection[str]] = {
        "recipe": list(RECIPES),
        "precision": list(BYTES_PER_FLOAT),
        "model.layout": sorted({layout for takes in RECIPES.values() for layout in takes.layouts}),
        "model.style": STYLES,
        "model.compute": COMPUTE,
        "reference.learner": REFERENCES,
    }
    for field, accepted in words.items():
        for word in _each(fields[field]):
            check_word(field, word, accepted)
    takes, others = RECIPES[config.recipe], {task for takes in RECIPES.values() for task in takes.tasks}
    for word in _each(fields["task.name"]):
        if word not in others:  # those it says itself whose they are not
            check_word("task.name", word, takes.tasks)
    of_recipe = ANALYSES if takes.analyses is None else takes.analyses
    for field, accepted in (("analyses", of_recipe), ("eval.baselines", BASELINES)):
        for name in fields[field]:
            check_word(field, name, accepted)
    for field in WORDS:
        if len(set(fields[field])) < len(fields[field]):
            reject(field, tuple(fields[field]), "every word is accepted once; a flag that is given again adds words")


def _check_words_of_the_package(fields: dict[str, Any]) -> None:
    from icl_gd.tasks import FAMILIES, PROMPT_FAMILIES, PROMPT_SUITE
    from icl_gd.training.mesh import MODES
    from icl_gd.training.population import FORMS, SCHEDULES

    for word in _each(fields["task.inputs"]):
        check_word("task.inputs", word, list(FAMILIES))
    # Training predicts inputs to come.
    check_word("task.family", fields["task.family"], [name for name, its in PROMPT_FAMILIES.items() if its.in_order])
    for word in fields["eval.families"]:
        check_word("eval.families", word, list(PROMPT_SUITE))
    for field, accepted in (("schedule", SCHEDULES), ("form", FORMS), ("parallel", MODES)):
        check_word(f"train.{field}", fields[f"train.{field}"], accepted)


def _check_number(field: str, value: Any, low: float, high: float | None, inclusive: bool) -> None:
    wanted = f"must be {'at least' if inclusive else 'above'} {low}" + (
        "" if high is None else " and below 1" if high == BELOW_ONE else f" and at most {high:.10g}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        reject(field, value, f"not a number; {wanted}")
    if field in WHOLE and not isinstance(value, int):
        reject(field, value, f"not a whole number; {wanted}")
    if not math.isfinite(value):
        reject(field, value, f"not finite; {wanted}")
    if value < low or (value == low and not inclusive) or (high is not None and value > high):
        reject(field, value, wanted)


def _check_memory(config: ConfigDict) -> None:
    needed, there = memory_needed(config), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        fields = flatten(config)
        sizes = ", ".join(f"{field}={fields[field]}" for field in SIZES if fields[field] not in (None, 1))
        combinations = len(sweeps.together(config))
        sizes += f", or sweep over fewer than {combinations} combinations" * (combinations > 1)
        raise BadInput(
            f"these sizes need about {needed / 2**30:.3g} GiB, this machine has {there / 2**30:.3g}: lower {sizes}"
        )
