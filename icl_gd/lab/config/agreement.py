"""Whether the fields of a config agree: with its recipe and task, among each other, and with its analyses."""

import importlib.util
from typing import Any

from icl_gd.lab.config.asked import Config
from icl_gd.lab.config.bad_input import reject
from icl_gd.lab.config.defaults import base_config, flatten
from icl_gd.lab.config.recipe_fields import MODIFICATIONS, RECIPES, beside_linear
from icl_gd.lab.config.resources import D_POSITIONS

ONE_LAYER_ONLY = ("weights", "rollout", "optimum")
LINEAR_ONLY = ("interpolation", *ONE_LAYER_ONLY)
DEEP_ONLY = ("layer_map", "curvature")
BY_LAYER = ("interpolation", *DEEP_ONLY)  # layer by layer against the reference, which then has as many steps
ANALYSES = (
    *("alignment", "standardised_tokens", "shifts", "tails", "by_steps", "copying", "softmax", "pool", "table"),
    *LINEAR_ONLY,
    *DEEP_ONLY,
)
DIABETES = (10, 1)  # d_input and d_output of the table that scikit-learn bundles
ATTENTION = ("linear", "softmax", "mixed")
RAMPS = {"train.active_inputs": "task.d_input", "train.active_points": "task.n_context + 1"}


def _check_task(config: Config) -> None:
    """Whether recipe, task and network belong together, and no field is changed that does nothing."""
    fields, default = flatten(config), flatten(base_config())
    takes, task = RECIPES[config.recipe], config.task.name
    for field, accepted in (("task.name", takes.tasks), ("model.layout", takes.layouts)):
        if fields[field] not in accepted:
            reject(field, fields[field], f"contradicts recipe={config.recipe}, which takes {', '.join(accepted)}")
    for field in takes.idle_of(task):
        if fields[field] != (idle := [] if field == "analyses" else default[field]):
            asked, idle = (tuple(value) if isinstance(value, list) else value for value in (fields[field], idle))
            reject(field, asked, f"does nothing for recipe={config.recipe}, task.name={task}; leave it at {idle}")
    for field, value in takes.only.items():
        if fields[field] != value:
            reject(field, fields[field], f"recipe={config.recipe} takes {value}")
    if config.recipe == "sine" and (config.model.d_embed is None or config.model.d_embed < 2):
        reject("model.d_embed", config.model.d_embed, "recipe=sine takes at least 2: features, and a slot for y")
    if config.recipe == "function_classes":
        _check_functions(config)
    if config.recipe == "dual_models":
        _check_duals(config)


def _check_duals(config: Config) -> None:
    """Whether attention can be modified as asked, and has dual models that analyses can be asked of."""
    model, one_layer = config.model, ("random_features", "generalisation_gap")
    there = {f"model.{name}": model[name] for name in MODIFICATIONS if model[name] is not None}
    if model.style == "gpt2":
        _check_width(config)
        if model.reads_query:
            reject("model.reads_query", True, "model.style=gpt2 is causal: every token reads itself as it is")
    _check_curriculum(config)
    for field in RAMPS:
        if flatten(config)[field] and model.style != "gpt2":
            reject(field, tuple(flatten(config)[field]), "prefixes are learned by model.style=gpt2 alone; () for none")
    if model.layout != ("alternating" if model.style == "gpt2" else "concatenated"):
        reject("model.layout", model.layout, f"contradicts model.style={model.style}, which takes the other")
    if there and model.style != "gpt2" and not model.reads_query:
        field, value = next(iter(there.items()))
        reject(field, value, "tells the query from demonstrations that are read: it needs model.reads_query=True")
    if (model.beta is None) != (model.share is None):
        reject("model.beta", model.beta, f"model.share={model.share}: negative samples take both, or neither is given")
    if there and config.train.weight_decay != 0.0:
        reject("train.weight_decay", config.train.weight_decay, f"would shrink {', '.join(there)} too; 0 is accepted")
    kinds = {word.strip() for word in model.attention.split(",")}
    if config.analyses and kinds not in ({"softmax"}, {"linear"}):
        reject("model.attention", model.attention, "dual models are of softmax attention, or all of linear attention")
    if asked := [name for name in config.analyses if name in one_layer]:
        if model.style != "von_oswald":
            reject("model.style", model.style, f"analyses={','.join(asked)} is of tokens (x, y); von_oswald")
        if config.eval.suite_values is not None and config.eval.suite_values < 2:
            reject("eval.suite_values", config.eval.suite_values, f"analyses={','.join(asked)} fits slopes; at least 2")
        if kinds != {"softmax"} and "random_features" in asked:
            reject("model.attention", model.attention, "analyses=random_features is of the kernel of softmax")


def _check_width(config: Config) -> None:
    model = config.model
    if model.d_embed is None or model.d_embed % model.n_heads:
        accepted = f"a width that model.n_heads={model.n_heads} divides: heads share it"
        reject("model.d_embed", model.d_embed, accepted)


def _check_functions(config: Config) -> None:
    """Whether there are such functions, and such a network for them."""
    task = config.task
    if task.name == "sparse" and task.non_zeros > task.d_input:
        reject("task.non_zeros", task.non_zeros, f"at most task.d_input={task.d_input}")
    if task.name == "signs":
        if task.noise_std:
            reject("task.noise_std", task.noise_std, "labels of task.name=signs are classes, without noise; 0")
        if "noisy" in config.eval.families:
            reject("eval.families", "noisy", "labels of task.name=signs are classes, without noise; leave it out")
    _check_width(config)
    if task.pool is not None and task.function_pool is not None:
        reject("task.function_pool", task.function_pool, "prompts of task.pool have their functions; give one of both")
    if config.eval.baselines and not config.eval.families:
        reject("eval.families", (), "baselines are measured on families of prompts; give some, as ('standard',)")
    _check_curriculum(config)


def _check_curriculum(config: Config) -> None:
    task = config.task
    for field, most in RAMPS.items():
        ramp = flatten(config)[field]
        end = task.d_input if field == "train.active_inputs" else task.n_context + 1
        if not ramp:
            continue
        whole = len(ramp) == 3 and all(type(value) is int and value >= 1 for value in ramp)
        if not whole or ramp[0] > end:
            accepted = f"three whole numbers of at least 1, the first at most {most}={end}, or () for none"
            reject(field, tuple(ramp), accepted)


def check_together(config: Config) -> None:
    """Checks fields against each other, each of them right by itself and none a tuple to sweep over.

    Raises:
      BadInput: at the first that contradicts another.
    """
    task, model = config.task, config.model
    _check_task(config)
    layers = [word.strip() for word in model.attention.split(",")]
    if not set(layers) <= set(ATTENTION) or len(layers) not in (1, model.n_layers):
        accepted = f"one word or one per layer ({model.n_layers}); accepted: {', '.join(ATTENTION)}"
        reject("model.attention", model.attention, accepted)
    if model.shared and len(set(layers)) > 1:
        reject("model.attention", model.attention, "contradicts model.shared=True: shared weights are of one kind")
    if model.layer_norm and model.n_layers == 1 and not model.shared:
        reject("model.layer_norm", True, "leaves the first of separate layers alone; one layer needs model.shared=True")
    if task.eigenvalues and len(task.eigenvalues) != task.d_input:
        reject("task.eigenvalues", task.eigenvalues, f"has {len(task.eigenvalues)} values, task.d_input={task.d_input}")
    if task.rotation_seed is not None and not task.eigenvalues:
        reject(
            "task.rotation_seed", task.rotation_seed, "rotates a covariance: give task.eigenvalues, or leave it None"
        )
    most = min(task.d_input, D_POSITIONS)
    if model.layout == "interleaved" and task.d_output > most:
        reject(
            "task.d_output", task.d_output,
            f"interleaved tokens hold y in the place of x and read it from that of the position; at most {most}, the "
            f"smaller of task.d_input and {D_POSITIONS}, or model.layout=concatenated",
        )  # fmt: skip
    if task.corrupted_labels > task.n_context:
        reject("task.corrupted_labels", task.corrupted_labels, f"at most task.n_context={task.n_context} labels are "
                "there to corrupt")  # fmt: skip
    several = (config.reference.steps or model.n_layers) > 1 or config.reference.learner != "gd"
    if task.corrupted_labels and several:
        reject("task.corrupted_labels", task.corrupted_labels, "best rates of several steps and of GD++ are known for "
                "labels as they are; 0, or reference.learner=gd and reference.steps=1")  # fmt: skip
    _check_analyses(config)
    beside = beside_linear(config)
    if config.train.form == "moments" and beside:
        shown = ", ".join(f"{field}={value}" for field, value in beside.items())
        reject("train.form", "moments", f"is exact for linear layers alone; {shown} needs auto or tokens")
    if config.train.form == "query" and (model.n_layers > 1 or model.style == "gpt2"):
        reject("train.form", "query", "is exact for one layer of attention alone; model.n_layers=1 and "
               "model.style=von_oswald, or train.form=auto")  # fmt: skip
    if config.reference.learner != "gd" and model.n_layers == 1:
        reject("reference.learner", config.reference.learner, "GD++ is for deep networks; model.n_layers=1 needs gd")
    if config.seed + config.seeds > 2**32:
        reject("seeds", config.seeds, f"seed + seeds must stay below 2^32 (seed={config.seed})")
    _check_needs(config, beside)


def _check_needs(config: Config, beside: dict[str, Any]) -> None:
    """Whether analyses are of such networks; `beside` are the fields by which these are not linear layers alone."""
    task, model, apart = config.task, config.model, config.model.layout != "concatenated"
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
            value = flatten(config)[field]
            left = tuple(a for a in config.analyses if a not in analyses)
            reject(
                field, value, f"contradicts analyses={','.join(analyses)}; drop those, as in --config.analyses={left}"
            )


def _check_analyses(config: Config) -> None:
    """Whether the population is one that its analyses can be asked of."""
    task, model, analyses = config.task, config.model, config.analyses
    if "softmax" in analyses:
        wanted = {"n_layers": 1, "attention": "softmax", "layer_norm": False, "normalised": False, "clip": None,
                  "d_embed": None, "mlp_width": None}  # fmt: skip
        for name, value in wanted.items():
            if model[name] != value:
                reject(f"model.{name}", model[name], f"analyses=softmax is of one softmax layer and needs {value}")
        if task.n_context < 2:
            reject("task.n_context", task.n_context, "analyses=softmax takes the context's mean away; at least 2")
    if "pool" in analyses and task.pool is None:
        reject("task.pool", None, "analyses=pool asks about the prompts of a pool; give its size")
    if "optimum" in analyses and task.corrupted_labels:
        reject("task.corrupted_labels", task.corrupted_labels, "analyses=optimum is of labels as they are, with 0")
    if "table" in analyses:
        for name, value in zip(("d_input", "d_output"), DIABETES, strict=True):
            if task[name] != value:
                reject(f"task.{name}", task[name], f"analyses=table is of the diabetes data, which has {value}")
        if importlib.util.find_spec("sklearn") is None:
            reject("analyses", "table", "needs scikit-learn: pip install 'icl-gd[baselines]'")
