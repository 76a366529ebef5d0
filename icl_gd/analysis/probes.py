"""Linear probes: what can be read off an activation by ridge regression over many prompts.

A probe predicts a target from the activation at one site and position, for example the prediction of a gradient-descent
iterate from the residual of the query. Its R^2 is measured on prompts that neither fitted it nor chose its penalty.

Example:
  >>> from icl_gd import constructions, learners, tokens
  >>> from icl_gd.tasks import LinearRegression, draw_prompts
  >>> config = constructions.gradient_descent_config(d_input=2, d_output=1, n_steps=2)
  >>> params = constructions.gradient_descent_weights(config, 2, 5, step_sizes=[0.5, 0.5])
  >>> model = Model(config, params, tokens.concatenated(2, 1))
  >>> prompts = draw_prompts(LinearRegression(d_input=2, n_context=5).sample, jax.random.key(0), 300)
  >>> targets = probe_targets(prompts, {"gd": learners.layerwise_gradient_descent([0.5, 0.5])})
  >>> r2 = probe_sites(jax.random.key(1), model, prompts, targets)["gd_1_prediction"]  # [layer position]
  >>> bool(r2[0, -1] > 0.999), bool(r2[0, 0] < 0.2)  # the query holds it, the first example does not
  (True, True)
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from icl_gd import learners, models
from icl_gd.analysis.risk import with_program
from icl_gd.models import Model, sites
from icl_gd.types import Array, Predictor, Prompt

PENALTIES = (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


class Probe(NamedTuple):
    """A linear probe, callable on features `[... f]`.

    Attributes:
      r2: R^2 on the test prompts, a scalar: 1 minus the ratio of the squared error to the sum of squares of the targets
        about their mean, both summed over outputs.
      penalty: the penalty with the smallest held-out error, a scalar.
      weights: `[f k]`.
      bias: `[k]`.
    """

    r2: Array
    penalty: Array
    weights: Array
    bias: Array

    def __call__(self, features: Array) -> Array:
        """Reads the target off features `[... f]`.

        Returns:
          Predicted targets `[... k]`.
        """
        return features @ self.weights + self.bias.reshape((1,) * (features.ndim - 1) + (-1,))


def probe(key: Array, features: Any, targets: Any, penalties: Sequence[float] = PENALTIES) -> Probe:
    """Fits a linear probe by ridge regression in closed form.

    The prompts are split at random into three parts of equal size: the first fits the weights for every penalty, the
    second chooses the penalty by its squared error, and the third measures R^2. One QR and one singular value
    decomposition serve all penalties.

    The weights minimise `sum_i |W f_i + b - t_i|^2 + penalty * s^2 |W|^2`, where s is the largest singular value of the
    centred features. So R^2 does not change if features are scaled, rotated, shifted, or extended by constants. With
    penalty 0, the solution is that of least norm.

    Args:
      key: determines the split. Probes with equal keys and equally many prompts use the same split.
      features: `[prompt f]`.
      targets: `[prompt k]`.
      penalties: penalties to choose from, zero or positive. Default: `PENALTIES`.

    Returns:
      The Probe. Under `jit` and `vmap`, where values are not checked, its R^2 is nan if an input is not finite or all
      targets are equal.

    Raises:
      ValueError: if shapes do not agree, there are too few prompts, an input is not finite, all targets are equal, or a
        penalty is negative.
    """
    features = _floating(features)
    if features.ndim != 2:
        raise ValueError(f"features have shape {features.shape}; give [prompt f], the activations at one position")
    _check_features("features", features)
    on_prompts, values = _checked_targets(len(features), {"targets": targets}, penalties)
    return _fit(key, features, on_prompts, values)["targets"]


def _floating(values: Any) -> Array:
    array = jnp.asarray(values)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))  # bfloat16 has no decompositions


def _check_features(name: str, features: Array) -> None:
    """Checks the number of prompts of features `[... prompt f]`, and their values if they are known."""
    _check_finite(name, features)
    n, f = features.shape[-2:]
    if n < 3 * (f + 2):
        raise ValueError(
            f"{n} prompts are too few for {f} features, because a third of them fits the probe; give at least "
            f"{3 * (f + 2)} prompts"
        )


def _check_finite(name: str, array: Array) -> None:
    if not isinstance(array, Tracer) and not (finite := np.isfinite(array)).all():
        n = array.shape[-2]
        bad = n - int(np.sum(np.moveaxis(finite, -2, 0).reshape(n, -1).all(axis=1)))
        raise ValueError(f"{name} is not finite for {bad} of {n} prompts; leave these prompts out")


def _checked_targets(
    n_prompts: int, targets: Mapping[str, Any], penalties: Sequence[float]
) -> tuple[dict[str, Array], Array]:
    """Converts targets and penalties to arrays, and checks their shapes, and the values that are known."""
    if not targets:
        raise ValueError("there are no targets; give at least one, such as those of analysis.probe_targets(prompts)")
    arrays = {name: _floating(target) for name, target in targets.items()}
    for name, array in arrays.items():
        if array.ndim != 2 or len(array) != n_prompts:
            raise ValueError(
                f"{name} has shape {array.shape}: targets of {n_prompts} prompts are [{n_prompts} k]; give "
                f"{name}[:, None] for one number per prompt"
            )
        _check_finite(name, array)
        if not isinstance(array, Tracer) and np.all((known := np.asarray(array)) == known[:1]):  # under jit, too
            raise ValueError(f"{name} is the same for all prompts, so R^2 is not defined; leave this target out")
    values = np.asarray(penalties, float)
    if values.ndim != 1 or not len(values) or not np.all((values >= 0) & np.isfinite(values)):
        raise ValueError(f"penalties={penalties!r} must be a sequence of numbers of at least 0; give (0.0, 1e-4, 1e-2)")
    return arrays, jnp.asarray(values)


@jax.jit
def _fit(key: Array, features: Array, targets: dict[str, Array], penalties: Array) -> dict[str, Probe]:
    """One probe per target, all from one decomposition of the features."""
    n, f = features.shape
    third = n // 3
    penalties = penalties.astype(features.dtype)
    order = jax.random.permutation(key, n)
    choose, test, fit = order[:third], order[third : 2 * third], order[2 * third :]
    joined = jnp.concatenate(list(targets.values()), axis=1)
    ends = np.cumsum([target.shape[1] for target in targets.values()])
    columns = {name: slice(end - targets[name].shape[1], end) for name, end in zip(targets, ends, strict=True)}

    mean, offset = jnp.mean(features[fit], axis=0), jnp.mean(joined[fit], axis=0)
    centred, outputs = features - mean[None], joined - offset[None]
    # With the targets appended, R holds the triangle of the features and, beside it, the targets in the basis Q, which
    # is not needed itself.
    triangle = jnp.linalg.qr(jnp.concatenate([centred[fit], outputs[fit]], axis=1), mode="r")[:f]
    left, singular, right = jnp.linalg.svd(triangle[:, :f], full_matrices=False)
    projected = left.T @ triangle[:, f:]
    kept = singular > n * jnp.finfo(features.dtype).eps * singular[0]

    def coefficients(penalty: Array) -> Array:
        """The weights in the basis `right`, `[f k]`."""
        shrunk = singular / jnp.where(kept, singular**2 + penalty * singular[0] ** 2, 1.0)
        return jnp.where(kept, shrunk, 0.0)[:, None] * projected

    def error(penalty: Array) -> Array:
        """Held-out squared error of every output `[k]`."""
        return jnp.sum((outputs[choose] - centred[choose] @ right.T @ coefficients(penalty)) ** 2, axis=0)

    errors = jax.lax.map(error, penalties)  # [penalty k], one penalty at a time
    probes = {}
    for name, column in columns.items():
        penalty = penalties[jnp.argmin(jnp.sum(errors[:, column], axis=1))]
        weights = right.T @ coefficients(penalty)[:, column]
        missed = outputs[test][:, column] - centred[test] @ weights
        total = outputs[test][:, column] - jnp.mean(outputs[test][:, column], axis=0)[None]
        # Without this check, values that are not finite among the prompts that choose the penalty would not reach R^2,
        # and targets that are equal up to rounding errors would have an infinite R^2.
        target = targets[name]
        is_defined = jnp.all(jnp.isfinite(features)) & jnp.all(jnp.isfinite(target)) & jnp.any(target != target[:1])
        r2 = jnp.where(is_defined, 1.0 - jnp.sum(missed**2) / jnp.sum(total**2), jnp.nan)
        probes[name] = Probe(r2, penalty, weights, offset[column] - mean @ weights)
    return probes


def linear_weights(predictor: Predictor, x: Array, y: Array) -> Array:
    """The weights W of a learner whose prediction is `W x_query`: its predictions for the unit vectors.

    Args:
      predictor: a learner that is linear in the query, such as least squares, gradient descent or GD++.
      x: inputs `[n d]`.
      y: labels `[n m]`.

    Returns:
      W `[*depth m d]`, with the leading axes of the predictions.
    """
    predict = partial(predictor, x, y)
    return jax.vmap(predict, out_axes=-1)(jnp.eye(x.shape[-1], dtype=x.dtype))


def probe_targets(prompts: Prompt, predictors: Mapping[str, Predictor] | None = None) -> dict[str, Array]:
    """Targets of probes: the weights and the predictions of learners, and what made the labels.

    `xty` is `1/n sum_i y_i x_i^T`, the weights after one gradient step of size 1 from zero. `ols` is the least-squares
    solution. `w` are the weights of the task, if they are `[prompt m d]`, and `label` is the noise-free label of the
    query. A learner that predicts after every step gives one target per step: `gd_1`, `gd_2`, ...; its start is left
    out.

    Args:
      prompts: a batch, on the leading axis of every leaf.
      predictors: more learners by name, linear in the query, for example `{"ridge": learners.ridge(0.1), "gd":
        learners.layerwise_gradient_descent([0.5, 0.5])}`. Default: none.

    Returns:
      For every learner `NAME [prompt md]`, its weights, and `NAME_prediction [prompt m]`; also `w [prompt md]` and
      `label [prompt m]`.

    Raises:
      ValueError: if the prompts are not a batch, a name is taken, or a learner is not linear in the query.
    """
    if jnp.ndim(prompts.x) != 3 or jnp.ndim(prompts.x_query) != 2:
        raise ValueError(
            f"prompts have x of shape {jnp.shape(prompts.x)} and x_query of shape {jnp.shape(prompts.x_query)}; give a "
            "batch of Prompts [prompt n d] and [prompt d], such as tasks.draw_prompts(task.sample, key, 1000)"
        )
    more = dict(predictors or {})
    own: dict[str, Predictor] = {"xty": learners.gradient_descent([1.0]), "ols": learners.least_squares}
    if taken := sorted(more.keys() & {*own, "w", "label"}):
        raise ValueError(f"predictors has the name {taken[0]!r}, which is a target already; give another name")
    targets: dict[str, Array] = {}
    n, _, d = prompts.x.shape
    for name, predictor in (own | more).items():
        weights, predicted = with_program(_weights_and_predictions, predictor, prompts)
        _check_linear(name, weights, predicted, prompts.x_query)
        by_step = {name: (weights, predicted)}
        if weights.ndim == 4:
            by_step = {f"{name}_{i}": (weights[:, i], predicted[:, i]) for i in range(1, weights.shape[1])}
        for step, (matrix, y_hat) in by_step.items():
            targets[step], targets[f"{step}_prediction"] = matrix.reshape(n, -1), y_hat
    if getattr(prompts.w, "shape", None) == (n, prompts.y.shape[-1], d):
        targets["w"] = jnp.reshape(prompts.w, (n, -1))
    return targets | {"label": prompts.y_query}


def _weights_and_predictions(predictor: Predictor, prompts: Prompt) -> tuple[Array, Array]:
    """The weights `[prompt *depth m d]` and the predictions `[prompt *depth m]` of a learner."""
    weights = jax.vmap(partial(linear_weights, predictor))(prompts.x, prompts.y)
    return weights, jax.vmap(predictor)(*prompts[:3])


def _check_linear(name: str, weights: Array, predicted: Array, x_query: Array) -> None:
    """Checks that `W x_query` is the prediction, unless values are unknown."""
    if isinstance(predicted, Tracer):
        return
    expected = np.einsum("p...d,pd->p...", weights, x_query)
    error, tolerance = np.abs(expected - predicted).max(), 100 * float(jnp.finfo(predicted.dtype).eps) ** 0.5
    if not error <= tolerance * max(np.abs(predicted).max(), np.abs(weights).max()):
        raise ValueError(
            f"predictor {name!r} is not linear in the query, or not finite: its predictions differ by {error:.2g} from "
            "its weights times the query; leave it out"
        )


@partial(jax.jit, static_argnames="name")
def _features(model: Model, prompts: Prompt, name: str) -> Array:
    """The values of one site, `[position prompt f]`."""
    axis = sites.SITES[sites.split(name)[0]].position_axis
    if axis is None:
        raise ValueError(f"site {name!r} has no positions, so it cannot be probed; give resid_post for the residuals")

    def run(x: Array, y: Array, x_query: Array) -> Array:
        return model.run(x, y, x_query, name)[name]

    values = jnp.moveaxis(jax.vmap(run)(*prompts[:3]), axis + 1, 0)
    return _floating(values.reshape(*values.shape[:2], -1))


@jax.jit
def _r2_of_positions(key: Array, features: Array, targets: dict[str, Array], penalties: Array) -> dict[str, Array]:
    """R^2 by target `[position]`, from features `[position prompt f]`."""
    return {
        name: fitted.r2
        for name, fitted in jax.vmap(_fit, in_axes=(None, 0, None, None))(key, features, targets, penalties).items()
    }


def probe_sites(
    key: Array,
    model: Model,
    prompts: Prompt,
    targets: Mapping[str, Any],
    names: str | Iterable[str] = "resid_post",
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, Array]:
    """R^2 of probes at every position of the named sites.

    The features are all entries of the site at one position, over all heads. All probes use the same split of the
    prompts. One site is recorded and probed at a time, so memory holds the activations of one site. For all members of
    a population, `analysis.over_members` maps this function over `population.stacked`.

    Args:
      key: determines the split of the prompts.
      model: the model. Its edits apply.
      prompts: a batch, on the leading axis of every leaf.
      targets: by name `[prompt k]`, such as `probe_targets(prompts)`.
      names: sites, as `models.sites.expand` accepts them. Default: the residual after every layer.
      penalties: see `probe`.

    Returns:
      R^2 by name of the target, `[site position]`. Sites are in the order of `models.sites.expand`, so that sites of
      one kind are in the order of layers.

    Raises:
      ValueError: if the model has no such site, the site has no positions, the activations are not finite, or for the
        reasons of `probe`.
    """
    on_prompts, values = _checked_targets(len(prompts.x), targets, penalties)
    result: dict[str, list[Array]] = {name: [] for name in targets}
    for site in sites.expand(model.config, names):
        features = _features(model, prompts, site)
        _check_features(f"site {site!r}", features)
        for name, r2 in _r2_of_positions(key, features, on_prompts, values).items():
            result[name].append(r2)
    return {name: jnp.stack(rows) for name, rows in result.items()}


def probe_controls(
    key: Array,
    model: Model,
    prompts: Prompt,
    targets: Mapping[str, Any],
    names: str | Iterable[str] = "resid_post",
    penalties: Sequence[float] = PENALTIES,
) -> dict[str, dict[str, Array]]:
    """R^2 of probes of a model and of three controls, all on the same split of the prompts.

    If `analysis.over_members` maps this function with one key, all members also share the permutation and the initial
    weights.

    `shuffled` permutes the targets over prompts: what a probe gains by chance. `untrained` probes a model with fresh
    initial weights, without edits: what the architecture computes by itself. `embedding` probes the residual before the
    first layer: what a token holds without its context.

    Args:
      key: determines the split, the permutation and the initial weights.
      model: the model.
      prompts: a batch, on the leading axis of every leaf.
      targets: by name `[prompt k]`, such as `probe_targets(prompts)`.
      names: sites, as `models.sites.expand` accepts them. Default: the residual after every layer.
      penalties: see `probe`.

    Returns:
      `trained`, `shuffled` and `untrained`, each with R^2 by name of the target `[site position]`, and `embedding`
      with R^2 by name of the target `[1 position]`.

    Raises:
      ValueError: as `probe_sites`.
    """
    split, shuffle, init = jax.random.split(key, 3)
    order = jax.random.permutation(shuffle, len(prompts.x))
    shuffled = {name: jnp.asarray(target)[order] for name, target in targets.items()}
    untrained = Model(model.config, models.init(model.config, init), model.layout)
    names = (names,) if isinstance(names, str) else tuple(names)
    return {
        "trained": probe_sites(split, model, prompts, targets, names, penalties),
        "shuffled": probe_sites(split, model, prompts, shuffled, names, penalties),
        "untrained": probe_sites(split, untrained, prompts, targets, names, penalties),
        "embedding": probe_sites(split, model, prompts, targets, "blocks.0.resid_pre", penalties),
    }
