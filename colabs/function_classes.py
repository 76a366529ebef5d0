# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # What can Transformers learn in context? Linear functions, at every length of a prompt
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/function_classes.ipynb)
#
# Garg et al. ([2208.01066](https://arxiv.org/abs/2208.01066)): a GPT-2 reads $x_1, y_1, x_2, y_2, \ldots$ and predicts
# every $y_k$ from the $k-1$ examples before it. Is its error that of least squares? On Colab, first run
# `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd` and restart.

# %%
import os
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import icl_gd
from icl_gd import analysis, interop, learners, models, plots, tokens
from icl_gd.tasks import EVAL_SUITE, FunctionRegression, Linear

FAST = bool(os.environ.get("ICL_GD_FAST"))  # a handful of steps, to see that the notebook runs
STEPS, EVERY = (20, 10) if FAST else (30_000, 1000)

task = FunctionRegression(Linear(5), n_context=10)
sample = lambda task: jax.jit(jax.vmap(task.sample_prefixes))(
    jax.random.split(jax.random.key(1_000_000), 64 if FAST else 1280)
)
prompts = sample(task)


def errors(predictor, task, prompts):
    """Mean square error after every number of examples, over the variance of labels."""
    measure = jax.jit(lambda prompts: analysis.prefix_squared_errors(predictor, prompts, task.in_order, 64).mean(0))
    return np.asarray(measure(prompts)) / task.label_variance


# %% [markdown]
# ## Learners
#
# A learner of prefixes answers for all lengths at once. Of least squares the error is known, $1 - k/d$ with fewer
# examples $k$ than inputs $d$, and zero from there on; averaging $x y$ has $(d+1)/k$.

# %%
known = {
    "least_squares": learners.prefix_least_squares,
    "averaging": learners.prefix_averaging,
    "nearest_3": learners.prefix_nearest_neighbours(3),
}
with jax.enable_x64(True):  # near k = d least squares loses half its digits
    exact = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), prompts)
    of_learners = {name: errors(learner, task, exact) for name, learner in known.items()}
print("least squares:", of_learners["least_squares"].round(3))

# %% [markdown]
# ## Train
#
# The same Transformer as in the other notebooks, with the switches that make it one like GPT-2; one of the size
# `tiny`, for some minutes on a CPU. `configs/garg_linear.py` has the published sizes.

# %%
layout = tokens.alternating(5, 1)
width, layers, heads = (16, 1, 2) if FAST else (64, 3, 2)
config = models.gpt2_config(5, 2 * 10 + 1, width, layers, heads)
settings = icl_gd.TrainSettings(
    STEPS, batch_size=64, learning_rate=1e-3, schedule="cosine", clip=1e6, beta2=0.999, epsilon=1e-8
)
history = []


def watch(trained, step, loss):
    found = errors(models.prefix_predictor(config, trained.member(0), layout), task, prompts)
    history.append(found)
    print(f"step {step}: error {found.mean():.3f}, after ten examples {found[-1]:.3f}")


trained = icl_gd.train(task, config, settings, layout="alternating", on_chunk=watch, chunk_steps=EVERY)
model = models.prefix_predictor(config, trained.member(0), layout)

# %%
with plots.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.PAGE, 2.6))
    for role, values in {**of_learners, "trained": history[-1]}.items():
        left.plot(values, plots.ROLES[role][2], color=plots.ROLES[role][1], label=plots.ROLES[role][0])
    left.set(xlabel="in-context examples", ylabel="error / variance of labels", ylim=(0, 1.3))
    left.legend()
    steps = EVERY * (1 + np.arange(len(history)))
    right.plot(steps, np.mean(history, axis=1), color=plots.ROLES["trained"][1])
    plots.level(right, of_learners["least_squares"].mean(), "least_squares")
    right.set(xlabel="training step", ylabel="mean over lengths", ylim=(0, 1.1))

# %% [markdown]
# ## Which function of the query?
#
# Small errors could come from many functions. How a prediction changes with the query says which one it is: that of
# least squares changes by $w$ on the span of the examples, and once there are as many of them as inputs, by $w$.

# %%
few = jax.tree.map(lambda leaf: leaf[:64], prompts)


def sensitivity(predictor):
    """`d y_hat / d x_query` after one example, two, ...: `[prompt n d]`; without examples least squares has none."""
    return np.asarray(jax.jit(lambda few: analysis.prefix_responses(predictor, few))(few)[1])[:, 1:, 0]


def cosine(a, b):
    return np.mean(np.sum(a * b, -1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)), axis=0)


of_model, of_least_squares, w = sensitivity(model), sensitivity(learners.prefix_least_squares), np.asarray(few.w)
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    examples, blue, orange = (
        np.arange(1, task.n_context + 1),
        plots.ROLES["trained"][1],
        plots.ROLES["least_squares"][1],
    )
    ax.plot(examples, cosine(of_model, of_least_squares), color=blue, label="model, to least squares")
    ax.plot(examples, cosine(of_model, w), "--", color=blue, label="model, to the function")
    ax.plot(examples, cosine(of_least_squares, w), "--", color=orange, label="least squares, to the function")
    ax.set(xlabel="in-context examples", ylabel="cosine of sensitivities", ylim=(-0.1, 1.05))
    ax.legend()

# %% [markdown]
# ## Other prompts than those of training
#
# One in one quadrant and the query anywhere, a query orthogonal to all inputs (nothing can be known), one that is an
# input again (all is), inputs in half the dimensions, noise. An algorithm cares only for what it depends on.

# %%
names = ("random_quadrants", "orthogonal_query", "repeated_query", "half_subspace", "noisy", "labels_double")
with plots.style():
    figure, axes = plt.subplots(2, 3, figsize=(plots.PAGE, 3.6), sharex=True)
    for ax, name in zip(axes.flat, names, strict=True):
        family = EVAL_SUITE[name](task)
        drawn = sample(family)
        for role, predictor in {"least_squares": learners.prefix_least_squares, "trained": model}.items():
            values = errors(predictor, family, drawn)
            ax.plot(values, plots.ROLES[role][2], color=plots.ROLES[role][1], label=plots.ROLES[role][0])
        ax.set(title=name.replace("_", " "), ylim=(0, 2))
    axes[0, 0].legend()
    axes[1, 1].set_xlabel("in-context examples")

# %% [markdown]
# ## Keep it
#
# Two files that others can read: weights as safetensors, and what they are of. Published checkpoints of the paper are
# read by `interop.from_garg("state.pt")`, which executes nothing of them.

# %%
with tempfile.TemporaryDirectory() as directory:
    interop.Pretrained(config, trained.member(0), "alternating", 5).save_pretrained(directory)
    again = interop.from_pretrained(directory).prefix_predictor
    x, y = prompts.x[0], prompts.y[0]
    print(sorted(os.listdir(directory)), "largest difference:", float(jnp.abs(again(x, y) - model(x, y)).max()))
