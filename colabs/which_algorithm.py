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
# # Which algorithm is it? Three mystery predictors
#
# [![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/icl-gd/icl_gd/blob/main/colabs/which_algorithm.ipynb)
#
# An in-context learner is a function of one prompt: from ten examples $(x_j, y_j)$ and a query $x$, it predicts $y$.
# Here are three such functions, A, B and C. Some of them are trained Transformers. Which learning algorithm does each
# one compute?
#
# You will measure their symmetries and their spectral filters, read the verdicts of `icl_gd.identify`, and only then
# see what they are. In the last cell, you examine a function of your own.
#
# On Colab, first run `!git clone https://github.com/icl-gd/icl_gd && pip install -e icl_gd`, then restart the runtime.
# The notebook takes about two minutes on two CPU cores.

# %%
# %matplotlib inline
import inspect
import itertools
import os

import jax
import matplotlib.pyplot as plt
import numpy as np

import icl_gd
from icl_gd import analysis, learners, plots, tasks, zoo
from icl_gd.analysis.calls import Calls
from icl_gd.identification.fingerprint import fingerprint

FAST = bool(os.environ.get("ICL_GD_FAST"))  # few prompts, for tests
PROMPTS, COMPARED = (256, 64) if FAST else (4096, 1024)

# %% [markdown]
# The next cell makes the predictors. Do not read it yet. Jupyter and Colab fold it.

# %% cellView="form" jupyter={"source_hidden": true}
# @title Three mystery predictors (do not open yet)
task = zoo.task("two_layers")


def ridge_regression(x, y, x_query):
    return y.T @ np.linalg.solve(x @ x.T + 0.3 * np.eye(len(x)), x @ x_query)


predictors = {
    "A": icl_gd.load_model("two_layers"),
    "B": ridge_regression,
    "C": icl_gd.load_model("softmax_heads_two"),
}

# %% [markdown]
# ## All three learn
#
# Labels are linear functions of ten inputs, and each prompt has ten examples. All three predictors learn from the
# examples: their losses are smaller than that of predicting zero. But a loss does not name an algorithm.

# %%
prompts = tasks.draw_prompts(task.sample, jax.random.key(0), PROMPTS)
batch = prompts.x, prompts.y, prompts.x_query
y_hat = {name: Calls(predictor)(*batch) for name, predictor in predictors.items()}
for name, prediction in {**y_hat, "zero": np.zeros(prompts.y_query.shape)}.items():
    print(f"{name:5} loss {0.5 * np.mean((prediction - prompts.y_query) ** 2):.3f}")

# %% [markdown]
# ## Symmetries
#
# Learning algorithms have symmetries. If all labels change their sign, the prediction of gradient descent does, too. If
# the inputs and the query are rotated together, the prediction stays the same. A predictor without these symmetries
# does not compute gradient descent, whatever its loss is. Symmetries are tested first, because nothing has to be fitted
# for them.
#
# `analysis.symmetries` measures ten of them. A cell of the figure is the size of the part that breaks the symmetry,
# relative to the prediction. Gradient descent, ridge regression and least squares have the first eight. Few algorithms
# have the last two: least squares does not depend on the scale of the inputs, and one nearest neighbour interpolates.

# %%
broken = {
    name: analysis.symmetries(predictor, task, jax.random.key(1), prompts=COMPARED)
    for name, predictor in predictors.items()
}
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.PAGE, 2.8))
    plots.symmetry_map(ax, broken)

# %% [markdown]
# **B** has the first eight symmetries up to rounding errors. It depends on the scale of the inputs, so it contains a
# number with a scale, such as a penalty or a step size.
#
# **A** does not depend on the order of the examples, and is linear in the query. But about a tenth of its prediction
# breaks the symmetries of labels and of rotations.
#
# **C** does not depend on the order of the examples either. It breaks all other symmetries, and of the first eight, the
# linearity in the query most.
#
# Does a tenth speak against an algorithm? A trained model is never exact. You need the size of its errors, although you
# do not know its algorithm yet.
#
# ## Noise, scale, and the part that can be an algorithm
#
# `icl_gd.identify` has three ideas for this.
#
# 1. **Symmetrise before fitting.** Send every prompt through random rotations, orders and changes of sign, and average.
#    The average has all symmetries, so it is the part of the predictions that an algorithm can explain. Algorithms are
#    fitted to this part only.
# 2. **The label-even part is the noise gauge.** The mean of the predictions for labels $y$ and $-y$ is zero for all of
#    these algorithms. So its size measures the errors of a model, whatever its algorithm is. An algorithm is excluded
#    if it misses the symmetric part by more than this noise explains.
# 3. **Scale is the microscope.** Multiply the inputs by factors from 1/4 to 4, as long as the symmetries hold. Two
#    algorithms that agree on the usual inputs differ on larger ones, or on smaller ones, where a model has less noise.
#    An algorithm has to fit at every scale, with the same numbers.
#
# The symmetric part has a fingerprint, the *spectral filter*. Let $\lambda_k$ and $v_k$ be the eigenvalues and
# eigenvectors of $X^\top X / n$. In direction $v_k$, a linear algorithm takes the share $h(\lambda_k)$ of the
# least-squares solution. Every algorithm has its own filter $h$:
#
# | algorithm | $h(\lambda)$ |
# | --- | --- |
# | least squares | $1$ |
# | ridge regression | $\lambda / (\lambda + \text{penalty} / n)$ |
# | $K$ steps of gradient descent | $1 - (1 - \eta\lambda)^K$ |
#
# The filter of a predictor can be measured without assuming an algorithm. Two functions follow: `say` prints a verdict,
# and `draw` shows the measured filter beside those of fitted algorithms.

# %%


def significant(value):
    return float(f"{value:.4g}")


def say(verdict):
    """Prints a verdict. Values of evidence are shares of squares: 0.01 is a difference of 10 %."""
    print(verdict.sentence)
    for key in verdict.intervals:
        value, interval = jax.tree.map(significant, (verdict.parameters[key], verdict.intervals[key]))
        print(f"  {key.replace('_', ' ')} {value}, 95 % interval {interval}")
    print("not excluded:", ", ".join(each.name for each in verdict.not_excluded) or "nothing")
    print("evidence:")
    for row in verdict.evidence:
        mark = "for    " if row.supports else "against"
        print(f"  {mark} {row.rung:11} {row.value:8.2g}, limit {row.threshold:<8.2g} {row.says}")


def draw(predictor, verdict):
    """Draws the measured filter, and by how much fitted algorithms miss it at every scale of the inputs."""
    seen = fingerprint(predictor, task, verdict)
    with plots.style():
        figure, axes = plt.subplots(1, 2, figsize=(plots.PAGE, 3.3))
        plots.spectral_filters(axes[0], seen.measured, seen.fitted, answer=verdict.verdict, framed=seen.usual)
        axes[0].set_xlim(left=1e-3)  # all filters are near zero below
        plots.misfits_by_scale(axes[1], seen.exclusions, answer=verdict.verdict)
        lines, points = (dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True)) for ax in reversed(axes))
        entries = {**lines, **points}
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=3)
    return seen


# %% [markdown]
# ## Predictor B
#
# Begin with the predictor that has all symmetries.

# %%
verdict_b = icl_gd.identify(predictors["B"], task)
say(verdict_b)
seen_b = draw(predictors["B"], verdict_b)

# %% [markdown]
# Left: the points are the filter of B, measured at four scales of the inputs. They lie on one curve, as the points of a
# filter must. Lines are the best fits of five families to all scales at once. The thick line is the verdict.
#
# Right: by how much each fit misses the response of B, in times of what noise and rounding explain. An algorithm is
# excluded if it leaves the grey band at any scale. B has no noise. So every other family is excluded by many orders of
# magnitude, and the penalty is known to all digits.
#
# ## Predictor A

# %%
verdict_a = icl_gd.identify(predictors["A"], task)
say(verdict_a)
seen_a = draw(predictors["A"], verdict_a)

# %% [markdown]
# Left: the filter of A rises to one, falls, and rises again. Ridge regression, Newton's method and equal steps of
# gradient descent have no such filter. Right: the microscope is at work. On inputs of a quarter of the usual size, five
# equal gradient steps are not excluded. On inputs of half the usual size, they are.
#
# GD++ is gradient descent whose steps also transform the inputs: $x_j$ becomes $(I - \gamma X^\top X / n)\, x_j$. The
# last $\gamma$ has no effect on the prediction, and is written as 0.
#
# The tenth of A that breaks symmetries does not matter for this, because it was averaged out before the fit:

# %%
own = next(iter(seen_a.hypotheses.values()))  # the algorithm of the verdict
for says, share in {
    "label-even part of A, the noise gauge:": broken["A"]["odd_in_labels"].value,
    f"{own.name}, misses the predictions of A by:": verdict_a.unexplained["in_distribution"],
    f"{own.name}, misses their symmetric part by:": max(own.misfits[0], 0.0),
}.items():
    print(f"{says:50} {100 * share**0.5:5.1f} %")

# %% [markdown]
# ### What the layers add
#
# The predictions alone leave two algorithms. A has layers, and its prediction can be read off after each of them. This
# decides.

# %%
print(f"not excluded by the predictions alone: {', '.join(each.name for each in verdict_a.black_box)}")
print(f"not excluded {verdict_a.reading}: {', '.join(each.name for each in verdict_a.not_excluded)}")

# %% [markdown]
# The filter after the first layer shows why. It is a straight line, $h = \eta\lambda$. This is one gradient step, and
# also the first step of GD++. If A took four gradient steps in two layers, it would have taken two of them after the
# first layer. Two gradient steps have a curved filter, whichever two of the four they are.

# %%


def after_first_layer(x, y, x_query):
    return predictors["A"].layerwise(x, y, x_query)[1]


seen = fingerprint(after_first_layer, task)
measured = {label: curve for label, curve in seen.measured.items() if label in seen.usual}
one_step = seen.fitted["gd"]
with plots.style():
    figure, ax = plt.subplots(figsize=(plots.PAGE * 0.6, 3.0))
    plots.spectral_filters(ax, measured, {"gd": one_step}, answer="gd")
    ax.set_xscale("linear")
    for other in verdict_a.black_box:
        if other.verdict == "gd":
            pairs = np.array([*itertools.combinations(other.parameters["step_sizes"], 2)])
            h = 1 - np.prod(1 - pairs[..., None] * one_step["x"], axis=1)
            lines = ax.plot(one_step["x"], h.T, ":", color="black", linewidth=0.9)
            lines[0].set_label(f"any two of the {other.parameters['n_steps']} steps")
    figure.legend(loc="outside lower center", ncols=2)

# %% [markdown]
# ### "Computes" and "uses"
#
# The verdict on B says "computes", and the verdict on A says "uses". *Computes* is a statement about a function: its
# predictions are those of the algorithm. *Uses* is a statement about a mechanism, and needs interventions in the model:
#
# - Layers of A are replaced by layers that are built to take the steps of the algorithm, one layer or all of them. Or
#   weights are moved towards the built ones, or removed if the algorithm does not need them. A has to keep its
#   improvement over predicting zero; 1 is all of it.
# - Between the layers, contexts of different prompts are exchanged, in A and in the algorithm. The algorithm has to
#   predict what A does then.
#
# Controls are the same experiments with layers of plain gradient descent. They keep less of the improvement, and leave
# half of what A does after the exchange unexplained.

# %%
for row in verdict_a.evidence:
    if row.rung == "cause":
        print(f"{row.value:6.3f}, limit {row.threshold:<6.2g} {row.says}")

# %% [markdown]
# ## Predictor C

# %%
verdict_c = icl_gd.identify(predictors["C"], task)
say(verdict_c)
seen_c = draw(predictors["C"], verdict_c)

# %% [markdown]
# Left: the points lie on the curve of one gradient step, so it is tempting to stop here. Right: every fit, that of
# gradient descent included, misses the response by more than ten times what the noise explains. So the filter describes
# only a part of C. The verdict is "none", and names the nearest algorithm.
#
# ## The reveal

# %%
print("A:", zoo.card("two_layers").about)
print("B:", inspect.getsource(predictors["B"]).strip())
print("C:", zoo.card("softmax_heads_two").about)

# %% [markdown]
# ## "None" is where research begins
#
# "None" says that the list is too short. The same measurements test a new hypothesis. The card of C suggests gradient
# descent on the *centred* context: the means of inputs and labels are subtracted first. The only number, the step size,
# is fitted to the predictions of C.

# %%
step = learners.gradient_descent([1.0])
for name, hypothesis in {"gradient descent": step, "centred gradient descent": learners.centred(step)}.items():
    unit = Calls(hypothesis)(*batch)
    step_size = np.sum(unit * y_hat["C"]) / np.sum(unit**2)
    left = np.mean((y_hat["C"] - step_size * unit) ** 2) / np.mean(y_hat["C"] ** 2)
    print(f"{name:25} step size {step_size:.2f}, misses C by {100 * left**0.5:.0f} %")
print(f"part of C that is even in the query: {100 * broken['C']['odd_in_query'].value ** 0.5:.0f} %")

# %% [markdown]
# Centring explains most of what was left. The rest is about as large as the part that is even in the query, which no
# algorithm that is linear in the query has. So C approximates a step of gradient descent on the centred context.
#
# ## Your turn
#
# Put your own function into the next cell, NumPy or JAX, for one prompt: `x` is `[10 10]`, `y` is `[10 1]`, `x_query`
# is `[10]`. The example predicts the mean label of three neighbours. Which rows of its column exclude gradient descent?

# %%


def mine(x, y, x_query):
    nearest = np.argsort(np.sum((x - x_query) ** 2, axis=1))[:3]
    return y[nearest].mean(axis=0)


with plots.style():
    figure, ax = plt.subplots(figsize=(plots.PAGE, 2.8))
    plots.symmetry_map(ax, {**broken, "mine": analysis.symmetries(mine, task, jax.random.key(1), prompts=COMPARED)})
say(icl_gd.identify(mine, task))

# %% [markdown]
# ## More
#
# - `icl-gd identify --predictor=FILE.py:FUNCTION --task.d_input=10 --out=verdict` does the same in a terminal, and
#   writes a page with all figures and tables.
# - [docs/which_algorithm.md](https://github.com/icl-gd/icl_gd/blob/main/docs/which_algorithm.md) explains the method,
#   and has the verdicts on all models of the zoo.
# - [benchmarks/README.md](https://github.com/icl-gd/icl_gd/blob/main/benchmarks/README.md) has the error rates.
