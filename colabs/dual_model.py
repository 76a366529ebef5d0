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
# # What does the dual model of softmax attention say about learning in context?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/dual_model.ipynb)
#
# The output of a softmax head at a query equals the prediction of a linear model after one gradient step on the
# demonstrations (Ren & Liu, [2310.13220](https://arxiv.org/abs/2310.13220)). That model is the *dual model* of the
# head. This notebook builds it, follows its gradient step, and compares it with gradient descent on the prompt.
#
# On Colab, first run `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd`, then restart the runtime.
# On a GPU runtime install `'icl_gd[cuda12]'`. The notebook takes about three minutes on two CPU cores.

# %%
# %matplotlib inline
import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import icl_gd
from icl_gd import analysis, dual, learners, models, plots, tokens
from icl_gd.dual import features
from icl_gd.tasks import ElementwiseRegression

FAST = bool(os.environ.get("ICL_GD_FAST"))  # a few steps, for tests
STEPS, DRAWS, MOST = (20, 2, 64) if FAST else (3000, 128, 4096)

# %% [markdown]
# ## From a head to its dual model
#
# A head has a key $k_j$ and a value $v_j$ for every token, and a query $q$. Its output is
#
# $$h = \frac{1}{D} \sum_j v_j \, e^{k_j^\top q}, \qquad D = \sum_j e^{k_j^\top q}.$$
#
# 1. The exponential is a *kernel*: there is a feature map $\phi$ with $\phi(a)^\top \phi(b) = e^{a^\top b}$. So
#    $h = W \phi(q)$ with $W = \frac{1}{D} \sum_j v_j \phi(k_j)^\top$: the head is a *linear* model of $\phi$.
# 2. Define the linear model $f(z) = W \phi(z)$ and its loss $L(W) = -\frac{1}{D} \sum_i v_i^\top W \phi(k_i)$ over
#    the demonstrations $i$. The loss is small if the output for a key has the direction of the value of that key.
# 3. The gradient of the loss is $-\frac{1}{D} \sum_i v_i \phi(k_i)^\top$, whatever $W$ is. Start from the part of $W$
#    that belongs to the query's own token. One step of size one ends at $W$, and $f(q) = h$.
#
# The features $\phi$ need not be computed: only inner products occur, and those are exponentials.
#
# Check it on a layer with random weights: the dual models must reproduce its output.

# %%
task = ElementwiseRegression("linear", d_input=5, n_context=15)  # y = w x, a new w in every prompt
layout = tokens.concatenated(5, 1)  # a token is (x, y), the query's (x, 0)
config = icl_gd.TransformerConfig(d_token=6, n_heads=2, attention="softmax", attend_to_query=True, init_scale=0.3)
random_params = models.init(config, jax.random.key(0))
prompt = task.sample(jax.random.key(1))
encoded = layout.encode(prompt.x, prompt.y, prompt.x_query)

duals = [dual.dual_of(config, random_params, layer=0, head=head)(encoded) for head in range(2)]
outputs = jnp.stack([dual.prediction(one) for one in duals])
by_duals = dual.block_of(config, random_params, 0, encoded)(outputs)  # heads written out, and added to the token
by_layer = models.apply(config, random_params, encoded).residual[-1, -1]
print("the layer, at the query:", by_layer.round(4))
print("largest difference to its dual models:", float(jnp.abs(by_duals - by_layer).max()))

# %% [markdown]
# ## The path of the gradient step in a trained layer
#
# The statement holds for every head, trained or not. Train a layer, and follow its dual model: the loss is linear, so
# one step on all demonstrations equals a sequence of steps on single demonstrations.

# %%
settings = icl_gd.TrainSettings(STEPS, batch_size=128, learning_rate=1e-2, schedule="cosine", clip=1.0)
trained = icl_gd.train(task, config, settings, seeds=1)
params = trained.member(0)
prompts = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(1_000_000), 64))
step_size = learners.fit_step_size(prompts)
gd = learners.gradient_descent([step_size])


def trajectory(prompt):
    """Distance to the layer's output, and prediction, after each number of processed demonstrations."""
    encoded = layout.encode(prompt.x, prompt.y, prompt.x_query)
    heads = [dual.dual_of(config, params, 0, head)(encoded) for head in range(2)]
    path = jnp.stack([dual.trajectory(one).prediction[: task.n_context + 1] for one in heads], axis=1)
    distance = jnp.linalg.norm(path - path[-1:], axis=-1) / jnp.linalg.norm(path[-1:], axis=-1)
    written = jax.vmap(dual.block_of(config, params, 0, encoded))(path)
    return distance.mean(1), jax.vmap(models.read_out(config, params, layout))(written)[:, 0]


def loss(y_hat):
    return 0.5 * jnp.mean((y_hat - prompts.y_query[:, :1]) ** 2, axis=0)


distance, predicted = jax.jit(jax.vmap(trajectory))(prompts)
loss_gd = float(loss(jax.vmap(gd)(prompts.x, prompts.y, prompts.x_query))[0])
with plots.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.PAGE, 2.4))
    left.plot(distance.mean(0), color=plots.ROLES["trained"][1])
    left.set(xlabel="demonstrations processed", ylabel="distance to the layer's output", ylim=(0, None))
    right.plot(loss(predicted), color=plots.ROLES["trained"][1], label="prediction of the dual model")
    plots.horizontal_line(right, loss_gd, "gd", "one least-squares gradient step")
    right.set(xlabel="demonstrations processed", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, None))
    right.legend()

# %% [markdown]
# ## Is this gradient descent on the least-squares loss of the prompt?
#
# Not by construction: no label is compared with a prediction. The training pairs of the dual model are keys and
# values, and both depend on whole tokens. But the two can be compared: each adds a contribution of every demonstration
# to the prediction. In a least-squares step it is $\frac{\eta}{N} y_i \, x_i^\top x_{query}$. In the dual model it is
# what the heads write to the slot of the prediction.


# %%
linear = icl_gd.TransformerConfig(d_token=6, attention="linear")
of_linear = icl_gd.TrainSettings(STEPS, batch_size=128, learning_rate=3e-3, schedule="cosine", clip=1.0)
networks = {"softmax": (config, params), "linear": (linear, icl_gd.train(task, linear, of_linear, seeds=1).member(0))}


def contributions(config, params, prompt):
    """What each demonstration adds to the prediction: in the dual models, and in a least-squares gradient step."""
    encoded = layout.encode(prompt.x, prompt.y, prompt.x_query)
    ours = 0.0
    for head in range(config.n_heads):
        one = dual.dual_of(config, params, 0, head, config.kinds[0])(encoded)
        written = (dual.attention_weights(one)[:, None] * one.values) @ params[config.blocks[0]]["attention"]["P"][
            head, -1
        ]
        ours = ours - written[: task.n_context]  # the layout negates predictions
    theirs = step_size / task.n_context * (prompt.x @ prompt.x_query) * prompt.y[:, 0]
    return ours - ours.mean(), theirs - theirs.mean()


with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE * 0.85, 2.5))
    for ax, (name, network) in zip(axes, networks.items(), strict=True):
        ours, theirs = jax.jit(jax.vmap(lambda prompt, network=network: contributions(*network, prompt)))(prompts)
        ax.plot(theirs.ravel(), ours.ravel(), ".", color=plots.ROLES["trained"][1], markersize=2)
        ax.axline((0, 0), slope=1, color="black", linewidth=0.4)
        ax.set(xlabel="contribution in a least-squares step", ylabel="contribution in the dual models", title=name)
        network_predictor = models.predictor(*network, layout)
        print(name, "correlation:", float(jnp.corrcoef(ours.ravel(), theirs.ravel())[0, 1]))
        print(name, analysis.alignment(network_predictor, gd, prompts))

# %% [markdown]
# Measurement shows what the dual model does not: how close a trained layer is to the least-squares step. Trained
# linear attention, whose $\phi$ is the identity, takes that step (von Oswald et al.). The softmax layer here is close
# to it. Some seeds are close and others are not: see `configs/dual_model.py:layer`.
#
# ## Random features
#
# $\phi$ has infinitely many dimensions. Random features approximate it: draw $m$ normal vectors $w_i$ and let
# $\phi(z)_i = e^{w_i^\top z - |z|^2/2}/\sqrt m$. The mean of $\phi(a)^\top \phi(b)$ over $w$ is
# $e^{a^\top b}$. Then $W$ is a matrix, and the gradient step can be computed by automatic differentiation. The error
# falls as one over the square root of the number of features $m$. It is smaller if the directions $w$ are orthogonal
# and come with their opposites.

# %%
one = dual.dual_of(config, params, 0, 0)(layout.encode(prompts.x[0], prompts.y[0], prompts.x_query[0]))
longest = jnp.maximum(jnp.linalg.norm(one.keys, axis=1).max(), jnp.linalg.norm(one.query))
short = replace(
    one, keys=one.keys / longest, query=one.query / longest
)  # the rate appears at smaller m for short vectors
exact = dual.prediction(short)
numbers = [m for m in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if m <= MOST]
kinds = {"independent directions": {}, "orthogonal, with opposites": {"hyperbolic": True, "orthogonal": True}}
errors = {name: [] for name in kinds}
for name, kind in kinds.items():
    for m in numbers:

        def error(key, m=m, kind=kind):
            feature_map = dual.positive_features(key, len(short.query), m, **kind)
            output = features.step(short, feature_map) @ feature_map(short.query)
            return jnp.linalg.norm(output - exact) / jnp.linalg.norm(exact)

        draws = jax.random.split(jax.random.key(2), DRAWS)
        errors[name].append(float(jax.jit(lambda keys, error=error: jax.lax.map(error, keys).mean())(draws)))
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    for (name, values), line in zip(errors.items(), ("o-", "s--"), strict=True):
        ax.loglog(numbers, values, line, color="#0072B2", label=name)
    root = errors["independent directions"][0] * (numbers[0] / np.array(numbers)) ** 0.5
    ax.loglog(numbers, root, ":k", label=r"$1/\sqrt{m}$")
    ax.set(xlabel="random features $m$", ylabel="relative error")
    ax.legend()

# %% [markdown]
# ## Modified attention from a modified loss
#
# Add $\frac{\alpha}{2} |W|^2$ to the loss of the dual model. The gradient step then multiplies the initial weights by
# $1 - \alpha$, and so the attention weight of the query's own token (`query_damping`). Or subtract from every value
# $\beta$ times the mean of the least attended values (`negative_weight`): the loss gets negative samples. Both
# modifications have exact dual models.

# %%
damped = models.Modification(query_damping=0.5)
negative = models.Modification(negative_weight=0.5, negative_fraction=0.25)
both = models.Modification(query_damping=-1.0, negative_weight=0.25, negative_fraction=0.25)
for modification in (damped, negative, both):
    changed = replace(config, modification=modification)
    params_changed = models.init(changed, jax.random.key(0))
    heads = [dual.dual_of(changed, params_changed, 0, head)(encoded) for head in range(2)]
    by_dual = dual.block_of(changed, params_changed, 0, encoded)(jnp.stack([dual.prediction(one) for one in heads]))
    computed = models.apply(changed, params_changed, encoded).residual[-1, -1]
    print(modification.enabled, "largest difference:", float(jnp.abs(by_dual - computed).max()))

# %% [markdown]
# ## What follows
#
# - The dual model is exact. It is another way to *write* attention, for random weights as for trained ones.
#
# What does not follow:
#
# - One learning problem for all queries: $D$ depends on the query, so each query has its own.
# - Convergence: the loss has no minimum. One step gives the head; two steps give something else.
# - Gradient descent on the loss of the prompt: labels are never compared with predictions. Whether a layer does that
#   must be measured, as above and in the other notebooks.
#
# [docs/dual_model.md](https://github.com/icl-gd/icl_gd/blob/main/docs/dual_model.md) has the details.
# `configs/dual_model.py` repeats the measurements over seeds in double precision.
