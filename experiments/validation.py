"""What every field of a config accepts, by itself, beside the others, and for this machine's memory."""

from __future__ import annotations

import ctypes
import difflib
import importlib.util
import math
import os
from collections.abc import Collection
from typing import Any, NoReturn

from ml_collections import ConfigDict

from experiments import sweeps
from experiments.defaults import base_config
from experiments.recipe_fields import MODIFICATIONS, RECIPES, beside_linear
from experiments.resources import BYTES_PER_FLOAT, D_POSITIONS, memory_needed

ONE_LAYER_ONLY = ("weights", "rollout", "optimum")
LINEAR_ONLY = ("interpolation", *ONE_LAYER_ONLY)
DEEP_ONLY = ("layer_map", "curvature")
BY_LAYER = ("interpolation", *DEEP_ONLY)  # layer by layer against the reference, which then has as many steps
ANALYSES = (
    *("alignment", "standardised_tokens", "shifts", "tails", "by_steps", "copying", "softmax", "pool", "table"),
    *LINEAR_ONLY,
    *DEEP_ONLY,
)
# Placeholders, which may be None.
OPTIONAL = (
    *("task.rotation_seed", "task.pool", "task.function_pool", "reference.steps", "eval.suite_values"),
    *("model.d_head", "model.clip", "model.d_embed", "model.mlp_width"),
    *(f"model.{name}" for name in MODIFICATIONS),
)
DIABETES = (10, 1)  # d_input and d_output of the table that scikit-learn bundles
REFERENCES = ("gd", "gd_plus_plus", "gd_plus_plus_free_steps", "gd_plus_plus_published")
ATTENTION = ("linear", "softmax", "mixed")
STYLES = ("von_oswald", "gpt2")
COMPUTE = ("parameters", "float32", "bfloat16")
BASELINES = ("least_squares", "averaging", "nearest_3", "lasso", "network", "tree_4", "tree", "xgboost")
BESIDE = {"tree": "sklearn", "tree_4": "sklearn", "xgboost": "xgboost"}  # what baselines ask to be installed
RAMPS = {"train.active_inputs": "task.d_input", "train.active_points": "task.n_context + 1"}


class BadInput(Exception):
    """What the user asked for cannot be run; the message is one line that names the field and what would do."""


def nearest(word: str, names: Collection[str]) -> str:
    """What may have been meant, and what is accepted, as a message says it."""
    near = difflib.get_close_matches(word, list(names), 1, 0.5)
    return (f"did you mean {near[0]}? " if near else "") + f"accepted: {', '.join(names)}"


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"task.d_input": 10, ...}`, in the form JSON gives values back."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


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
        for value in fields[field] if isinstance(fields[field], list) else [fields[field]]:
            if value is not None or field not in OPTIONAL:
                _check_number(field, value, *bounds)
    if any(not isinstance(claim, dict | ConfigDict) or "metric" not in claim for claim in config.claims):
        _reject("claims", fields["claims"], "claims are written in config files; () is accepted")
    _check_words(config, fields)
    _check_rounded(config, fields)
    _check_combinations(config)
    for _, one in sweeps.in_turn(config):
        _check_together(one)
        _check_memory(one)
    _check_words_of_the_package(fields)  # last: it imports JAX, which takes a second or more


def check_installed(config: ConfigDict) -> None:
    """Whether the libraries are there that baselines are of; not part of `validate`, which holds on any machine.

    Raises:
      BadInput: if one is not.
    """
    for name in config.eval.baselines:
        if name in BESIDE and importlib.util.find_spec(BESIDE[name]) is None:
            _reject("eval.baselines", name, f"needs {BESIDE[name]}: pip install 'icl-gd[baselines]'")


def _check_sweep(field: str, value: Any) -> None:
    """A tuple where one value would do."""
    if not isinstance(value, list) or isinstance(flatten(base_config()).get(field, []), list):
        return
    if field not in sweeps.SWEPT:
        _reject(field, tuple(value), f"takes one value; tuples are swept over in {', '.join(sweeps.SWEPT)}")
    if not value:
        _reject(field, "()", "a sweep needs at least one value")
    if any(one in value[:i] for i, one in enumerate(value)):
        _reject(field, tuple(value), "every value of a sweep is accepted once")


def _check_rounded(config: ConfigDict, fields: dict[str, Any]) -> None:
    """What is an array over members has the precision of the run: there .99999999 is 1, and 1e-50 is 0."""
    for field in sweeps.TOGETHER if config.precision == "float32" else ():
        values = fields[field] if isinstance(fields[field], list) else [fields[field]]
        for value in (value for value in values if value is not None):
            rounded = ctypes.c_float(value).value
            try:
                _check_number(field, rounded, *NUMBERS[field])
            except BadInput as error:
                raise BadInput(f"{field}={value} is {rounded} in float32, and {error}") from error


def _check_combinations(config: ConfigDict) -> None:
    if not RECIPES[config.recipe].sweeps and (several := sweeps.swept(config, sweeps.SWEPT)):
        field, values = next(iter(several.items()))
        _reject(field, values, f"recipe={config.recipe} takes one value")
    for fields, most, what in ((sweeps.TOGETHER, 10**5, "combinations"), (sweeps.IN_TURN, 10**3, "populations")):
        counts = {field: len(values) for field, values in sweeps.swept(config, fields).items()}
        if math.prod(counts.values()) > most:
            shown = " x ".join(f"{count} of {field}" for field, count in counts.items())
            raise BadInput(f"{shown}: {math.prod(counts.values()):,} {what}; at most {most:,} are accepted in one run")


def _check_words(config: ConfigDict, fields: dict[str, Any]) -> None:
    words: dict[str, Collection[str]] = {
        "recipe": list(RECIPES),
        "precision": list(BYTES_PER_FLOAT),
        "task.name": sorted({task for takes in RECIPES.values() for task in takes.tasks}),
        "model.layout": sorted({layout for takes in RECIPES.values() for layout in takes.layouts}),
        "model.style": STYLES,
        "model.compute": COMPUTE,
        "reference.learner": REFERENCES,
    }
    for field, accepted in words.items():
        for word in fields[field] if isinstance(fields[field], list) else [fields[field]]:
            _check_word(field, word, accepted)
    of_recipe = RECIPES[config.recipe].analyses
    for field, accepted in (("analyses", ANALYSES if of_recipe is None else of_recipe), ("eval.baselines", BASELINES)):
        for name in fields[field]:
            _check_word(field, name, accepted)


def _check_words_of_the_package(fields: dict[str, Any]) -> None:
    from icl_gd.tasks import FAMILIES, PROMPT_FAMILIES, PROMPT_SUITE
    from icl_gd.training.mesh import MODES
    from icl_gd.training.population import FORMS, SCHEDULES

    inputs = fields["task.inputs"]
    for word in inputs if isinstance(inputs, list) else [inputs]:
        _check_word("task.inputs", word, list(FAMILIES))
    # Training predicts inputs to come.
    _check_word("task.family", fields["task.family"], [name for name, its in PROMPT_FAMILIES.items() if its.in_order])
    for word in fields["eval.families"]:
        _check_word("eval.families", word, list(PROMPT_SUITE))
    for field, accepted in (("schedule", SCHEDULES), ("form", FORMS), ("parallel", MODES)):
        _check_word(f"train.{field}", fields[f"train.{field}"], accepted)


def _check_word(field: str, value: Any, accepted: Collection[str]) -> None:
    if value not in accepted:
        _reject(field, value, nearest(str(value), accepted))


def _reject(field: str, value: Any, accepted: str) -> NoReturn:
    raise BadInput(f"{field}={value}: {accepted}")


def _check_number(field: str, value: Any, low: float, high: float | None, inclusive: bool) -> None:
    wanted = f"must be {'at least' if inclusive else 'above'} {low}" + (
        "" if high is None else " and below 1" if high == BELOW_ONE else f" and at most {high:.10g}"
    )
    if isinstance(value, bool) or not isinstance(value, int | float):
        _reject(field, value, f"not a number; {wanted}")
    if field in WHOLE and not isinstance(value, int):
        _reject(field, value, f"not a whole number; {wanted}")
    if not math.isfinite(value):
        _reject(field, value, f"not finite; {wanted}")
    if value < low or (value == low and not inclusive) or (high is not None and value > high):
        _reject(field, value, wanted)


def _check_task(config: ConfigDict) -> None:
    """Whether recipe, task and network belong together, and no field is changed that does nothing."""
    fields, default = flatten(config), flatten(base_config())
    takes, task = RECIPES[config.recipe], config.task.name
    for field, accepted in (("task.name", takes.tasks), ("model.layout", takes.layouts)):
        if fields[field] not in accepted:
            _reject(field, fields[field], f"contradicts recipe={config.recipe}, which takes {', '.join(accepted)}")
    for field in takes.idle_of(task):
        if fields[field] != (idle := [] if field == "analyses" else default[field]):
            shown = "()" if idle == [] else idle
            _reject(field, fields[field], f"does nothing for task.name={task}; leave it at {shown}")
    for field, value in takes.only.items():
        if fields[field] != value:
            _reject(field, fields[field], f"recipe={config.recipe} takes {value}")
    if config.recipe == "sine" and (config.model.d_embed is None or config.model.d_embed < 2):
        _reject("model.d_embed", config.model.d_embed, "recipe=sine takes at least 2: features, and a slot for y")
    if config.recipe == "function_classes":
        _check_functions(config)
    if config.recipe == "dual_models":
        _check_duals(config)


def _check_duals(config: ConfigDict) -> None:
    """Whether attention can be modified as asked, and has dual models that analyses can be asked of."""
    model, one_layer = config.model, ("random_features", "generalisation_gap")
    there = {f"model.{name}": model[name] for name in MODIFICATIONS if model[name] is not None}
    if model.style == "gpt2":
        _check_width(config)
        if model.reads_query:
            _reject("model.reads_query", True, "model.style=gpt2 is causal: every token reads itself as it is")
    _check_curriculum(config)
    for field in RAMPS:
        if flatten(config)[field] and model.style != "gpt2":
            _reject(field, tuple(flatten(config)[field]), "prefixes are learned by model.style=gpt2 alone; () for none")
    if model.layout != ("alternating" if model.style == "gpt2" else "concatenated"):
        _reject("model.layout", model.layout, f"contradicts model.style={model.style}, which takes the other")
    if there and model.style != "gpt2" and not model.reads_query:
        field, value = next(iter(there.items()))
        _reject(field, value, "tells the query from demonstrations that are read: it needs model.reads_query=True")
    if (model.beta is None) != (model.share is None):
        _reject("model.beta", model.beta, f"model.share={model.share}: negative samples take both, or neither is given")
    if there and config.train.weight_decay != 0.0:
        _reject("train.weight_decay", config.train.weight_decay, f"would shrink {', '.join(there)} too; 0 is accepted")
    kinds = {word.strip() for word in model.attention.split(",")}
    if config.analyses and kinds not in ({"softmax"}, {"linear"}):
        _reject("model.attention", model.attention, "dual models are of softmax attention, or all of linear attention")
    if asked := [name for name in config.analyses if name in one_layer]:
        if model.style != "von_oswald":
            _reject("model.style", model.style, f"analyses={','.join(asked)} is of tokens (x, y); von_oswald")
        if config.eval.suite_values is not None and config.eval.suite_values < 2:
            _reject(
                "eval.suite_values", config.eval.suite_values, f"analyses={','.join(asked)} fits slopes; at least 2"
            )
        if kinds != {"softmax"} and "random_features" in asked:
            _reject("model.attention", model.attention, "analyses=random_features is of the kernel of softmax")


def _check_width(config: ConfigDict) -> None:
    model = config.model
    if model.d_embed is None or model.d_embed % model.n_heads:
        accepted = f"a width that model.n_heads={model.n_heads} divides: heads share it"
        _reject("model.d_embed", model.d_embed, accepted)


def _check_functions(config: ConfigDict) -> None:
    """Whether there are such functions, and such a network for them."""
    task = config.task
    if task.name == "sparse" and task.non_zeros > task.d_input:
        _reject("task.non_zeros", task.non_zeros, f"at most task.d_input={task.d_input}")
    if task.name == "signs":
        if task.noise_std:
            _reject("task.noise_std", task.noise_std, "labels of task.name=signs are classes, without noise; 0")
        if "noisy" in config.eval.families:
            _reject("eval.families", "noisy", "labels of task.name=signs are classes, without noise; leave it out")
    _check_width(config)
    if task.pool is not None and task.function_pool is not None:
        _reject("task.function_pool", task.function_pool, "prompts of task.pool have their functions; give one of both")
    if config.eval.baselines and not config.eval.families:
        _reject("eval.families", (), "baselines are measured on families of prompts; give some, as ('standard',)")
    _check_curriculum(config)


def _check_curriculum(config: ConfigDict) -> None:
    task = config.task
    for field, most in RAMPS.items():
        ramp = flatten(config)[field]
        end = task.d_input if field == "train.active_inputs" else task.n_context + 1
        if not ramp:
            continue
        whole = len(ramp) == 3 and all(type(value) is int and value >= 1 for value in ramp)
        if not whole or ramp[0] > end:
            accepted = f"three whole numbers of at least 1, the first at most {most}={end}, or () for none"
            _reject(field, tuple(ramp), accepted)


def _check_together(config: ConfigDict) -> None:
    task, model = config.task, config.model
    _check_task(config)
    layers = [word.strip() for word in model.attention.split(",")]
    if not set(layers) <= set(ATTENTION) or len(layers) not in (1, model.n_layers):
        accepted = f"one word or one per layer ({model.n_layers}); accepted: {', '.join(ATTENTION)}"
        _reject("model.attention", model.attention, accepted)
    if model.shared and len(set(layers)) > 1:
        _reject("model.attention", model.attention, "contradicts model.shared=True: shared weights are of one kind")
    if model.layer_norm and model.n_layers == 1 and not model.shared:
        _reject(
            "model.layer_norm", True, "leaves the first of separate layers alone; one layer needs model.shared=True"
        )
    if task.eigenvalues and len(task.eigenvalues) != task.d_input:
        _reject(
            "task.eigenvalues", task.eigenvalues, f"has {len(task.eigenvalues)} values, task.d_input={task.d_input}"
        )
    if task.rotation_seed is not None and not task.eigenvalues:
        _reject(
            "task.rotation_seed", task.rotation_seed, "rotates a covariance: give task.eigenvalues, or leave it None"
        )
    apart, most = model.layout != "concatenated", min(task.d_input, D_POSITIONS)
    if model.layout == "interleaved" and task.d_output > most:
        _reject(
            "task.d_output", task.d_output,
            f"interleaved tokens hold y in the place of x and read it from that of the position; at most {most}, the "
            f"smaller of task.d_input and {D_POSITIONS}, or model.layout=concatenated",
        )  # fmt: skip
    if task.corrupted_labels > task.n_context:
        _reject("task.corrupted_labels", task.corrupted_labels, f"at most task.n_context={task.n_context} labels are "
                "there to corrupt")  # fmt: skip
    several = (config.reference.steps or model.n_layers) > 1 or config.reference.learner != "gd"
    if task.corrupted_labels and several:
        _reject("task.corrupted_labels", task.corrupted_labels, "best rates of several steps and of GD++ are known for "
                "labels as they are; 0, or reference.learner=gd and reference.steps=1")  # fmt: skip
    _check_analyses(config)
    beside = beside_linear(config)
    if config.train.form == "moments" and beside:
        shown = ", ".join(f"{field}={value}" for field, value in beside.items())
        _reject("train.form", "moments", f"is exact for linear layers alone; {shown} needs auto or tokens")
    if config.reference.learner != "gd" and model.n_layers == 1:
        _reject("reference.learner", config.reference.learner, "GD++ is for deep networks; model.n_layers=1 needs gd")
    if config.seed + config.seeds > 2**32:
        _reject("seeds", config.seeds, f"seed + seeds must stay below 2^32 (seed={config.seed})")
    steps = config.reference.steps
    one_step = ONE_LAYER_ONLY if steps != 1 else ()
    of_tokens = lambda field: ("curvature",) if field == "model.d_embed" else ()  # of inputs where the layout put them
    needs = {
        "model.n_layers": [a for a in config.analyses if a in (DEEP_ONLY if model.n_layers == 1 else ONE_LAYER_ONLY)],
        "reference.steps": [a for a in config.analyses if a in ((*BY_LAYER, *one_step) if steps is not None else ())],
        "model.n_heads": [a for a in config.analyses if a == "interpolation" and model.n_heads > 1],
        **{field: [a for a in config.analyses if a in (*LINEAR_ONLY, *of_tokens(field))] for field in beside},
        "model.layout": [a for a in config.analyses if a in ((*LINEAR_ONLY, *DEEP_ONLY) if apart else ("copying",))],
        "task.inputs": [a for a in config.analyses if a == "optimum" and task.inputs != "normal"],
    }
    for field, analyses in needs.items():
        if analyses:
            if field == "task.inputs":
                _check_words_of_the_package(flatten(config))  # it may just be misspelt
            value = flatten(config)[field]
            left = tuple(a for a in config.analyses if a not in analyses)
            _reject(
                field, value, f"contradicts analyses={','.join(analyses)}; drop those, as in --config.analyses={left}"
            )


def _check_analyses(config: ConfigDict) -> None:
    """Whether the population is one that its analyses can be asked of."""
    task, model, analyses = config.task, config.model, config.analyses
    if "softmax" in analyses:
        wanted = {"n_layers": 1, "attention": "softmax", "layer_norm": False, "normalised": False, "clip": None,
                  "d_embed": None, "mlp_width": None}  # fmt: skip
        for name, value in wanted.items():
            if model[name] != value:
                _reject(f"model.{name}", model[name], f"analyses=softmax is of one softmax layer and needs {value}")
        if task.n_context < 2:
            _reject("task.n_context", task.n_context, "analyses=softmax takes the context's mean away; at least 2")
    if "pool" in analyses and task.pool is None:
        _reject("task.pool", None, "analyses=pool asks about the prompts of a pool; give its size")
    if "optimum" in analyses and task.corrupted_labels:
        _reject("task.corrupted_labels", task.corrupted_labels, "analyses=optimum is of labels as they are, with 0")
    if "table" in analyses:
        for name, value in zip(("d_input", "d_output"), DIABETES, strict=True):
            if task[name] != value:
                _reject(f"task.{name}", task[name], f"analyses=table is of the diabetes data, which has {value}")
        if importlib.util.find_spec("sklearn") is None:
            _reject("analyses", "table", "needs scikit-learn: pip install 'icl-gd[baselines]'")


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
