"""Features of a query as functions of x: principal components, and how much features depend on labels."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import models, plots
from icl_gd.lab.config.questions import Analysis, Done, Picture, needs
from icl_gd.lab.evaluation.measured import Evaluation, Records
from icl_gd.lab.evaluation.references.deep_features import GRID, LEARNER
from icl_gd.types import Array, Prompt

COMPONENTS = 3  # the largest principal components


def check(experiment: Any) -> None:
    needs(experiment, **{"reference.name": "deep_features"})


def measure(evaluation: Evaluation, records: Records) -> None:
    """Measures the principal components of the query's features over x, and the features' dependence on labels.

    The prediction of a gradient step depends on the query through inner products `phi^T phi_query` with the features of
    examples. The prediction of an attention layer depends on it through `h^T W_KQ h_query`. So the layer's features of
    the query are `W_KQ h_query`. The task is linear in sin x and cos x, so the share of these two functions in the span
    of the largest components is measured too.
    """
    grid = jnp.asarray(GRID[:, None], evaluation.prompts.x.dtype)
    wave = np.stack([np.sin(GRID), np.cos(GRID)], 1)
    for name, population in (("trained", evaluation.trained), (LEARNER, evaluation.reference.learner)):
        config = population.config

        def query_features(params: Any, config: models.TransformerConfig = config) -> Array:
            tokens = jnp.concatenate([grid, jnp.zeros_like(grid)], 1)
            query = models.embed(config, params, tokens)
            return query @ jnp.sum(models.circuits(config, params).W_KQ[0], 0).T

        explained = []
        for i in range(len(population)):
            left, size, _ = np.linalg.svd(
                np.asarray(query_features(population.member(i)), np.float64), full_matrices=False
            )
            basis = left[:, :COMPONENTS]
            explained.append(1 - np.sum((wave - basis @ (basis.T @ wave)) ** 2) / np.sum(wave**2))
            if i == records.shown[0]:
                signs = np.sign(basis[np.abs(basis).argmax(0), range(COMPONENTS)])
                records.arrays[f"features_{name}"] = (basis * signs * len(GRID) ** 0.5).T.tolist()
                records.arrays[f"features_share_{name}"] = (size**2 / np.sum(size**2))[:COMPONENTS].tolist()
        records.add(f"waves_in_features_{name}", explained)
        records.add(
            f"label_share_of_features_{name}",
            jax.vmap(partial(_label_share, config, evaluation.prompts))(population.params),
        )
    records.arrays["features_x"] = GRID.tolist()


def _label_share(config: models.TransformerConfig, prompts: Prompt, params: Any) -> Array:
    """`E |phi(x, y) - phi(x, 0)|^2 / E |phi(x, y)|^2`: zero for features that do not depend on the labels."""
    y = prompts.y[:, 0]

    def features_at(y: Array) -> Array:
        return jax.vmap(models.features(config, params, 1))(prompts.x[:, 0], y)[0]

    with_label = features_at(y)
    return jnp.sum((with_label - features_at(jnp.zeros_like(y))) ** 2) / jnp.sum(with_label**2)


def _draw(done: Done) -> plots.Figure:
    figure, axes = plots.subplots(1, 2, figsize=(plots.PAGE, 2.6), sharey=True)
    arrays = done["arrays"]
    for ax, role in zip(axes, ("trained", LEARNER), strict=True):
        for component, share, dashes, colour in zip(
            arrays[f"features_{role}"], arrays[f"features_share_{role}"], ("-", "--", ":"), plots.shades(3), strict=True
        ):
            ax.plot(arrays["features_x"], component, dashes, color=colour, label=f"{100 * share:.1f} %")
        ax.set(xlabel="$x$", title=plots.ROLES[role][0])
        ax.legend(title="share of variance", loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)
    axes[0].set(ylabel="component\n(root mean square 1)")
    return figure


ANALYSIS = Analysis(
    "features",
    measure,
    records=("waves_in_features_*", "label_share_of_features_*"),
    check=check,
    figures=(
        Picture(
            "features",
            ("features_x",),
            _draw,
            "The three largest principal components of the features of a query, as functions of the query x, for one "
            "seed: the Transformer (left) and the network of the gradient-descent learner (right). The legend gives "
            "each component's share of the variance.",
            place=290,
        ),
    ),
)
