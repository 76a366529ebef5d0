"""Dual models of the heads of trained Transformers: are they exact, how do they get there, what do features cost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd import analysis, dual, learners, models
from icl_gd.dual import features
from icl_gd.lab.evaluation.question import Question
from icl_gd.lab.evaluation.study import EVERY, Found, few, first
from icl_gd.lab.reporting.results import curve
from icl_gd.models import TransformerConfig
from icl_gd.tasks import ElementwiseRegression
from icl_gd.training import Population
from icl_gd.types import Array, Predictor, Prompt

FEW = 64  # prompts that processes are drawn of
PROCESSED = 512  # and measured on
FEATURES = tuple(2**i for i in range(4, 13))  # how many random features
DRAWS, FEATURE_PROMPTS = 32, 16  # of features, each on as many prompts
SLOPE_FROM = 64  # features from which on the slope is fitted
# Features, and whether keys and queries are scaled to unit length.
KINDS: dict[str, tuple[dict[str, bool], bool]] = {
    "standard": ({}, True),
    "orthogonal": ({"orthogonal": True}, True),
    "hyperbolic": ({"hyperbolic": True}, True),
    "hyperbolic_orthogonal": ({"hyperbolic": True, "orthogonal": True}, True),
    "trained": ({}, False),
    "trained_orthogonal": ({"orthogonal": True}, False),
}
LENGTHS, GAP_PROMPTS = tuple(2**i for i in range(3, 11)), 128  # of contexts, and prompts of each


@dataclass(frozen=True)
class DualStudy:
    """What these analyses look at."""

    task: ElementwiseRegression
    trained: Population
    prompts: Prompt
    untrained: Any  # parameters of all members, at step 0
    key: Array
    step_size: float  # of the best gradient step
    suite_values: int | None = None  # at most so many numbers of features, or lengths of contexts

    @property
    def kind(self) -> str:
        return self.trained.config.kinds[0]

    def encode(self, prompt: Prompt) -> Array:
        return self.trained.layout.encode(prompt.x, prompt.y, prompt.x_query)

    def over_members(self, f: Callable[..., Any], *more: Any) -> Any:
        """`f(params, ...)` of every member, one after another, as NumPy arrays."""
        of_all = jax.jit(lambda params, *more: jax.lax.map(lambda one: f(one, *more), params))
        return jax.tree.map(np.asarray, of_all(self.trained.params, *more))


def plain_member(points: Sequence[Mapping[str, Any]], config: TransformerConfig) -> int | None:
    """Which combination of a sweep modifies nothing, if there are others.

    Args:
      config: of the population: where a modification is not swept over, it is what all members have.
    """
    swept = {name.split(".")[-1]: name for name in points[0]}
    asked = {name: getattr(config, name) for name in models.Modification._fields if name != "share"}
    varied = [name for name in asked if name in swept]
    fixed = [value for name, value in asked.items() if name not in swept]
    zero = [i for i, point in enumerate(points) if all(point[swept[name]] == 0.0 for name in varied)]
    return zero[0] if varied and zero and len(points) > 1 and not any(fixed) else None


def exactness(study: DualStudy, found: Found) -> None:
    """Whether the dual models are the layers; their way there, a demonstration at a time; and who is heard."""
    config, layout = study.trained.config, study.trained.layout
    layers, heads = range(config.n_layers), range(config.n_heads)
    prompts = first(study.prompts, PROCESSED)
    met = len(study.encode(jax.tree.map(lambda leaf: leaf[0], prompts))) - 1  # demonstrations

    def of_prompt(params: Any, prompt: Prompt) -> dict[str, Array]:
        tokens = study.encode(prompt)
        residual = models.apply(config, params, tokens).residual
        records: dict[str, list] = {"error": [], "distance": [], "norm": [], "loss": [], "pull": []}
        outputs = jnp.zeros(())
        for layer in layers:
            of_heads = [dual.dual_of(config, params, layer, head, study.kind)(tokens) for head in heads]
            ways = [dual.process(one) for one in of_heads]
            outputs = jnp.stack([way.prediction[: met + 1] for way in ways], axis=1)  # [iterate head d_head]
            out = jnp.stack([dual.prediction(one) for one in of_heads])
            came, left = residual[layer : layer + 2, -1]
            said = dual.block_of(config, params, layer, tokens)(out)
            records["error"].append(jnp.abs(said - left).max() / jnp.abs(left - came).max())
            apart = jnp.linalg.norm(outputs - out[None], axis=-1) / jnp.linalg.norm(out, axis=-1)[None]
            records["distance"].append(apart.mean(1))
            records["pull"].append(jnp.stack([dual.pull(one) for one in of_heads]))
            for name in ("norm", "loss"):
                values = jnp.stack([getattr(way, name)[: met + 1] for way in ways])
                records[name].append((values / jnp.abs(values[:, -1:])).mean(0))
        last = jax.vmap(dual.block_of(config, params, config.n_layers - 1, tokens))(outputs)
        y_hat = jax.vmap(models.read_out(config, params, layout))(last)
        records["loss_of_prediction"] = 0.5 * jnp.sum((y_hat - prompt.y_query[None]) ** 2, axis=-1)  # pyright: ignore
        return {name: jnp.stack(values) if isinstance(values, list) else values for name, values in records.items()}

    seen = study.over_members(lambda params, prompts: jax.vmap(partial(of_prompt, params))(prompts), prompts)
    found.add("dual_error", seen["error"].max((1, 2)), 0.0)
    steps = list(range(met + 1))
    for name in ("distance", "norm", "loss"):
        for layer in layers:
            values = seen[name][found.shown, :, layer].mean(1)  # [member iterate]
            found.curves[f"dual_{name}_by_step_layer_{layer + 1}"] = curve(steps, values.T)
    found.add("dual_distance_at_end", seen["distance"][..., -1].max((1, 2)), 0.0)
    found.add("dual_distance_at_start", seen["distance"][..., 0].mean((1, 2)))
    found.curves["loss_by_dual_step"] = curve(steps, seen["loss_of_prediction"][found.shown].mean(1).T)
    found.arrays["n_layers"] = config.n_layers
    of_heads = seen["pull"][found.middle("loss_trained")]  # [prompt layer head token]
    found.arrays["pull_of_heads"] = {"mean": of_heads.mean(0).tolist(), "one": of_heads[0].tolist()}
    found.arrays["tokens_are_examples"] = layout.inputs is None
    gd = learners.gradient_descent([study.step_size])
    for name, learner in (("gd", gd), ("zero", learners.zero)):
        found.arrays[f"loss_{name}_on_processed"] = float(analysis.losses(learner, prompts).mean())
    _aligned(study, found, gd)
    if config.n_layers == 1 and layout.inputs is None:
        _beside_gradient_descent(study, found, first(prompts, FEW))


def _aligned(study: DualStudy, found: Found, gd: Predictor) -> None:
    """How far networks are from the best least-squares gradient step, beside half that step and untrained networks."""
    predictor = partial(models.fastest_predictor, study.trained.config, layout=study.trained.layout)
    prompts = first(study.prompts, PROCESSED)
    half = learners.gradient_descent([study.step_size / 2])
    to_gd = lambda params, prompts: analysis.alignment(predictor(params), gd, prompts)
    control = jax.jit(lambda prompts: analysis.alignment(half, gd, prompts))(prompts)
    untrained = replace(study, trained=replace(study.trained, params=study.untrained))
    of = {"": study.over_members(to_gd, prompts), "_untrained": untrained.over_members(to_gd, prompts)}
    for measure, value in control._asdict().items():
        found.add_one(f"{measure}_gd_wrong_step", float(value))
        for ending, aligned in of.items():
            found.add(f"{measure}_gd{ending}", getattr(aligned, measure), over=("",) if ending else EVERY)


def _beside_gradient_descent(study: DualStudy, found: Found, prompts: Prompt) -> None:
    """What each demonstration adds to the prediction, by the dual model and by a least-squares gradient step."""
    config, n, m = study.trained.config, study.task.n_context, study.task.d_output
    eta = study.step_size

    def added(params: Any, prompt: Prompt) -> Array:
        """`[n m]`, minus what is written into the query's y slots."""
        tokens, written = study.encode(prompt), jnp.zeros((n, m))
        for head in range(config.n_heads):
            one = dual.dual_of(config, params, 0, head, study.kind)(tokens)
            per_token = (dual.pull(one)[:, None] * one.values)[:n]
            written = written - per_token @ params[config.blocks[0]]["attention"]["P"][head, -m:].T
        return written

    by_step = lambda prompt: eta / n * (prompt.x @ prompt.x_query)[:, None] * prompt.y
    ours = study.over_members(lambda params, prompts: jax.vmap(partial(added, params))(prompts), prompts)
    theirs = np.asarray(jax.vmap(by_step)(prompts))
    centre = lambda values: values - values.mean(-2, keepdims=True)
    a, b = centre(ours), centre(theirs)[None]
    norm = lambda values: np.sqrt((values**2).sum((-2, -1)))
    found.add("pull_correlation_gd", ((a * b).sum((-2, -1)) / (norm(a) * norm(b))).mean(1))
    one = found.middle("loss_trained")
    found.arrays["pull_dual"], found.arrays["pull_gd"] = ours[one, :, :, 0].tolist(), theirs[..., 0].tolist()


def random_features(study: DualStudy, found: Found) -> None:
    """Errors of patterns and outputs, relative, with random features in place of the kernel, by their number.

    A feature's variance grows like the exponential of the squared length of key plus query, so that for long ones the
    root is seen at huge numbers only. Both are measured: keys and queries as they were trained, and, what the others
    are of, scaled until the longest of a prompt has length one.
    """
    config, prompts = study.trained.config, first(study.prompts, FEATURE_PROMPTS)
    keys = jax.random.split(jax.random.fold_in(study.key, 1), DRAWS)

    def errors(params: Any, keys: Array, prompts: Prompt, m: int, kind: Mapping[str, bool], unit: bool) -> Array:
        """Of the first layer: `[2]`, means over draws, prompts and heads."""

        def one(key: Array, prompt: Prompt) -> Array:
            phi, of_heads = dual.positive_features(key, config.head_width, m, **kind), []
            for head in range(config.n_heads):
                model = dual.dual_of(config, params, 0, head)(study.encode(prompt))
                if unit:
                    model = replace(model, keys=model.keys / longest(model), query=model.query / longest(model))
                exact, pattern, norm = dual.pull(model), features.pattern(model, phi), jnp.linalg.norm
                apart = (
                    norm(pattern - exact) / norm(exact),
                    norm((pattern - exact) @ model.values) / norm(exact @ model.values),
                )
                of_heads.append(jnp.stack(apart))
            return jnp.stack(of_heads).mean(0)

        of_draw = lambda key: jax.vmap(partial(one, key))(prompts).mean(0)
        return jax.lax.map(of_draw, keys).mean(0)

    numbers = np.asarray(few(FEATURES, study.suite_values))
    fitted = numbers >= min(SLOPE_FROM, numbers[-2])
    measured: dict[str, np.ndarray] = {}  # [m member 2]
    for kind, (options, unit) in KINDS.items():
        of = partial(errors, kind=options, unit=unit)
        values = np.asarray([study.over_members(partial(of, m=int(m)), keys, prompts) for m in numbers])
        for i, name in enumerate(("attention", "output")):
            found.curves[f"{name}_error_by_features_{kind}"] = curve(numbers.tolist(), values[:, found.shown, i])
        slopes = np.polyfit(np.log(numbers[fitted]), np.log(values[fitted, :, 0]), 1)[0]
        found.add("random_features_slope" + f"_{kind}" * (kind != "standard"), slopes)
        measured[kind] = values
    for name, kind in (("", "standard"), ("_hyperbolic", "hyperbolic")):
        orthogonal = "orthogonal" if kind == "standard" else f"{kind}_orthogonal"
        ratio = measured[orthogonal][:, :, 0] / measured[kind][:, :, 0]
        found.add(f"orthogonal_to_independent{name}", ratio.mean(0))
    of_prompt = lambda params, prompt: longest(dual.dual_of(config, params, 0)(study.encode(prompt)))
    lengths = study.over_members(lambda params, prompts: jax.vmap(partial(of_prompt, params))(prompts), prompts)
    found.add("longest_key_or_query", lengths.max(1))


def longest(model: dual.Dual) -> Array:
    """The length of the longest key or query."""
    return jnp.linalg.norm(jnp.concatenate([model.keys, model.query[None]]), axis=1).max()


def generalisation_gap(study: DualStudy, found: Found) -> None:
    """The dual model's mean loss on the demonstrations it was trained on and on fresh ones of the same function.

    With what every demonstration adds to its own loss, as the bound has it, and without, each then judged by the n - 1
    others: what it adds falls like 1/N.
    """
    config = study.trained.config

    def gap(params: Any, key: Array, n: int) -> Array:
        """`[head 3]`: losses on fresh demonstrations, on its own ones, and on those by the others', of one prompt."""
        prompt = replace(study.task, n_context=2 * n).sample(key)
        encode = study.trained.layout.encode
        own, fresh = (encode(prompt.x[part], prompt.y[part], prompt.x_query) for part in (slice(n), slice(n, None)))
        of_heads = []
        for head in range(config.n_heads):
            dual_of = dual.dual_of(config, params, 0, head, study.kind)
            one, other = dual_of(own), dual_of(fresh)
            losses = [dual.mean_loss(one, pairs.keys[:n], pairs.values[:n]) for pairs in (other, one)]
            of_heads.append(jnp.stack([*losses, (n * losses[1] + jnp.sum(dual.own_pull(one))) / (n - 1)]))
        return jnp.stack(of_heads)

    keys = jax.random.split(jax.random.fold_in(study.key, 2), GAP_PROMPTS)
    apart, lengths = [], few(LENGTHS, study.suite_values)
    for n in lengths:
        losses = study.over_members(lambda params, keys, n=n: jax.lax.map(partial(gap, params, n=n), keys), keys)
        scale = np.abs(losses[..., :1]).mean(1, keepdims=True)  # [member 1 head 1]: heads write in units of their own
        apart.append((np.abs(losses[..., 1:] - losses[..., :1]) / scale).mean((1, 2)))
    values = np.asarray(apart)  # [n member 2]
    for i, ending in enumerate(("", "_others")):
        found.curves[f"generalisation_gap{ending}_by_length"] = curve(lengths, values[:, found.shown, i])
        found.add(f"generalisation_gap{ending}_slope", np.polyfit(np.log(lengths), np.log(values[..., i]), 1)[0])


ANALYSES: dict[str, Question] = {
    "dual": Question(exactness, identities={"dual_error": 1e-4}),
    "random_features": Question(random_features),
    "generalisation_gap": Question(generalisation_gap),
}
