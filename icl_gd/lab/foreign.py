"""Reads configs of other codebases (foreign configs), and translates their names to fields of an experiment.

Each codebase has a table from its names to fields. The tables serve three purposes: they convert configs, they provide
hints for unknown names on the command line, and docs/coming_from.md lists them. A foreign config becomes a built-in
config with changed fields. The codebases are:

* Garg et al. (2208.01066), github.com/dtsip/in-context-learning: a YAML file, with `inherit`;
* von Oswald et al. (2212.07677), github.com/google-research/self-organising-systems, transformers_learn_icl_by_gd: the
  ConfigDict of `src/config.py`, with the changes that their notebooks make;
* Raventos et al. (2306.15063), github.com/mansheej/icl-task-diversity: the ConfigDict that `get_config` returns.

Example:

    >>> equivalent_field("num_layers", ["model.n_layers", "train.steps"])
    'model.n_layers'
"""

import operator
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from icl_gd.lab.config.errors import ConfigError, one_line

Settings = Mapping[str, Any]  # values of a foreign config by dotted name, including the defaults of the foreign code
NOTHING = object()  # in place of a value: there is no value, or it has no equivalent
SAME = object()  # in place of a conversion function: the value is copied
RESUME = "the same command again resumes an interrupted run; remove this flag"
OUTPUT = "give the directory for results by --workdir=DIR"
ACTIVATIONS = "in Python, model.run records activations and model.edit changes them (docs/sites.md); remove this flag"
# Hints for names without an equivalent field.
ADVICE = {
    **dict.fromkeys(("resume", "resume_id", "resume_from", "resume_from_checkpoint"), RESUME),
    "test_run": "the variant smoke of a config takes seconds: --config=FILE:smoke",
    "non_linear_reg_task": "sine waves are a built-in config: --config=sine",
    **dict.fromkeys(("out_dir", "output_dir", "work_dir", "save_dir", "tensorboard_dir"), OUTPUT),
    **dict.fromkeys(("use_attn_result", "names_filter", "fwd_hooks"), ACTIVATIONS),
    "wandb": "--config.train.wandb=PROJECT logs metrics to a project of Weights & Biases",
}


class Row(NamedTuple):
    """The conversion of one name of a foreign config.

    Attributes:
      field: the equivalent field; empty if there is none.
      value: a function from all foreign settings to the value of the field, or SAME; NOTHING if this name does not set
        the field.
      default: the default in the foreign code; NOTHING if there is none.
      only: for a name without a field, the supported values.
      hint: for the hint about this name, the field with a value (`model.attention=softmax`). Default: the field.
    """

    field: str = ""
    value: Any = NOTHING
    default: Any = NOTHING
    only: tuple = ()
    hint: str = ""


Table = Mapping[str, Row]


def _maps_to(field: str, value: Any = SAME, default: Any = NOTHING, hint: str = "") -> Row:
    """A name that sets a field."""
    return Row(field, value, default, hint=hint)


def _used_by(field: str, default: Any = NOTHING, hint: str = "") -> Row:
    """A name that does not set the field itself. The row that sets it uses the value, or must be consistent with it."""
    return Row(field, default=default, hint=hint)


def _only(*values: Any) -> Row:
    """A name without a field. Only these values are supported; the first one is the default in the foreign code."""
    return Row(default=values[0], only=values)


IGNORED = Row()  # a name that does not affect training


class Codebase(NamedTuple):
    """The conversion of the configs of one codebase.

    Attributes:
      title: the authors or the name of the codebase.
      table: the rows by name.
      more: maps the settings to rows that are added to the table, or replace rows of it.
      base: maps the settings to the built-in config whose fields are changed.
      always: maps the settings to values of fields that the foreign code fixes.
      agree: pairs of names, each with a condition that their values must satisfy.
      remark: a known difference from the foreign code, printed as a note.
    """

    title: str
    table: Table
    more: Callable[[Settings], Table]
    base: Callable[[Settings], str]
    always: Callable[[Settings], dict[str, Any]]
    agree: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = ()
    remark: str = ""


# --- Garg et al. ---


def _stage(name: str) -> Callable[[Settings], tuple]:
    """The curriculum `dims` or `points` as (start, increase, steps between increases); () if it starts at its end."""

    def stage(settings: Settings) -> tuple:
        start, end, inc, interval = (settings[f"training.curriculum.{name}.{part}"] for part in STAGE)
        return () if start == end else (start, inc, interval)

    return stage


STAGE = ("start", "end", "inc", "interval")
GARG: Table = {
    "model.family": _only("gpt2"),
    "model.n_dims": _maps_to("task.d_input"),
    "model.n_positions": _used_by("task.n_context"),
    "model.n_embd": _maps_to("model.d_embed"),
    "model.n_layer": _maps_to("model.n_layers"),
    "model.n_head": _maps_to("model.n_heads"),
    "training.task": _maps_to("task.name", lambda settings: _garg_task(settings).name),
    "training.data": _only("gaussian"),
    "training.batch_size": _maps_to("train.batch_size", default=64),
    "training.learning_rate": _maps_to("train.learning_rate", default=3e-4),
    "training.train_steps": _maps_to("train.steps", default=1000),
    "training.save_every_steps": _maps_to("train.checkpoint_every", default=1000),
    "training.num_tasks": _maps_to("task.function_pool", default=None),
    "training.num_training_examples": _maps_to("task.pool", default=None),
    "training.curriculum.dims.start": _maps_to("train.active_inputs", _stage("dims")),
    "training.curriculum.dims.inc": _used_by("train.active_inputs"),
    "training.curriculum.dims.interval": _used_by("train.active_inputs"),
    "training.curriculum.dims.end": _used_by("task.d_input"),
    "training.curriculum.points.start": _maps_to("train.active_points", _stage("points")),
    "training.curriculum.points.inc": _used_by("train.active_points"),
    "training.curriculum.points.interval": _used_by("train.active_points"),
    "training.curriculum.points.end": _maps_to(
        "task.n_context", lambda settings: settings["training.curriculum.points.end"] - 1
    ),
    **dict.fromkeys(("training.keep_every_steps", "training.resume_id", "out_dir", "wandb", "test_run"), IGNORED),
}
KWARGS = "training.task_kwargs."
SCALE: Table = {f"{KWARGS}scale": _maps_to("task.weight_scale", default=1.0)}


class GargTask(NamedTuple):
    """The conversion of one task of Garg et al.

    Attributes:
      name: the equivalent `task.name`; NOTHING if there is none.
      base: the built-in config.
      kwargs: the rows for `task_kwargs`.
    """

    name: Any
    base: str
    kwargs: Table


GARG_TASKS: dict[str, GargTask] = {
    "linear_regression": GargTask("linear", "garg_linear", SCALE),
    "noisy_linear_regression": GargTask(
        "linear",
        "garg_linear",
        {
            **SCALE,
            # `task.noise_std` is the noise of labels before they are multiplied by the weight scale.
            f"{KWARGS}noise_std": _maps_to(
                "task.noise_std", lambda settings: settings[f"{KWARGS}noise_std"] / settings[f"{KWARGS}scale"], 0.0
            ),
            f"{KWARGS}renormalize_ys": _only(False),
        },
    ),
    "sparse_linear_regression": GargTask(
        "sparse", "garg_sparse", {**SCALE, f"{KWARGS}sparsity": _maps_to("task.non_zeros", default=3)}
    ),
    "linear_classification": GargTask("signs", "garg_linear", {}),
    "quadratic_regression": GargTask("quadratic", "garg_linear", SCALE),
    "relu_2nn_regression": GargTask(
        "relu_network",
        "garg_relu_network",
        {**SCALE, f"{KWARGS}hidden_layer_size": _maps_to("task.hidden", default=100)},
    ),
    "decision_tree": GargTask(
        "decision_tree", "garg_decision_tree", {f"{KWARGS}depth": _maps_to("task.depth", default=4)}
    ),
}
PLAIN_ADAM = {
    **{"train.schedule": "constant", "train.warmup": 0, "train.clip": None, "train.weight_decay": 0.0},
    **{"train.beta1": 0.9, "train.beta2": 0.999, "train.epsilon": 1e-8},
}
# The evaluation for tasks to which most suites and baselines do not apply.
FEW = {"eval.suite": ("standard",), "eval.baselines": ("averaging", "nearest_3")}


def _garg_task(settings: Settings) -> GargTask:
    return GARG_TASKS.get(settings["training.task"], GargTask(NOTHING, "garg_linear", {}))


def _garg_always(settings: Settings) -> dict[str, Any]:
    """The optimiser of Garg et al., and FEW for tasks to which the suite and baselines of garg_linear do not apply."""
    return PLAIN_ADAM | (FEW if _garg_task(settings).name in ("signs", "quadratic") else {})


# --- von Oswald et al. ---


def _width(settings: Settings) -> int:
    """The width of the residual stream."""
    if settings["in_proj"]:
        return settings["emb_size"]
    if settings["classic_token_const"]:
        return settings["input_size"] + settings["pos_enc_size"]
    return 2 if settings["non_linear_reg_task"] else settings["input_size"] + 1


def _attention(settings: Settings) -> Any:
    """The kind of attention: one kind for all layers or, if only the first layer is not linear, one kind per layer."""
    if settings["use_softmax"]:
        return "softmax"
    mixed = "mixed" if settings["use_non_lin_mix"] else "linear"
    if settings["deq"]:
        return mixed
    kinds = ("softmax" if settings["first_layer_sm"] else mixed, *("linear",) * (settings["num_layers"] - 1))
    return kinds if len(set(kinds)) > 1 else kinds[0]


def _learner(settings: Settings) -> str:
    """The reference learner: GD++ for several layers with `train_gd_whitening`, otherwise gradient descent."""
    if settings["num_layers"] == 1 or settings["classic_token_const"] or not settings["train_gd_whitening"]:
        return "gd"
    return "gd_plus_plus" if settings["gd_deq"] else "gd_plus_plus_published"


VON_OSWALD: Table = {
    "seed": _maps_to("seed", default=0),
    "num_seeds": _maps_to("seeds", default=1),
    "log_every_step": _maps_to("train.log_every", default=100),
    "dataset_size": _maps_to("task.n_context", default=10),
    "input_size": _maps_to("task.d_input", default=10),
    "input_range": _maps_to("task.input_scale", default=1.0),
    "weight_scale": _maps_to("task.weight_scale", default=1.0),
    "size_distract": _maps_to("task.corrupted_labels", default=0),
    "cycle_data": _maps_to("task.pool", lambda settings: settings["cycle_data"] * settings["bs"] or None, default=0),
    "non_linear_reg_task": _only(False),
    "classic_token_const": _maps_to(
        "model.layout",
        lambda settings: "interleaved" if settings["classic_token_const"] else "concatenated",
        False,
        "model.layout=interleaved",
    ),
    "num_layers": _maps_to("model.n_layers", default=1),
    "num_heads": _maps_to("model.n_heads", default=1),
    "key_size": _maps_to(
        "model.d_head",
        lambda settings: None if settings.get("key_size") in (None, _width(settings)) else settings["key_size"],
    ),
    # Sharing does not matter for a single layer, except that LayerNorm has no effect on it here without sharing.
    "deq": _maps_to(
        "model.shared",
        lambda settings: bool(settings["deq"]) and (settings["num_layers"] > 1 or settings["layer_norm"]),
        True,
    ),
    "use_softmax": _maps_to("model.attention", _attention, False, "model.attention=softmax"),
    "use_non_lin_mix": _used_by("model.attention", False, "model.attention=mixed"),
    "first_layer_sm": _used_by("model.attention", False, "model.attention=softmax,linear"),
    "layer_norm": _maps_to("model.layer_norm", default=False),
    "sum_norm": _maps_to("model.sum_normalised", default=False),
    "include_query": _maps_to("model.attend_to_query", default=False),
    "clip": _maps_to("model.clip", lambda settings: settings["clip"] or None, default=0.0),
    "init_scale": _maps_to(
        "model.init_scale",
        lambda settings: settings.get("init_scale", 0.002 / settings["num_layers"]) * settings["num_layers"],
    ),
    "in_proj": _used_by("model.d_embed", False),
    "emb_size": _maps_to("model.d_embed", lambda settings: settings["emb_size"] if settings["in_proj"] else None, 11),
    "input_mlp": _maps_to(
        "model.input_mlp_width",
        lambda settings: settings["widening_factor"] * _width(settings) if settings["input_mlp"] else None,
        False,
    ),
    "widening_factor": _used_by("model.input_mlp_width", 4),
    "training_steps": _maps_to("train.steps", default=10_000),
    "bs": _maps_to("train.batch_size", default=512),
    "lr": _maps_to("train.learning_rate", default=1e-3),
    "grad_clip_value": _maps_to("train.clip", default=1e10),
    "b1": _maps_to("train.beta1", default=0.9),
    "b2": _maps_to("train.beta2", default=0.98),
    "adam_eps": _maps_to("train.epsilon", default=1e-9),
    "wd": _maps_to("train.weight_decay", default=0.0),
    "train_gd_whitening": _maps_to("reference.learner", _learner, True, "reference.learner=gd_plus_plus"),
    "gd_deq": _used_by("reference.learner", True),
    "training_steps_gd": _maps_to("reference.published_steps", default=10_000),
    # Settings without an equivalent, with the only value that is supported.
    **{name: _only(False) for name in ("use_bias", "out_proj", "y_update", "flip", "zero_pos_enc", "pos_enc")},
    **{name: _only(True) for name in ("att_only_trans", "adam")},
    "concat_pos_enc": _only(False, True),
    "dropout_rate": _only(0.0),
    "dampening": _only(1.0),
    "output_size": _only(1),
    # Plots, rates of the reference learners (here they are optimal), and settings that regression does not use.
    **dict.fromkeys(
        (
            *("create_plots", "tensorboard_dir", "local_usage", "analyse", "ana_copy", "pre_train_gd", "train_gd_lr"),
            *("gd_lr", "bs_gd_train", "grad_clip_value_gd", "gd_dampening", "input_mlp_out_dim", "pos_enc_size"),
            *(
                "distract_size",
                "input_shift",
                "new_token_construction",
                "windowing",
                "vocab_size",
                "vocab_dim",
                "warm_up",
            ),
            *("initial_lr", "peak_value", "decay_rate", "warmup_steps", "end_value"),
        ),
        IGNORED,
    ),
}
INTERLEAVED: Table = {
    **{"pos_enc": _only(True), "concat_pos_enc": _only(True), "pos_enc_size": _only(10)},
    "size_distract": _only(0),  # in the foreign code, corruption replaces the whole token
}
SINE: Table = {
    "non_linear_reg_task": Row(default=False),
    "input_range": _only(10, 10.0),
    "weight_scale": _only(1, 1.0),
    "size_distract": _only(0),
    "cycle_data": _only(0),
    "gd_lr": _maps_to("reference.learning_rate", default=3e-4),
    **dict.fromkeys(("input_size", "train_gd_whitening", "gd_deq", "training_steps_gd"), IGNORED),
}


def _von_oswald_more(settings: Settings) -> Table:
    if settings["non_linear_reg_task"]:
        return SINE
    return INTERLEAVED if settings["classic_token_const"] else {}


def _von_oswald_base(settings: Settings) -> str:
    if settings["non_linear_reg_task"]:
        return "sine"
    if settings["classic_token_const"]:
        return "token_copying"
    return "one_layer" if settings["num_layers"] == 1 else "two_layers"


# --- Raventos et al. ---

SCHEDULES = {"warmup_cosine_decay": "cosine", "triangle": "linear"}
OPTIMISERS = {"adam": "adamw", "sgd": "sgd"}
RAVENTOS: Table = {
    "dtype": _maps_to(
        "precision",
        lambda settings: settings["dtype"] if settings["dtype"] in ("float32", "float64") else NOTHING,
        "float32",
    ),
    "task.name": _only("noisy_linear_regression"),
    "task.n_tasks": _maps_to("task.function_pool", lambda settings: settings["task.n_tasks"] or None),
    "task.n_dims": _maps_to("task.d_input"),
    "task.n_points": _maps_to("task.n_context", lambda settings: settings["task.n_points"] - 1),
    "task.batch_size": _maps_to("train.batch_size"),
    "task.data_scale": _maps_to("task.input_scale", default=1.0),
    "task.task_scale": _maps_to("task.weight_scale", default=1.0),
    # `task.noise_std` is the noise of labels before they are multiplied by the weight scale.
    "task.noise_scale": _maps_to(
        "task.noise_std", lambda settings: settings["task.noise_scale"] / settings["task.task_scale"]
    ),
    "model.name": _only("transformer"),
    "model.n_points": _used_by("task.n_context"),
    "model.n_layer": _maps_to("model.n_layers"),
    "model.n_embd": _maps_to("model.d_embed"),
    "model.n_head": _maps_to("model.n_heads"),
    "training.optimizer": _maps_to(
        "train.optimizer", lambda settings: OPTIMISERS.get(settings["training.optimizer"], NOTHING)
    ),
    "training.lr": _maps_to("train.learning_rate"),
    "training.schedule": _maps_to(
        "train.schedule", lambda settings: SCHEDULES.get(settings["training.schedule"], NOTHING)
    ),
    "training.warmup_steps": _maps_to("train.warmup", default=0),
    "training.total_steps": _maps_to("train.steps"),
    "training.weight_decay": _only(0.0, None),
    "eval.n_samples": _maps_to("eval.prompts"),
    "eval.every": _maps_to("train.log_every"),
    **dict.fromkeys(
        (
            *(
                "work_dir",
                "wandb",
                "eval.batch_size",
                "task.data_seed",
                "task.task_seed",
                "task.noise_seed",
                "model.seed",
            ),
            *("eval.data_seed", "eval.task_seed", "eval.noise_seed"),
        ),
        IGNORED,
    ),
}
ADAM = {name: value for name, value in PLAIN_ADAM.items() if name not in ("train.schedule", "train.warmup")}

CODEBASES = (
    Codebase(
        "Garg et al.",
        GARG,
        more=lambda settings: _garg_task(settings).kwargs,
        base=lambda settings: _garg_task(settings).base,
        always=_garg_always,
        agree=(
            ("model.n_positions", "training.curriculum.points.end", operator.ge),
            ("training.curriculum.dims.end", "model.n_dims", operator.eq),
        ),
    ),
    Codebase(
        "von Oswald et al.",
        VON_OSWALD,
        more=_von_oswald_more,
        base=_von_oswald_base,
        always=lambda settings: {"task.faithful": True} if settings["non_linear_reg_task"] else {},
    ),
    Codebase(
        "icl-task-diversity",
        RAVENTOS,
        more=lambda settings: {},
        base=lambda settings: "garg_linear",
        always=lambda settings: {
            **ADAM,
            **{"train.active_inputs": (), "train.active_points": ()},
            **{"eval.suite": ("standard",), "eval.baselines": ("least_squares",)},
        },
        agree=(("model.n_points", "task.n_points", operator.eq),),
        remark="x and y tokens share the same input slots here, and the embedding and read-out have biases",
    ),
)
# Names from codebases whose configs are not converted: TransformerLens, transformers and common training scripts.
OTHERS: Table = {
    **dict.fromkeys(("d_model", "hidden_size", "embed_dim", "embedding_size"), _maps_to("model.d_embed")),
    **dict.fromkeys(("num_hidden_layers", "layers"), _maps_to("model.n_layers")),
    **dict.fromkeys(("num_attention_heads", "heads"), _maps_to("model.n_heads")),
    **dict.fromkeys(("n_ctx", "context_length"), _maps_to("task.n_context")),
    "attention_dir": Row("model.style", hint="model.style=gpt2"),
    "d_mlp": _maps_to("model.input_mlp_width"),
    **dict.fromkeys(
        ("max_steps", "num_steps", "n_steps", "num_training_steps", "num_iterations"), _maps_to("train.steps")
    ),
    **dict.fromkeys(("per_device_train_batch_size", "train_batch_size"), _maps_to("train.batch_size")),
    **dict.fromkeys(("max_grad_norm", "grad_clip", "clip_grad_norm"), _maps_to("train.clip")),
    "num_warmup_steps": _maps_to("train.warmup"),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "lr_schedule"), _maps_to("train.schedule")),
    "adam_epsilon": _maps_to("train.epsilon"),
    "adam_beta1": _maps_to("train.beta1"),
    "adam_beta2": _maps_to("train.beta2"),
    **dict.fromkeys(("save_steps", "save_every", "checkpoint_every_steps"), _maps_to("train.checkpoint_every")),
    **dict.fromkeys(("logging_steps", "log_every_steps", "log_interval", "eval_every"), _maps_to("train.log_every")),
    "n_seeds": _maps_to("seeds"),
    **dict.fromkeys(("random_seed", "rng_seed"), _maps_to("seed")),
}


# --- hints for names on the command line ---


@cache
def equivalent_fields() -> Mapping[str, str]:
    """The equivalent field of every foreign name, and of every suffix of a dotted name (`dims.start`, `n_embd`).

    Returns:
      A field, or `field=value`, by name. Ambiguous names are left out.
    """
    candidates: dict[str, set[str]] = {}
    tables = [codebase.table for codebase in CODEBASES]
    tables += [SINE, *(task.kwargs for task in GARG_TASKS.values()), OTHERS]
    for table in tables:
        for name, row in table.items():
            parts = name.split(".") if row.field else []
            for i in range(len(parts)):
                candidates.setdefault(".".join(parts[i:]), set()).add(row.hint or row.field)
    return {name: fields.pop() for name, fields in candidates.items() if len(fields) == 1}


def equivalent_field(name: str, known: Collection[str]) -> str | None:
    """The field that a foreign name corresponds to.

    Args:
      name: the name, which may be dotted.
      known: the fields of the experiment.

    Returns:
      A known field, or `field=value`; None if there is no equivalent, or a known field has the same last name.
    """
    parts = name.split(".")
    if parts[-1] in {field.split(".")[-1] for field in known}:
        return None
    for i in range(len(parts)):
        field = equivalent_fields().get(".".join(parts[i:]))
        if field is not None:
            return field if field.partition("=")[0] in known else None
    return None


def advice(name: str) -> str | None:
    """The hint for a foreign name without an equivalent field; None if there is no hint for it."""
    return ADVICE.get(name.split(".")[-1]) or ADVICE.get(name.split(".")[0])


# --- conversion of configs ---


class Conversion(NamedTuple):
    """A converted config.

    Attributes:
      base: the name of the built-in config that is changed.
      values: new values by field name.
      notes: messages to print, one sentence each.
    """

    base: str
    values: dict[str, Any]
    notes: list[str]


def is_mapping(value: Any) -> bool:
    """Whether a value is a mapping, such as a dict or a ConfigDict."""
    return hasattr(value, "items") and not isinstance(value, type)


def flat(config: Any) -> dict[str, Any]:
    """Flattens nested mappings to values by dotted name. NumPy numbers become Python numbers, lists become tuples."""
    values: dict[str, Any] = {}
    config = config.to_dict() if hasattr(config, "to_dict") else config
    for name, value in config.items():
        if is_mapping(value):
            values |= {f"{name}.{inner}": nested for inner, nested in flat(value).items()}
        else:
            value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
            values[str(name)] = tuple(value) if isinstance(value, list) else value
    return values


def from_yaml(path: Path) -> dict[str, Any]:
    """Reads a YAML file and the files in its `inherit`, whose paths are relative to the file.

    Returns:
      Values by dotted name. Values of the file itself override inherited values.

    Raises:
      ConfigError: if a file is missing, is not a mapping in YAML, or inherits from itself.
    """
    return _inherited(path, ())


def _inherited(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    where = f"--config={heirs[0] if heirs else path}"
    if path.resolve() in [heir.resolve() for heir in heirs]:
        raise ConfigError(f"{where}: {path} inherits from itself; remove it from `inherit`")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where}: {path} cannot be read ({one_line(error)}); paths in `inherit` are relative to the file itself"
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where}: {path} is not YAML: {one_line(error)}") from error
    if not is_mapping(config):
        raise ConfigError(
            f"{where}: {path} holds {type(config).__name__}; it must be a mapping of names to values, as in `model:`"
        )
    parents = config.pop("inherit", None) or ()
    values: dict[str, Any] = {}
    for parent in (parents,) if isinstance(parents, str) else parents:
        values |= _inherited(path.parent / str(parent), (*heirs, path))
    return values | {name: _number(value) for name, value in flat(config).items()}


class _Plain(yaml.SafeLoader):
    """A YAML loader that ignores tags, which the config.yaml of a run may have. It never executes anything."""


def _untagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Plain.add_multi_constructor("", _untagged)


def _number(value: Any) -> Any:
    """Converts text like 1e-4, which YAML reads as a string, to a number."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}", value):
        return float(value)
    return value


def read(given: Settings, where: str, overridden: Collection[str] = ()) -> Conversion:
    """Converts a foreign config to changes of a built-in config.

    Args:
      given: values of the config by dotted name.
      where: the flag and path of the config, for messages.
      overridden: names of fields that the command line sets. The config needs no convertible value for these fields.

    Returns:
      The conversion.

    Raises:
      ConfigError: if the config belongs to no known codebase, lacks a value, contradicts itself, or has a setting
        without an equivalent.
    """
    codebase = max(CODEBASES, key=lambda each: _count_known(given, each.table))
    if not _count_known(given, codebase.table):
        titles = ", ".join(each.title for each in CODEBASES)
        raise ConfigError(
            f"{where}: the settings {', '.join(list(given)[:5]) or '(none)'} belong to no known config; accepted: an "
            f"Experiment, or a config of {titles}"
        )
    where = f"{where} is read as a config of {codebase.title}"
    try:
        settings: dict[str, Any] = _defaults(codebase.table) | dict(given)
        table = {**codebase.table, **codebase.more(settings)}
        settings = _defaults(table) | dict(given)
        values = codebase.always(settings)
        ignored, unsupported, settable = _convert(table, settings, given, values, overridden)
        base = codebase.base(settings)
        for one, other, holds in codebase.agree:
            if not holds(settings[one], settings[other]):
                raise ConfigError(
                    f"{where}: {one}={settings[one]} contradicts {other}={settings[other]}; change one of them"
                )
    except KeyError as error:
        raise ConfigError(f"{where}, but lacks {error.args[0]}; add it") from error
    except (TypeError, ArithmeticError) as error:
        raise ConfigError(f"{where}, but a value that must be a number is not: {one_line(error)}") from error
    if unsupported:
        verb = "have" if len(unsupported) > 1 else "has"
        instead = [f"give --config.{field} instead of {name}" for name, field in settable.items()]
        if others := [name for name in unsupported if name not in settable]:
            instead = [f"remove {', '.join(others)}", *instead]
        raise ConfigError(
            f"{where}, but {', '.join(unsupported.values())} {verb} no counterpart here; {', and '.join(instead)}"
        )
    notes = [f"{where}: the built-in config {base} with the values of this config"]
    if ignored:
        verb, pronoun = ("are", "they do") if len(ignored) > 1 else ("is", "it does")
        notes.append(f"{', '.join(ignored)} {verb} ignored: {pronoun} not affect training")
    if codebase.remark:
        notes.append(codebase.remark)
    return Conversion(base, values, notes)


def _count_known(given: Settings, table: Table) -> int:
    """The number of settings that have a row in a table."""
    return sum(_row(name, table) is not None for name in given)


def _defaults(table: Table) -> dict[str, Any]:
    """The defaults of the foreign code."""
    return {name: row.default for name, row in table.items() if row.default is not NOTHING}


def _convert(
    table: Table, settings: Settings, given: Settings, values: dict[str, Any], overridden: Collection[str]
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Adds the converted values to `values`, by field name.

    Returns:
      Three collections: the ignored names; `name=value` for every unsupported name; and the field for every unsupported
      name that has one.
    """
    ignored: list[str] = []
    unsupported: dict[str, str] = {}
    settable: dict[str, str] = {}
    for name in dict.fromkeys((*table, *given)):
        row = _row(name, table)
        if row is None or (row.only and settings[name] not in row.only):
            unsupported[name] = f"{name}={settings[name]}"
        elif row is IGNORED and name in given:
            ignored.append(name)
        elif row.value is not NOTHING and row.field not in overridden:
            value = settings[name] if row.value is SAME else row.value(settings)
            if value is NOTHING:
                unsupported[name], settable[name] = f"{name}={settings[name]}", row.field
            values[row.field] = value
    return ignored, unsupported, settable


def _row(name: str, table: Table) -> Row | None:
    """The row of a name or, if there is none, of its section. None if the table has neither."""
    return table.get(name) or (table.get(name.partition(".")[0]) if "." in name else None)
