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
# # The dual model: softmax attention, read as one step of gradient descent
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/dual_model.ipynb)
#
# Ren & Liu ([2310.13220](https://arxiv.org/abs/2310.13220)): whatever a softmax head computes at a query is what some
# linear model says there after one gradient step on the demonstrations. That model is the head's *dual*. This notebook
# builds it, follows it, and asks what it does and does not say about learning in context. On Colab, first run
# `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd` and restart.

# %%
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

FAST = bool(os.environ.get("ICL_GD_FAST"))  # a handful of steps, to see that the notebook runs
STEPS, DRAWS, MOST = (20, 2, 64) if FAST else (3000, 128, 4096)

# %% [markdown]
# ## From a head to its dual, in three lines
#
# A head has a key $k_j$ and a value $v_j$ for every token, and a query $q$. It says
#
# $$h = \frac{1}{D} \sum_j v_j \, e^{k_j^\top q}, \qquad D = \sum_j e^{k_j^\top q}.$$
#
# 1. The exponential is a *kernel*: there is a map $\phi$ into a space of many dimensions in which
#    $\phi(a)^\top \phi(b) = e^{a^\top b}$. So $h = W \phi(q)$ with $W = \frac{1}{D} \sum_j v_j \phi(k_j)^\top$:
#    the head is a *linear* model of $\phi$.
# 2. Take the linear model $f(z) = W \phi(z)$, and as its loss $L(W) = -\frac{1}{D} \sum_i v_i^\top W \phi(k_i)$
#    over the demonstrations $i$: it is small when what the model says of a key points the way of that key's value.
# 3. Its gradient is $-\frac{1}{D} \sum_i v_i \phi(k_i)^\top$ everywhere. So one step of size one, from the part of $W$
#    that the query's own token makes, ends at $W$, and $f(q) = h$.
#
# Nobody has to write $\phi$ down. All that is asked for are inner products, and those are exponentials.
#
# Here is a head with random weights. Its dual has to say what the layer computes.

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
# ## Of trained layers it holds no more and no less
#
# The statement is one about every head, trained or not. So let us train one and see what its dual model does on the way
# to the answer: the loss is linear, so that a step on all demonstrations is as many steps on one each.

# %%
settings = icl_gd.TrainSettings(STEPS, batch_size=128, learning_rate=1e-2, schedule="cosine", clip=1.0)
trained = icl_gd.train(task, config, settings, seeds=1)
params = trained.member(0)
prompts = jax.jit(jax.vmap(task.sample))(jax.random.split(jax.random.key(1_000_000), 64))
step_size = learners.fit_step_size(prompts)
gd = learners.gradient_descent([step_size])


def way(prompt):
    """Of every number of demonstrations met: the distance to the layer's output, and the prediction."""
    encoded = layout.encode(prompt.x, prompt.y, prompt.x_query)
    heads = [dual.dual_of(config, params, 0, head)(encoded) for head in range(2)]
    met = jnp.stack([dual.trajectory(one).prediction[: task.n_context + 1] for one in heads], axis=1)
    apart = jnp.linalg.norm(met - met[-1:], axis=-1) / jnp.linalg.norm(met[-1:], axis=-1)
    written = jax.vmap(dual.block_of(config, params, 0, encoded))(met)
    return apart.mean(1), jax.vmap(models.read_out(config, params, layout))(written)[:, 0]


apart, said = jax.jit(jax.vmap(way))(prompts)
loss = lambda y_hat: 0.5 * jnp.mean((y_hat - prompts.y_query[:, :1]) ** 2, axis=0)
loss_gd = float(loss(jax.vmap(gd)(prompts.x, prompts.y, prompts.x_query))[0])
with plots.style():
    figure, (left, right) = plt.subplots(1, 2, figsize=(plots.PAGE, 2.4))
    left.plot(apart.mean(0), color=plots.ROLES["trained"][1])
    left.set(xlabel="demonstrations met", ylabel="distance to the layer's output", ylim=(0, None))
    right.plot(loss(said), color=plots.ROLES["trained"][1], label="prediction after so many")
    plots.level(right, loss_gd, "gd", "one least-squares gradient step")
    right.set(xlabel="demonstrations met", ylabel=r"loss  $\frac{1}{2}(\hat y - y)^2$", ylim=(0, None))
    right.legend()

# %% [markdown]
# ## Is this gradient descent on the prompt's least squares?
#
# No: no label was compared with a prediction. Training pairs were keys and values, and both are made of whole tokens.
# But the two can be put side by side, for each gives every demonstration a say in the prediction: in a least-squares
# step it is $\frac{\eta}{N} y_i \, x_i^\top x_{query}$, in the dual model what head by head is written into the place
# of the prediction.


# %%
linear = icl_gd.TransformerConfig(d_token=6, attention="linear")
of_linear = icl_gd.TrainSettings(STEPS, batch_size=128, learning_rate=3e-3, schedule="cosine", clip=1.0)
networks = {"softmax": (config, params), "linear": (linear, icl_gd.train(task, linear, of_linear, seeds=1).member(0))}


def say(config, params, prompt):
    """What demonstrations add to the prediction: by the dual models, and by a least-squares gradient step."""
    encoded = layout.encode(prompt.x, prompt.y, prompt.x_query)
    ours = 0.0
    for head in range(config.n_heads):
        one = dual.dual_of(config, params, 0, head, config.kinds[0])(encoded)
        written = (dual.attention_weights(one)[:, None] * one.values) @ params[config.blocks[0]]["attention"]["P"][
            head, -1
        ]
        ours = ours - written[: task.n_context]  # the layout reads predictions with their sign changed
    theirs = step_size / task.n_context * (prompt.x @ prompt.x_query) * prompt.y[:, 0]
    return ours - ours.mean(), theirs - theirs.mean()


with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE * 0.85, 2.5))
    for ax, (name, network) in zip(axes, networks.items(), strict=True):
        ours, theirs = jax.jit(jax.vmap(lambda prompt, network=network: say(*network, prompt)))(prompts)
        ax.plot(theirs.ravel(), ours.ravel(), ".", color=plots.ROLES["trained"][1], markersize=2)
        ax.axline((0, 0), slope=1, color="black", linewidth=0.4)
        ax.set(xlabel="added by a least-squares step", ylabel="added by the dual models", title=name)
        of_network = models.predictor(*network, layout)
        print(name, "correlation:", float(jnp.corrcoef(ours.ravel(), theirs.ravel())[0, 1]))
        print(name, analysis.alignment(of_network, gd, prompts))

# %% [markdown]
# What the dual model did not tell us, the measurement does: how near a layer came to that step. Linear attention, whose
# $\phi$ is the identity, *is* that step once it is trained (von Oswald et al.), softmax near it. (Some seeds of softmax
# come near, others end elsewhere: `configs/dual_model.py:layer`.)
#
# ## Features that can be written down
#
# $\phi$ has infinitely many dimensions, but random ones do in its place: features $e^{w^\top z - |z|^2/2}/\sqrt m$ with
# normal $w$ have the exponential as their mean product. Then $W$ is a matrix, the gradient step is automatic
# differentiation, and its error falls as one over the root of the number of features $m$; it is smaller with directions
# $w$ that are orthogonal, each with its opposite.

# %%
one = dual.dual_of(config, params, 0, 0)(layout.encode(prompts.x[0], prompts.y[0], prompts.x_query[0]))
longest = jnp.maximum(jnp.linalg.norm(one.keys, axis=1).max(), jnp.linalg.norm(one.query))
short = replace(one, keys=one.keys / longest, query=one.query / longest)  # of long vectors the root is seen far out
exact = dual.prediction(short)
numbers = [m for m in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if m <= MOST]
kinds = {"independent directions": {}, "orthogonal, with opposites": {"hyperbolic": True, "orthogonal": True}}
errors = {name: [] for name in kinds}
for name, kind in kinds.items():
    for m in numbers:

        def error(key, m=m, kind=kind):
            of_key = dual.positive_features(key, len(short.query), m, **kind)
            said = features.step(short, of_key) @ of_key(short.query)
            return jnp.linalg.norm(said - exact) / jnp.linalg.norm(exact)

        draws = jax.random.split(jax.random.key(2), DRAWS)
        errors[name].append(float(jax.jit(lambda keys, error=error: jax.lax.map(error, keys).mean())(draws)))
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    for (name, found), line in zip(errors.items(), ("o-", "s--"), strict=True):
        ax.loglog(numbers, found, line, color="#0072B2", label=name)
    root = errors["independent directions"][0] * (numbers[0] / np.array(numbers)) ** 0.5
    ax.loglog(numbers, root, ":k", label=r"$1/\sqrt{m}$")
    ax.set(xlabel="random features $m$", ylabel="error, relative")
    ax.legend()

# %% [markdown]
# ## Change the learner, and attention changes
#
# Put $\frac{\alpha}{2} |W|^2$ into the dual model's loss, and the step shrinks where it starts: the query's own token
# counts $1 - \alpha$. Take from every value a part $\beta$ of the mean of those that are attended to least, and the
# loss has negative samples. Both are fields of the config, and each has a dual model, exact again.

# %%
for changes in ({"alpha": 0.5}, {"beta": 0.5, "share": 0.25}, {"alpha": -1.0, "beta": 0.25, "share": 0.25}):
    changed = replace(config, **changes)
    params_changed = models.init(changed, jax.random.key(0))
    heads = [dual.dual_of(changed, params_changed, 0, head)(encoded) for head in range(2)]
    said = dual.block_of(changed, params_changed, 0, encoded)(jnp.stack([dual.prediction(one) for one in heads]))
    computed = models.apply(changed, params_changed, encoded).residual[-1, -1]
    print(changes, "largest difference:", float(jnp.abs(said - computed).max()))

# %% [markdown]
# ## What to keep
#
# - The dual model is exact, and is another way to *write* attention. It holds of random weights too.
# - $D$ depends on the query: every query has its own learning problem.
# - The loss has no minimum. One step on it is the head; two would be something else.
# - Labels are never compared with predictions. Whether a layer does gradient descent on the prompt's own loss is a
#   question for measurement, as above and in the other notebooks.
#
# [docs/dual_model.md](https://github.com/icl-gd/icl_gd/blob/main/docs/dual_model.md) says more, and
# `configs/dual_model.py` measures it over seeds, in double precision.
