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
# # What happens inside a model that learns in context?
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/look_inside.ipynb)
#
# This notebook opens trained models: it records their activations, ablates heads, patches activations from one prompt
# into another, and reads linear probes. Nothing is trained: the package contains the models (`icl_gd.zoo`).
#
# On Colab, first run `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd`, then restart the runtime.
# The notebook takes about two minutes on two CPU cores.

# %%
# %matplotlib inline
import os

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import icl_gd
from icl_gd import analysis, learners, plots, tasks, zoo
from icl_gd.analysis import corruptions
from icl_gd.models import edits

FAST = bool(os.environ.get("ICL_GD_FAST"))  # few prompts, for tests
PROMPTS, PROBED = (64, 300) if FAST else (4096, 3000)


def draw(name, count, seed=0):
    """Prompts of the task that a model of the zoo was trained on."""
    return tasks.draw_prompts(zoo.task(name).sample, jax.random.key(seed), count)


print(", ".join(zoo.names()))

# %% [markdown]
# ## Activations have names
#
# A model is a function `(x, y, x_query) -> y_hat` of one prompt. Printing it shows its layers and parameters.
# `model.run` records activations. Their names are those of TransformerLens, such as `blocks.0.attn.pattern`. The page
# [docs/sites.md](https://github.com/icl-gd/icl_gd/blob/main/docs/sites.md) lists them.
#
# The first model is one layer with two softmax heads. It learned linear regression with ten inputs from ten examples.

# %%
heads, prompts = icl_gd.load_model("softmax_heads_two"), draw("softmax_heads_two", PROMPTS)
problem = jax.tree.map(lambda part: part[0], prompts)[:3]  # x, y and x_query of the first prompt
print(heads)
print(heads.run(*problem))

# %% [markdown]
# The attention pattern of both heads in this prompt. Nothing attends to the query, which is the last token.

# %%
names = plots.token_names(len(prompts.x[0]))
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.8), squeeze=False)
    plots.attention_patterns(axes, heads.run(*problem).stack("attn.pattern"), names)

# %% [markdown]
# ## What does each head add to the prediction?
#
# The residual of the query is a sum, so the prediction is a sum of shares. Shares have either sign, because predictions
# have; the bars below show each share times the sign of the prediction, averaged over prompts.

# %%
batch = prompts.x, prompts.y, prompts.x_query


def over_prompts(function, *more):
    """Maps `function(x, y, x_query)` over all prompts."""
    return jax.jit(jax.vmap(function))(*batch, *more)


shares = over_prompts(lambda *problem: analysis.attribution(heads, *problem))
sign = jnp.sign(shares.total)
mean = jax.tree.map(lambda share: jnp.mean(jnp.einsum("pm,p...m->p...m", sign, share), axis=0)[None, ..., 0], shares)
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 1.8))
    plots.shares(ax, mean._asdict(), label="share × sign of the prediction")

# %% [markdown]
# Both heads push the prediction in its direction. The patterns show how: a token attends more to similar examples in
# head 0, and less to them in head 1, whose output is subtracted. Each head alone also adds a mean of all labels,
# because a softmax pattern sums to one. The other head removes it.
#
# ## Ablation: does a head break the step, or rescale it?
#
# `model.edit` returns a model with changed activations. It is a Predictor, so its loss and its alignment with gradient
# descent are measured as those of any other model. Each head is replaced by zero, by its mean over prompts, and by its
# output on another prompt.

# %%
gd = learners.gradient_descent([learners.fit_step_size(prompts)])
z = over_prompts(lambda *problem: heads.run(*problem, "attn.z")["attn.z", 0])
models = {"intact": heads}
for head in range(2):
    models[f"head {head} zero"] = heads.edit({"attn.z": edits.zero(head=head)})
    models[f"head {head} mean"] = heads.edit({"attn.z": edits.mean(z, head=head)})
    models[f"head {head} resampled"] = heads.edit({"attn.z": edits.resample(jax.random.key(1), z, head=head)})
for name, model in models.items():
    loss = analysis.losses(model, prompts).mean()
    cosine = analysis.alignment(model, gd, prompts).sensitivity_cosine
    print(f"{name:17} loss {loss:6.3f}   cosine to gradient descent {cosine:5.2f}")
print(f"{'predict zero':17} loss {analysis.losses(learners.predict_zero, prompts).mean():6.3f}")

# %% [markdown]
# Without either head the model is worse than predicting zero: the mean of the labels is then left in the prediction. So
# ablating a head breaks the step, it does not only rescale it.
#
# ## Patching: where is a label after the first layer?
#
# The next model has separate tokens for inputs and labels, a softmax layer and a linear layer. To take a gradient step,
# the second layer needs $x_j$ and $y_j$ in one token. Change label $y_3$ and run the model on both prompts. Then
# replace one activation of the changed prompt, the residual at one position, by that of the original prompt. The effect
# is the share of the change in the prediction that is undone: 1 where the label is, 0 where it is not.

# %%
copying, separate = icl_gd.load_model("token_copying"), draw("token_copying", 64)
others = draw("token_copying", 64, seed=1)
changed = jax.vmap(lambda other, prompt: corruptions.one_label(other, prompt, index=2))(others, separate)


def effect(model, clean, corrupted, kind):
    """Predictions `[prompt layer position m]` of the changed prompts, with one patch each."""
    return jax.vmap(lambda base, source: analysis.patch(model, base, source, kind))(corrupted[:3], clean[:3])


def undone(model, clean, corrupted, kind):
    """The share of the change that each patch undoes `[layer position]`, by least squares over prompts."""
    y_hat, y_hat_changed = (jax.vmap(model)(*each[:3]) for each in (clean, corrupted))
    change = y_hat - y_hat_changed
    patched = effect(model, clean, corrupted, kind) - y_hat_changed[:, None, None]
    return jnp.einsum("pm,plkm->lk", change, patched) / jnp.sum(change**2)


positions = plots.token_names(len(separate.x[0]), has_separate_tokens=True)
before, after = (undone(copying, separate, changed, kind) for kind in ("resid_pre", "resid_post"))
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.PAGE, 1.7))
    plots.site_map(
        ax,
        jnp.concatenate([before[:1], after]),
        positions,
        label="share of the change undone",
        rows=["input", "after layer 0", "after layer 1"],
        limits=(-1, 1),
    )

# %% [markdown]
# The label starts in its own token. After layer 0, most of its effect goes through the token of $x_3$: the layer has
# copied the label to the token before it. After layer 1, it is in the query. This is how a gradient step needs it.
#
# Patch the attention of layer 0 alone: only the query tokens whose attention output carries the label have an effect.

# %%
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.PAGE, 1.2))
    plots.site_map(
        ax,
        undone(copying, separate, changed, "attn_out"),
        positions,
        label="share undone",
        title="output of attention",
        limits=(-1, 1),
    )

# %% [markdown]
# ## Layer by layer: two trained layers beside GD++
#
# Two recurrent layers of linear attention learned GD++, which is gradient descent with a step that also transforms the
# inputs. Read the prediction off the residual after every layer, and compare it with the construction. Then cut one of
# the two paths in all layers: the update of the inputs (the first ten slots), or that of the labels (the last slot).

# %%
deep, prompts = icl_gd.load_model("two_layers"), draw("two_layers", PROMPTS)
batch = prompts.x, prompts.y, prompts.x_query
inputs = jnp.arange(11) < 10
cuts = {
    "trained": deep,
    "construction": icl_gd.load_model("two_layers_construction"),
    "without the input path": deep.edit({"attn_out": edits.scale(~inputs)}),
    "without the label path": deep.edit({"attn_out": edits.scale(inputs)}),
}


def losses_by_layer(model):
    """Loss of the prediction before the first layer and after every layer."""
    y_hat = over_prompts(lambda *problem: model.layerwise(*problem))
    return 0.5 * jnp.mean(jnp.sum((y_hat - prompts.y_query[:, None]) ** 2, axis=-1), axis=0)


losses = {name: losses_by_layer(model) for name, model in cuts.items()}
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.COLUMN, 2.4))
    trained = losses.pop("trained")
    plots.lens(ax, trained[None], losses, label=r"loss  $\frac{1}{2}(\hat y - y)^2$")
    figure.legend(loc="outside lower center", ncols=2)

# %% [markdown]
# The trained layers and the construction have the same losses. Without the label path nothing reaches the prediction.
# Without the input path the second step is far too long: GD++ takes steps that fit the inputs which its first step has
# transformed.
#
# ## Probes: what can be read off the query?
#
# A small GPT-2 learned linear functions of five inputs. A linear probe reads a target off the residual of the query.
# Targets are the predictions of least squares and of one gradient step. The controls say what a probe reads by chance
# (shuffled targets), what any network computes (untrained weights), and what the token of the query holds by itself
# (embedding only).

# %%
gpt2, prompts = icl_gd.load_model("garg_linear"), draw("garg_linear", PROBED)
targets = analysis.probe_targets(prompts)
chosen = {name: targets[name] for name in ("ols_prediction", "xty_prediction")}
found = analysis.probe_controls(jax.random.key(2), gpt2, prompts, chosen)
titles = {"ols_prediction": "prediction of least squares", "xty_prediction": "prediction of one gradient step"}
with plots.style():
    figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 2.4), sharey=True)
    for ax, (target, title) in zip(axes, titles.items(), strict=True):
        plots.probes(ax, {role: r2[target][None, :, -1] for role, r2 in found.items()})
        ax.set_title(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)

# %% [markdown]
# ## More
#
# - `icl-gd inspect two_layers` writes a page on which you choose prompts, layers and heads, beside the construction.
# - `analysis.path_patch` follows the path from one activation to another; `analysis.attribute_patch` approximates all
#   patches with one backward pass.
# - All functions can be mapped over the members of a population: `jax.vmap(f)(population.stacked)`.
