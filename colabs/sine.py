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
# # Does a Transformer learn sine waves by gradient descent on deep features?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/sine.ipynb)
#
# An MLP and one linear-attention layer learn sine waves in context (von Oswald et al.,
# [2212.07677](https://arxiv.org/abs/2212.07677), non-linear regression). Does the layer take one gradient step on a
# linear head over the features of the MLP?
#
# On Colab, first run `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd`, then restart the runtime.
# On a GPU runtime install `'icl_gd[cuda12]'`. The notebook takes about five minutes on two CPU cores.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import icl_gd
from icl_gd import analysis, constructions, learners, models, plots
from icl_gd.tasks import SineRegression

FAST = bool(os.environ.get("ICL_GD_FAST"))  # a few steps, for tests
STEPS, BATCH, PROMPTS = (20, 32, 64) if FAST else (20_000, 256, 2048)

# %% [markdown]
# ## The task
#
# A prompt has ten examples of $a \sin(x + \varphi)$, with its own amplitude and phase.

# %%
task = SineRegression(n_context=10)
prompts = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(1_000_000), PROMPTS))
mean, second = task.label_moments
print("loss of predicting zero:", second / 2)
linear = learners.gradient_descent([learners.fit_step_size(prompts)])
print("loss of one gradient step on x itself:", float(analysis.losses(linear, prompts).mean()))

# %% [markdown]
# ## Train the learner of comparison
#
# Freeze the attention layer to the construction of one gradient step, and train the MLP before it. The result is
# gradient descent on meta-learned features.

# %%
config = icl_gd.TransformerConfig(d_token=2, d_embed=40, input_mlp_width=160)
built = constructions.gradient_descent_weights(config, d_input=39, n_context=10, step_sizes=[0.1])
history = {"trained": [], "gd_deep_features": []}


def watch(name):
    def on_chunk(trained, step, loss):
        history[name].append((step, float(loss.mean())))

    return on_chunk


rates = {"steps": STEPS, "batch_size": BATCH, "clip": 100.0}
learner = icl_gd.train(
    task,
    config,
    icl_gd.TrainSettings(learning_rate=3e-4, beta2=0.999, **rates),
    frozen=built,
    on_chunk=watch("gd_deep_features"),
    chunk_steps=20 if FAST else 200,
)

# %% [markdown]
# Written as a learner: compute the features and the target of every example, and take one step of gradient descent on
# a linear head. The network with the frozen layer and this learner agree.

# %%
embed = models.features(config, learner.member(0), 1)
gd = learners.deep_gradient_descent(embed, [0.1])
print("network against learner:", analysis.alignment(learner.predictors[0], gd, prompts))

# %% [markdown]
# ## Train the Transformer
#
# The same network, with a trained attention layer.

# %%
trained = icl_gd.train(
    task, config, icl_gd.TrainSettings(**rates), on_chunk=watch("trained"), chunk_steps=20 if FAST else 200
)

# %%
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    for name, losses in history.items():
        label, colour, dashes = plots.ROLES[name]
        ax.plot(*zip(*losses, strict=True), dashes, color=colour, label=label)
    plots.horizontal_line(ax, second / 2, "zero")
    ax.set(xlabel="training step", ylabel="training loss", yscale="log")
    ax.legend(loc="lower left")

# %% [markdown]
# ## Compare
#
# The difference of predictions is compared with the standard deviation of the targets. With one input dimension, the
# cosine of sensitivities is +1 or -1 for a prompt: it says whether both predictions rise or fall together.

# %%
transformer = trained.predictors[0]
alignment = analysis.alignment(transformer, gd, prompts)
print(alignment)
print("prediction difference / standard deviation:", float(alignment.prediction_difference) / (second - mean**2) ** 0.5)
for name, predictor in (("Transformer", transformer), ("gradient descent", gd)):
    print("loss of", name, float(analysis.losses(predictor, prompts).mean()))

# %% [markdown]
# Predicted functions of three prompts: dotted lines before the layer (or the gradient step), coloured lines after it.
# The black line is the true function, dots are the examples.

# %%
grid = jnp.linspace(-5.0, 5.0, 201)[:, None]
layerwise = {
    "trained": models.layerwise_predictor(config, trained.member(0), trained.layout),
    "gd_deep_features": learners.layerwise_deep_gradient_descent(embed, [0.1]),
}
with plots.style():
    figure, axes = plt.subplots(2, 3, figsize=(plots.PAGE, 3.2), sharex=True, sharey=True)
    for row, (name, predict) in zip(axes, layerwise.items(), strict=True):
        label, colour, dashes = plots.ROLES[name]
        for i, ax in enumerate(row):
            x, y, (amplitude, phase) = prompts.x[i], prompts.y[i], np.asarray(prompts.w[i, 0])
            y_hat = jax.vmap(predict, (None, None, 0))(x, y, grid)[..., 0]
            ax.plot(grid, amplitude * np.sin(grid + phase), color="black", linewidth=0.8)
            ax.plot(grid, y_hat[:, 0], ":", color=colour, linewidth=1.0)
            ax.plot(grid, y_hat[:, -1], dashes, color=colour)
            ax.plot(x, y, "o", color="black", markersize=2.5)
        row[0].set(ylabel=label.replace(" on ", "\non "))
    for ax in axes[-1]:
        ax.set(xlabel="$x$")

# %% [markdown]
# ## What follows
#
# The trained Transformer and gradient descent on deep features predict similar functions, and reach similar losses.
#
# What does not follow: that they are the same function. Their difference is a visible part of the spread of the
# targets, and two Transformers of other seeds differ about as much from each other; `configs/sine.py` measures both.
