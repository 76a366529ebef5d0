"""The task, the model and the training that a config describes: the one place where its fields become dataclasses."""

from dataclasses import replace

import numpy as np

from icl_gd.lab.config.asked import Config
from icl_gd.lab.config.recipe_fields import MODIFICATIONS
from icl_gd.models import TransformerConfig, gpt2_config
from icl_gd.tasks import (
    FUNCTIONS,
    ElementwiseRegression,
    FinitePool,
    FinitePrefixPool,
    FunctionPool,
    FunctionRegression,
    LinearRegression,
    SineRegression,
)
from icl_gd.tokens import LAYOUTS
from icl_gd.training import Curriculum, Ramp, TrainSettings
from icl_gd.training.problem import Task


def task_of(config: Config) -> LinearRegression:
    """The task a config describes."""
    task, covariance = config.task, None
    if task.eigenvalues:
        basis = np.eye(task.d_input)
        if task.rotation_seed is not None:
            basis, _ = np.linalg.qr(np.random.default_rng(task.rotation_seed).normal(size=basis.shape))
        covariance = tuple(map(tuple, ((basis * np.asarray(task.eigenvalues)) @ basis.T).tolist()))
    return LinearRegression(
        d_input=task.d_input, d_output=task.d_output, n_context=task.n_context,
        inputs=task.inputs, input_scale=task.input_scale, covariance=covariance,
        weight_scale=task.weight_scale, noise_std=task.noise_std, corrupted_labels=task.corrupted_labels,
    )  # fmt: skip


def trained_on(config: Config) -> Task:
    """What a config trains on: its task, or a pool of its prompts. It is evaluated on the task."""
    task = task_of(config)
    return task if config.task.pool is None else FinitePool(task, config.task.pool, config.seed)


def functions_of(config: Config) -> FunctionRegression:
    """The task of a config of function classes."""
    task = config.task
    sizes = {"sparse": {"non_zeros": task.non_zeros}, "relu_network": {"hidden": task.hidden},
             "decision_tree": {"depth": task.depth}}  # fmt: skip
    functions = FUNCTIONS[task.name](task.d_input, **sizes.get(task.name, {}))
    return FunctionRegression(
        functions, task.n_context, task.family, task.input_scale, task.weight_scale, task.noise_std
    )


def functions_trained_on(config: Config) -> FunctionRegression | FinitePrefixPool:
    """What a config of function classes trains on: its task, that of a pool of functions, or a pool of its prompts."""
    task = functions_of(config)
    if config.task.function_pool is not None:
        return replace(task, functions=FunctionPool(task.functions, config.task.function_pool, config.seed))
    return task if config.task.pool is None else FinitePrefixPool(task, config.task.pool, config.seed)


def sine_of(config: Config) -> SineRegression:
    """The task of a config of sine waves."""
    return SineRegression(config.task.n_context, config.task.faithful)


def elementwise_of(config: Config) -> ElementwiseRegression:
    """The task of a config of dual models."""
    task = config.task
    return ElementwiseRegression(task.name, task.d_input, task.d_output, task.n_context)


def model_of(config: Config) -> TransformerConfig:
    """The Transformer a config describes; the token width follows the task."""
    model, task = config.model, config.task
    kinds = tuple(word.strip() for word in model.attention.split(","))
    d_token = LAYOUTS[model.layout](task.d_input, task.d_output).d_token
    if model.style == "gpt2":
        sizes = (model.d_embed, model.n_layers, model.n_heads)
        of_style = gpt2_config(d_token, 2 * task.n_context + 1, *sizes, d_read_out=task.d_output)
    else:
        of_style = TransformerConfig(
            d_token, model.n_layers, model.n_heads, model.d_head, d_embed=model.d_embed, mlp_width=model.mlp_width
        )
    return replace(
        of_style, shared=model.shared, clip=model.clip, init_scale=model.init_scale,
        attention=kinds[0] if len(kinds) == 1 else kinds, layer_norm=model.layer_norm, normalised=model.normalised,
        compute=None if model.compute == "parameters" else model.compute, reads_query=model.reads_query,
        **{name: model[name] for name in MODIFICATIONS},
    )  # fmt: skip


def train_of(config: Config) -> TrainSettings:
    """How a config trains."""
    names = ("steps", "batch_size", "learning_rate", "schedule", "clip", "beta1", "beta2", "epsilon", "weight_decay",
             "share_batches", "form")  # fmt: skip
    return TrainSettings(**{name: config.train[name] for name in names}, curriculum=_curriculum(config))


def _curriculum(config: Config) -> Curriculum | None:
    inputs, points = config.train.active_inputs, config.train.active_points
    if not inputs and not points:
        return None
    ramp = lambda asked, end: Ramp(asked[0], end, *asked[1:]) if asked else Ramp(end, end)
    return Curriculum(ramp(inputs, config.task.d_input), ramp(points, config.task.n_context + 1))
