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
# # One linear-attention layer is one step of gradient descent
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/one_layer.ipynb)
#
# von Oswald et al. ([2212.07677](https://arxiv.org/abs/2212.07677)), Figure 2: we build the layer that is a gradient
# step, train another from scratch, and compare the two. On Colab, first run
# `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd` and restart.

# %%
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import icl_gd
from icl_gd import analysis, constructions, learners, models, plots, tokens

FAST = bool(os.environ.get("ICL_GD_FAST"))  # a handful of steps, to see that the notebook runs
STEPS = 20 if FAST else 5000

# %% [markdown]
# ## Construct
#
# A problem is ten pairs $(x, Wx)$ and a query. The best step size of one gradient step is known in closed form.

# %%
task = icl_gd.LinearRegression(d_input=10, n_context=10)
prompts = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(1_000_000), 10_000))
step_size = learners.optimal_step_size(10, 10, second=1 / 12, fourth=1 / 80)
layout = tokens.concatenated(10, 1)
gd = learners.gradient_descent([step_size])
config = constructions.gradient_descent_config(10, 1, n_steps=1)
weights = constructions.gradient_descent_weights(config, 10, 10, [step_size])
built = models.predictor(config, weights, layout)
print("step size / N:", step_size / 10)
print("loss of one gradient step:", analysis.risk(gd, prompts, jax.random.key(1)))
print("construction against gradient descent:", analysis.alignment(built, gd, prompts))

# %% [markdown]
# ## Train
#
# Four seeds at once: a population is an array axis.

# %%
history = []


def watch(trained, step, loss):
    history.append((step, np.asarray(loss.mean(0))))


settings = icl_gd.TrainSettings(steps=STEPS, batch_size=64 if FAST else 2048, share_batches=True)
trained = icl_gd.train(task, icl_gd.TransformerConfig(d_token=11), settings, seeds=4, on_chunk=watch, chunk_steps=20)

# %%
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    ax.plot([step for step, _ in history], [losses for _, losses in history], color=plots.ROLES["trained"][1])
    plots.level(ax, float(analysis.losses(gd, prompts).mean()), "gd", "one gradient step")
    ax.set(xlabel="training step", ylabel="loss")
    ax.legend()

# %% [markdown]
# ## Compare
#
# The cosine of sensitivities is blind to the step size, so look at all three numbers.

# %%
for seed, predictor in enumerate(trained.predictors):
    print(seed, analysis.alignment(predictor, gd, prompts))

# %% [markdown]
# The weights: the circuits of the trained layer, the scale between them matched to the construction's.

# %%
reference = models.circuits(config, weights)
found = analysis.match_scale(models.circuits(trained.config, trained.member(0)), reference)
with plots.style():
    figure, axes = plt.subplots(2, 2, figsize=(plots.PAGE * 0.8, 4.5))
    for row, (name, circuits) in zip(axes, (("built", reference), ("trained", found)), strict=True):
        plots.matrix(row[0], np.asarray(circuits.W_KQ[0, 0]), rf"$W_{{KQ}}$, {name}", 10)
        plots.matrix(row[1], np.asarray(circuits.W_PV[0, 0]), rf"$W_{{PV}}$, {name}", 10)
print("gauge distance:", float(analysis.gauge_distance(found, reference, 10)))
