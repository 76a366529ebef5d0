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
# # Does one linear-attention layer learn to take one step of gradient descent?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/one_layer.ipynb)
#
# This notebook reproduces Figure 2 of von Oswald et al. ([2212.07677](https://arxiv.org/abs/2212.07677)). We build a
# layer that takes one gradient step, train another layer from random weights, and compare the two.
#
# On Colab, first run `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd`, then restart the runtime.
# On a GPU runtime install `'icl_gd[cuda12]'`. The notebook takes about three minutes on two CPU cores.

# %%
# %matplotlib inline
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import icl_gd
from icl_gd import analysis, constructions, learners, models, plots, tokens

FAST = bool(os.environ.get("ICL_GD_FAST"))  # a few steps, for tests
STEPS = 20 if FAST else 5000

# %% [markdown]
# ## Build the layer
#
# A prompt has ten pairs $(x, Wx)$ and a query. The step size that minimises the risk has a closed form. The last line
# checks that the built layer computes the gradient step.

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
# ## Train layers
#
# Four seeds are trained in one program, because members lie along an array axis.

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
    plots.horizontal_line(ax, float(analysis.losses(gd, prompts).mean()), "gd", "one gradient step")
    ax.set(xlabel="training step", ylabel="loss")
    ax.legend()

# %% [markdown]
# ## Compare
#
# The sensitivity of a prediction is its derivative with respect to the query. The cosine between the sensitivities of a
# trained layer and of gradient descent ignores the step size. So look at all three numbers: cosine, difference of
# sensitivities, difference of predictions.

# %%
for seed, predictor in enumerate(trained.predictors):
    print(seed, analysis.alignment(predictor, gd, prompts))

# %% [markdown]
# ## Compare the weights
#
# Two circuits determine the layer: $W_{KQ}$ (QK) and $W_{PV}$ (OV). A factor can be moved from one to the other
# without changing the layer, so the trained circuits are scaled to match the built ones.

# %%
reference = models.circuits(config, weights)
matched = analysis.match_scale(models.circuits(trained.config, trained.member(0)), reference)
with plots.style():
    figure, axes = plt.subplots(2, 2, figsize=(plots.PAGE * 0.8, 4.5))
    for row, (name, circuits) in zip(axes, (("built", reference), ("trained", matched)), strict=True):
        plots.matrix(row[0], np.asarray(circuits.W_KQ[0, 0]), rf"$W_{{KQ}}$, {name}", 10)
        plots.matrix(row[1], np.asarray(circuits.W_PV[0, 0]), rf"$W_{{PV}}$, {name}", 10)
print("gauge distance:", float(analysis.gauge_distance(matched, reference, 10)))

# %% [markdown]
# ## What follows
#
# Every seed reaches the loss of one gradient step, with the same sensitivities and predictions, and with the same
# circuits up to the gauge. On this distribution the trained layer computes one step of gradient descent.
#
# This does not show that deeper or non-linear Transformers do the same. `configs/two_layers.py` and
# `configs/softmax_heads.py` test that.
