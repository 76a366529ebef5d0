"""Configs of other codebases: their names for our fields, and how their files are read.

A table for each codebase, from its names to fields here. What reads a config of theirs is also what a command line that
uses one of their names is answered by, and what docs/coming_from.md lists. A config of theirs becomes one that ships,
with the fields that theirs says:

* Garg et al. (2208.01066), github.com/dtsip/in-context-learning: a YAML file, with `inherit`;
* von Oswald et al. (2212.07677), github.com/google-research/self-organising-systems, transformers_learn_icl_by_gd: the
  ConfigDict of `src/config.py`, as their notebooks change it;
* Raventos et al. (2306.15063), github.com/mansheej/icl-task-diversity: the ConfigDict that `get_config` gives.
"""

import operator
import re
from collections.abc import Callable, Collection, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from icl_gd.lab.config.errors import ConfigError, one_line

Theirs = Mapping[str, Any]  # values by their dotted names, with the defaults of their code
NOTHING = object()  # in place of a value: there is none here that does the same, or none is given
SAME = object()
WAIT = "the same command again resumes an interrupted run; leave it out"
ELSEWHERE = "--workdir=DIR says where results go"
# Flags of theirs that are answered by a sentence.
SAID = {
    **dict.fromkeys(("resume", "resume_id", "resume_from", "resume_from_checkpoint"), WAIT),
    "test_run": "a config's variant smoke takes seconds: --config=FILE:smoke",
    "non_linear_reg_task": "sine waves are a config that ships: --config=sine",
    **dict.fromkeys(("out_dir", "output_dir", "work_dir", "save_dir", "tensorboard_dir"), ELSEWHERE),
    "wandb": "--config.train.wandb=PROJECT logs metrics to a project of Weights & Biases",
}


class Row(NamedTuple):
    """What one of their names is here.

    Attributes:
      ours: the field that it leads to; empty where there is none.
      value: what it sets the field to: a function of all their values, or SAME; NOTHING sets no field.
      default: of their code; NOTHING where it has none.
      only: values with which nothing is needed here; any other has no counterpart.
      says: the field with a value, where that tells more.
    """

    ours: str = ""
    value: Any = NOTHING
    default: Any = NOTHING
    only: tuple = ()
    says: str = ""


Table = Mapping[str, Row]


def _is(ours: str, value: Any = SAME, default: Any = NOTHING, says: str = "") -> Row:
    return Row(ours, value, default, says=says)


def _part_of(ours: str, default: Any = NOTHING, says: str = "") -> Row:
    """A name that is read together with another, which sets the field, or that only has to agree with it."""
    return Row(ours, default=default, says=says)


def _only(*values: Any) -> Row:
    return Row(default=values[0], only=values)


LEFT_OUT = Row()


class Codebase(NamedTuple):
    """Configs of one codebase.

    Attributes:
      title: whose they are.
      table: their names.
      more: rows besides, or in place of those of the table, that depend on their values.
      base: the config that ships which theirs changes, by their values.
      always: fields that their code fixes, by their values.
      agree: two of their names, and what must hold of their values.
      remark: what is not the same here.
    """

    title: str
    table: Table
    more: Callable[[Theirs], Table]
    base: Callable[[Theirs], str]
    always: Callable[[Theirs], dict[str, Any]]
    agree: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = ()
    remark: str = ""


# --- Garg et al. ---


def _stage(of: str) -> Callable[[Theirs], tuple]:
    """A curriculum (start, increase, every so many steps); () where it starts at its end."""

    def stage(its: Theirs) -> tuple:
        start, end, inc, interval = (its[f"training.curriculum.{of}.{name}"] for name in STAGE)
        return () if start == end else (start, inc, interval)

    return stage


STAGE = ("start", "end", "inc", "interval")
GARG: Table = {
    "model.family": _only("gpt2"),
    "model.n_dims": _is("task.d_input"),
    "model.n_positions": _part_of("task.n_context"),
    "model.n_embd": _is("model.d_embed"),
    "model.n_layer": _is("model.n_layers"),
    "model.n_head": _is("model.n_heads"),
    "training.task": _is("task.name", lambda its: _garg_task(its).ours),
    "training.data": _only("gaussian"),
    "training.batch_size": _is("train.batch_size", default=64),
    "training.learning_rate": _is("train.learning_rate", default=3e-4),
    "training.train_steps": _is("train.steps", default=1000),
    "training.save_every_steps": _is("train.checkpoint_every", default=1000),
    "training.num_tasks": _is("task.function_pool", default=None),
    "training.num_training_examples": _is("task.pool", default=None),
    "training.curriculum.dims.start": _is("train.active_inputs", _stage("dims")),
    "training.curriculum.dims.inc": _part_of("train.active_inputs"),
    "training.curriculum.dims.interval": _part_of("train.active_inputs"),
    "training.curriculum.dims.end": _part_of("task.d_input"),
    "training.curriculum.points.start": _is("train.active_points", _stage("points")),
    "training.curriculum.points.inc": _part_of("train.active_points"),
    "training.curriculum.points.interval": _part_of("train.active_points"),
    "training.curriculum.points.end": _is("task.n_context", lambda its: its["training.curriculum.points.end"] - 1),
    **dict.fromkeys(("training.keep_every_steps", "training.resume_id", "out_dir", "wandb", "test_run"), LEFT_OUT),
}
KWARGS = "training.task_kwargs."
SCALE: Table = {f"{KWARGS}scale": _is("task.weight_scale", default=1.0)}


class GargTask(NamedTuple):
    """One of their tasks: the word for it here, the config that ships, and its `task_kwargs`."""

    ours: Any
    base: str
    kwargs: Table


GARG_TASKS: dict[str, GargTask] = {
    "linear_regression": GargTask("linear", "garg_linear", SCALE),
    "noisy_linear_regression": GargTask(
        "linear",
        "garg_linear",
        {
            **SCALE,
            # Ours is of labels before they are scaled.
            f"{KWARGS}noise_std": _is(
                "task.noise_std", lambda its: its[f"{KWARGS}noise_std"] / its[f"{KWARGS}scale"], 0.0
            ),
            f"{KWARGS}renormalize_ys": _only(False),
        },
    ),
    "sparse_linear_regression": GargTask(
        "sparse", "garg_sparse", {**SCALE, f"{KWARGS}sparsity": _is("task.non_zeros", default=3)}
    ),
    "linear_classification": GargTask("signs", "garg_linear", {}),
    "quadratic_regression": GargTask("quadratic", "garg_linear", SCALE),
    "relu_2nn_regression": GargTask(
        "relu_network", "garg_relu_network", {**SCALE, f"{KWARGS}hidden_layer_size": _is("task.hidden", default=100)}
    ),
    "decision_tree": GargTask("decision_tree", "garg_decision_tree", {f"{KWARGS}depth": _is("task.depth", default=4)}),
}
PLAIN_ADAM = {
    **{"train.schedule": "constant", "train.warmup": 0, "train.clip": None, "train.weight_decay": 0.0},
    **{"train.beta1": 0.9, "train.beta2": 0.999, "train.epsilon": 1e-8},
}
FEW = {"eval.suite": ("standard",), "eval.baselines": ("averaging", "nearest_3")}


def _garg_task(its: Theirs) -> GargTask:
    return GARG_TASKS.get(its["training.task"], GargTask(NOTHING, "garg_linear", {}))


def _garg_always(its: Theirs) -> dict[str, Any]:
    """Families and learners of the config that ships are for its own task."""
    return PLAIN_ADAM | (FEW if _garg_task(its).ours in ("signs", "quadratic") else {})


# --- von Oswald et al. ---


def _width(its: Theirs) -> int:
    """The width of the residual."""
    if its["in_proj"]:
        return its["emb_size"]
    if its["classic_token_const"]:
        return its["input_size"] + its["pos_enc_size"]
    return 2 if its["non_linear_reg_task"] else its["input_size"] + 1


def _attention(its: Theirs) -> Any:
    """The kind of every layer: shared layers are alike, of others only the first may be mixed."""
    if its["use_softmax"]:
        return "softmax"
    mixed = "mixed" if its["use_non_lin_mix"] else "linear"
    if its["deq"]:
        return mixed
    kinds = ("softmax" if its["first_layer_sm"] else mixed, *("linear",) * (its["num_layers"] - 1))
    return kinds if len(set(kinds)) > 1 else kinds[0]


def _beside(its: Theirs) -> str:
    """The learner beside the layers: with one it is plain; `train_gd_whitening` learns GD++."""
    if its["num_layers"] == 1 or its["classic_token_const"] or not its["train_gd_whitening"]:
        return "gd"
    return "gd_plus_plus" if its["gd_deq"] else "gd_plus_plus_published"


VON_OSWALD: Table = {
    "seed": _is("seed", default=0),
    "num_seeds": _is("seeds", default=1),
    "log_every_step": _is("train.log_every", default=100),
    "dataset_size": _is("task.n_context", default=10),
    "input_size": _is("task.d_input", default=10),
    "input_range": _is("task.input_scale", default=1.0),
    "weight_scale": _is("task.weight_scale", default=1.0),
    "size_distract": _is("task.corrupted_labels", default=0),
    "cycle_data": _is("task.pool", lambda its: its["cycle_data"] * its["bs"] or None, default=0),
    "non_linear_reg_task": _only(False),
    "classic_token_const": _is(
        "model.layout",
        lambda its: "interleaved" if its["classic_token_const"] else "concatenated",
        False,
        "model.layout=interleaved",
    ),
    "num_layers": _is("model.n_layers", default=1),
    "num_heads": _is("model.n_heads", default=1),
    "key_size": _is(
        "model.d_head", lambda its: None if its.get("key_size") in (None, _width(its)) else its["key_size"]
    ),
    # One layer is the same function either way; its LayerNorm is that of shared ones.
    "deq": _is("model.shared", lambda its: bool(its["deq"]) and (its["num_layers"] > 1 or its["layer_norm"]), True),
    "use_softmax": _is("model.attention", _attention, False, "model.attention=softmax"),
    "use_non_lin_mix": _part_of("model.attention", False, "model.attention=mixed"),
    "first_layer_sm": _part_of("model.attention", False, "model.attention=softmax,linear"),
    "layer_norm": _is("model.layer_norm", default=False),
    "sum_norm": _is("model.sum_normalised", default=False),
    "include_query": _is("model.attend_to_query", default=False),
    "clip": _is("model.clip", lambda its: its["clip"] or None, default=0.0),
    "init_scale": _is(
        "model.init_scale", lambda its: its.get("init_scale", 0.002 / its["num_layers"]) * its["num_layers"]
    ),
    "in_proj": _part_of("model.d_embed", False),
    "emb_size": _is("model.d_embed", lambda its: its["emb_size"] if its["in_proj"] else None, 11),
    "input_mlp": _is(
        "model.input_mlp_width", lambda its: its["widening_factor"] * _width(its) if its["input_mlp"] else None, False
    ),
    "widening_factor": _part_of("model.input_mlp_width", 4),
    "training_steps": _is("train.steps", default=10_000),
    "bs": _is("train.batch_size", default=512),
    "lr": _is("train.learning_rate", default=1e-3),
    "grad_clip_value": _is("train.clip", default=1e10),
    "b1": _is("train.beta1", default=0.9),
    "b2": _is("train.beta2", default=0.98),
    "adam_eps": _is("train.epsilon", default=1e-9),
    "wd": _is("train.weight_decay", default=0.0),
    "train_gd_whitening": _is("reference.learner", _beside, True, "reference.learner=gd_plus_plus"),
    "gd_deq": _part_of("reference.learner", True),
    "training_steps_gd": _is("reference.published_steps", default=10_000),
    # What is not here, by the values that leave it away.
    **{name: _only(False) for name in ("use_bias", "out_proj", "y_update", "flip", "zero_pos_enc", "pos_enc")},
    **{name: _only(True) for name in ("att_only_trans", "adam")},
    "concat_pos_enc": _only(False, True),
    "dropout_rate": _only(0.0),
    "dampening": _only(1.0),
    "output_size": _only(1),
    # Plots, learners beside the layers, which have their best rates here, and what their regression never reads.
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
        LEFT_OUT,
    ),
}
INTERLEAVED: Table = {
    **{"pos_enc": _only(True), "concat_pos_enc": _only(True), "pos_enc_size": _only(10)},
    "size_distract": _only(0),  # their noise fills the whole token of a label
}
SINE: Table = {
    "non_linear_reg_task": Row(default=False),
    "input_range": _only(10, 10.0),
    "weight_scale": _only(1, 1.0),
    "size_distract": _only(0),
    "cycle_data": _only(0),
    "gd_lr": _is("reference.learning_rate", default=3e-4),
    **dict.fromkeys(("input_size", "train_gd_whitening", "gd_deq", "training_steps_gd"), LEFT_OUT),
}


def _von_oswald_more(its: Theirs) -> Table:
    if its["non_linear_reg_task"]:
        return SINE
    return INTERLEAVED if its["classic_token_const"] else {}


def _von_oswald_base(its: Theirs) -> str:
    if its["non_linear_reg_task"]:
        return "sine"
    if its["classic_token_const"]:
        return "token_copying"
    return "one_layer" if its["num_layers"] == 1 else "two_layers"


# --- Raventos et al. ---

SCHEDULES = {"warmup_cosine_decay": "cosine", "triangle": "linear"}
OPTIMISERS = {"adam": "adamw", "sgd": "sgd"}
RAVENTOS: Table = {
    "dtype": _is(
        "precision", lambda its: its["dtype"] if its["dtype"] in ("float32", "float64") else NOTHING, "float32"
    ),
    "task.name": _only("noisy_linear_regression"),
    "task.n_tasks": _is("task.function_pool", lambda its: its["task.n_tasks"] or None),
    "task.n_dims": _is("task.d_input"),
    "task.n_points": _is("task.n_context", lambda its: its["task.n_points"] - 1),
    "task.batch_size": _is("train.batch_size"),
    "task.data_scale": _is("task.input_scale", default=1.0),
    "task.task_scale": _is("task.weight_scale", default=1.0),
    # Ours is of labels before they are scaled.
    "task.noise_scale": _is("task.noise_std", lambda its: its["task.noise_scale"] / its["task.task_scale"]),
    "model.name": _only("transformer"),
    "model.n_points": _part_of("task.n_context"),
    "model.n_layer": _is("model.n_layers"),
    "model.n_embd": _is("model.d_embed"),
    "model.n_head": _is("model.n_heads"),
    "training.optimizer": _is("train.optimizer", lambda its: OPTIMISERS.get(its["training.optimizer"], NOTHING)),
    "training.lr": _is("train.learning_rate"),
    "training.schedule": _is("train.schedule", lambda its: SCHEDULES.get(its["training.schedule"], NOTHING)),
    "training.warmup_steps": _is("train.warmup", default=0),
    "training.total_steps": _is("train.steps"),
    "training.weight_decay": _only(0.0, None),
    "eval.n_samples": _is("eval.prompts"),
    "eval.every": _is("train.log_every"),
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
        LEFT_OUT,
    ),
}
ADAM = {name: value for name, value in PLAIN_ADAM.items() if name not in ("train.schedule", "train.warmup")}

CODEBASES = (
    Codebase(
        "Garg et al.",
        GARG,
        more=lambda its: _garg_task(its).kwargs,
        base=lambda its: _garg_task(its).base,
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
        always=lambda its: {"task.faithful": True} if its["non_linear_reg_task"] else {},
    ),
    Codebase(
        "icl-task-diversity",
        RAVENTOS,
        more=lambda its: {},
        base=lambda its: "garg_linear",
        always=lambda its: {
            **ADAM,
            **{"train.active_inputs": (), "train.active_points": ()},
            **{"eval.suite": ("standard",), "eval.baselines": ("least_squares",)},
        },
        agree=(("model.n_points", "task.n_points", operator.eq),),
        remark="tokens of x and of y share their places here, and what reads them in and out has biases",
    ),
)
# Names of libraries whose configs are not read: TransformerLens, transformers, and what trainers are often told.
OTHERS: Table = {
    **dict.fromkeys(("d_model", "hidden_size", "embed_dim", "embedding_size"), _is("model.d_embed")),
    **dict.fromkeys(("num_hidden_layers", "layers"), _is("model.n_layers")),
    **dict.fromkeys(("num_attention_heads", "heads"), _is("model.n_heads")),
    **dict.fromkeys(("n_ctx", "context_length"), _is("task.n_context")),
    "attention_dir": Row("model.style", says="model.style=gpt2"),
    "d_mlp": _is("model.input_mlp_width"),
    **dict.fromkeys(("max_steps", "num_steps", "n_steps", "num_training_steps", "num_iterations"), _is("train.steps")),
    **dict.fromkeys(("per_device_train_batch_size", "train_batch_size"), _is("train.batch_size")),
    **dict.fromkeys(("max_grad_norm", "grad_clip", "clip_grad_norm"), _is("train.clip")),
    "num_warmup_steps": _is("train.warmup"),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "lr_schedule"), _is("train.schedule")),
    "adam_epsilon": _is("train.epsilon"),
    "adam_beta1": _is("train.beta1"),
    "adam_beta2": _is("train.beta2"),
    **dict.fromkeys(("save_steps", "save_every", "checkpoint_every_steps"), _is("train.checkpoint_every")),
    **dict.fromkeys(("logging_steps", "log_every_steps", "log_interval", "eval_every"), _is("train.log_every")),
    "n_seeds": _is("seeds"),
    **dict.fromkeys(("random_seed", "rng_seed"), _is("seed")),
}


# --- what they lead to ---


@cache
def places() -> Mapping[str, str]:
    """Their names, and the ends of dotted ones (`dims.start`, `n_embd`), with the one field that each leads to."""
    found: dict[str, set[str]] = {}
    tables = (*(its.table for its in CODEBASES), SINE, *(its.kwargs for its in GARG_TASKS.values()), OTHERS)
    for name, row in (item for table in tables for item in table.items() if item[1].ours):
        parts = name.split(".")
        for i in range(len(parts)):
            found.setdefault(".".join(parts[i:]), set()).add(row.says or row.ours)
    return {name: ours.pop() for name, ours in found.items() if len(ours) == 1}


def meant(name: str, known: Collection[str]) -> str | None:
    """The field, or `field=value`, that one of their names leads to, if it is among those known."""
    parts = name.split(".")
    if parts[-1] in {field.split(".")[-1] for field in known}:
        return None
    for i in range(len(parts)):
        ours = places().get(".".join(parts[i:]))
        if ours is not None:
            return ours if ours.partition("=")[0] in known else None
    return None


def said_of(name: str) -> str | None:
    """The sentence by which one of their names is answered that stands for no field."""
    return SAID.get(name.split(".")[-1]) or SAID.get(name.split(".")[0])


# --- what is read ---


class Read(NamedTuple):
    """A config of theirs, read.

    Attributes:
      base: the config that ships which it changes.
      values: of our fields, by name.
      notes: what is to be said of it, a line each.
    """

    base: str
    values: dict[str, Any]
    notes: list[str]


def is_mapping(value: Any) -> bool:
    """Whether a value is a ConfigDict, a dict, or otherwise one of names with values."""
    return hasattr(value, "items") and not isinstance(value, type)


def flat(config: Any) -> dict[str, Any]:
    """The values of nested mappings by dotted names; numbers of NumPy as those of Python, lists as tuples."""
    found: dict[str, Any] = {}
    config = config.to_dict() if hasattr(config, "to_dict") else config
    for name, value in config.items():
        if is_mapping(value):
            found |= {f"{name}.{below}": its for below, its in flat(value).items()}
        else:
            value = value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
            found[str(name)] = tuple(value) if isinstance(value, list) else value
    return found


def of_yaml(path: Path) -> dict[str, Any]:
    """The values of a YAML file and of those it inherits from, named relative to it, by dotted names; its own go first.

    Raises:
      ConfigError: if a file is missing, is no mapping in YAML, or inherits from itself.
    """
    return _inherited(path, ())


def _inherited(path: Path, heirs: tuple[Path, ...]) -> dict[str, Any]:
    where = f"--config={heirs[0] if heirs else path}"
    if path.resolve() in [heir.resolve() for heir in heirs]:
        raise ConfigError(f"{where}: {path} inherits from itself; leave it out of its inherit")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_Plain)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{where}: {path} cannot be read ({one_line(error)}); inherit names files relative to its own file"
        ) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{where}: {path} is not YAML: {one_line(error)}") from error
    if not is_mapping(config):
        raise ConfigError(f"{where}: {path} holds {type(config).__name__}, it must be names with values, as `model:`")
    parents = config.pop("inherit", None) or ()
    found: dict[str, Any] = {}
    for parent in (parents,) if isinstance(parents, str) else parents:
        found |= _inherited(path.parent / str(parent), (*heirs, path))
    return found | {name: _number(value) for name, value in flat(config).items()}


class _Plain(yaml.SafeLoader):
    """Reads tagged values, as a run's own config.yaml may have them, as what they are made of: nothing is executed."""


def _untagged(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


_Plain.add_multi_constructor("", _untagged)


def _number(value: Any) -> Any:
    """A number like 1e-4, which YAML takes for a word, as the number it is."""
    if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d{1,3}", value):
        return float(value)
    return value


def read(given: Theirs, where: str, settled: Collection[str] = ()) -> Read:
    """A config of theirs as the fields of one that ships.

    Args:
      given: values by dotted names.
      where: which config that is, in messages.
      settled: fields that are given otherwise, for which theirs need no value.

    Raises:
      ConfigError: if it is of no codebase known here, lacks a value, contradicts itself, or has what is not here.
    """
    of_its = lambda its: sum(_row(name, its.table) is not None for name in given)
    codebase = max(CODEBASES, key=of_its)
    if not of_its(codebase):
        titles = ", ".join(its.title for its in CODEBASES)
        raise ConfigError(
            f"{where}: {', '.join(list(given)[:5]) or 'nothing'} is no config of {titles}, and no Experiment; "
            "one of these is accepted"
        )
    defaults = lambda table: {name: row.default for name, row in table.items() if row.default is not NOTHING}
    where = f"{where} is read as a config of {codebase.title}"
    try:
        its: dict[str, Any] = defaults(codebase.table) | dict(given)
        table = {**codebase.table, **codebase.more(its)}
        its = defaults(table) | dict(given)
        values = codebase.always(its)
        left, none, without = _sorted_out(table, its, given, values, settled)
        base = codebase.base(its)
        for one, other, holds in codebase.agree:
            if not holds(its[one], its[other]):
                raise ConfigError(f"{where}: {one}={its[one]} contradicts {other}={its[other]}; change one of them")
    except KeyError as error:
        raise ConfigError(f"{where}, and lacks {error.args[0]}; give it") from error
    except (TypeError, ArithmeticError) as error:
        raise ConfigError(f"{where}, and a value is no number where one is needed: {one_line(error)}") from error
    if none:
        instead = [f"give --config.{ours} in place of {name}" for name, ours in without.items()]
        plain = [name for name in none if name not in without]
        instead = [f"leave {', '.join(plain)} out"] * bool(plain) + instead
        raise ConfigError(
            f"{where}, of which {', '.join(none.values())} {'have' if len(none) > 1 else 'has'} no "
            f"counterpart here; {', and '.join(instead)}"
        )
    notes = [f"{where}: {base} with its fields"]
    if left:
        are = "are" if len(left) > 1 else "is"
        notes.append(f"{', '.join(left)} {are} left out: what is trained does not hang on it")
    if codebase.remark:
        notes.append(codebase.remark)
    return Read(base, values, notes)


def _sorted_out(
    table: Table, its: Theirs, given: Theirs, values: dict[str, Any], settled: Collection[str]
) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Sets what is set; names what is left out, what has no counterpart, as shown, and the fields of these if known."""
    left: list[str] = []
    none: dict[str, str] = {}
    without: dict[str, str] = {}
    for name in dict.fromkeys((*table, *given)):
        row = _row(name, table)
        if row is None or (row.only and its[name] not in row.only):
            none[name] = f"{name}={its[name]}"
        elif row is LEFT_OUT and name in given:
            left.append(name)
        elif row.value is not NOTHING and row.ours not in settled:
            value = its[name] if row.value is SAME else row.value(its)
            if value is NOTHING:
                none[name], without[name] = f"{name}={its[name]}", row.ours
            values[row.ours] = value
    return left, none, without


def _row(name: str, table: Table) -> Row | None:
    """The row of a name, or of the section it is in."""
    return table.get(name) or (table.get(name.partition(".")[0]) if "." in name else None)
