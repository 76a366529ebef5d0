"""Errors at every length of a prompt: causal Transformers beside learners, on one family of prompts after another."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from icl_gd import analysis, learners
from icl_gd.lab.evaluation.study import EVERY, Found
from icl_gd.tasks import PROMPT_SUITE, FunctionRegression
from icl_gd.training import Curriculum, Population
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS_AT_ONCE, LEARNERS_AT_ONCE = 64, 8  # of a Transformer; of learners, whose slowest prompt is everyone's
LEARNED_BELOW = 0.9  # of the error of always zero: a seed that ends above has learned nothing
ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)  # of the Lasso, as published

# By the names that configs have for them: names that records have, and a predictor that gives an axis of as many.
BASELINES: dict[str, tuple[tuple[str, ...], Callable[[], PrefixPredictor]]] = {
    "least_squares": (("least_squares",), lambda: learners.prefix_least_squares),
    "averaging": (("averaging",), lambda: learners.prefix_averaging),
    "nearest_3": (("nearest_3",), lambda: learners.prefix_nearest_neighbours(3)),
    "lasso": (tuple(f"lasso_{alpha:g}" for alpha in ALPHAS), lambda: learners.prefix_lasso_path(ALPHAS)),
    "network": (("network",), learners.prefix_two_layer_network),
}
HOST_BASELINES: dict[str, Callable[[], learners.HostPredictor]] = {
    "tree_4": lambda: learners.greedy_tree(4),
    "tree": learners.greedy_tree,
    "xgboost": learners.boosted_trees,
}


@dataclass(frozen=True)
class PrefixStudy:
    """What is measured on all families."""

    task: FunctionRegression
    trained: Population
    predictor_of: Callable[[Any], PrefixPredictor]
    untrained: Any  # the population's parameters at step 0
    families: tuple[str, ...]
    baselines: tuple[str, ...]
    key: Array
    n_prompts: int  # of every family

    def prompts(self, family: str) -> tuple[FunctionRegression, PrefixPrompt]:
        """The task a family is of, and its prompts, on a leading axis."""
        task = PROMPT_SUITE[family](self.task) if family != "standard" else self.task
        key = jax.random.fold_in(self.key, sorted(PROMPT_SUITE).index(family))
        return task, jax.jit(jax.vmap(task.sample_prefixes))(jax.random.split(key, self.n_prompts))


def member_errors(
    predictor_of: Callable[[Any], PrefixPredictor], params: Any, prompts: PrefixPrompt, task: FunctionRegression
) -> Array:
    """Errors of all members, over that of always zero: `[member prompt n]`."""
    one = lambda member: _errors(predictor_of(member), prompts, task, PROMPTS_AT_ONCE)
    return jax.lax.map(one, params)


def evaluate(study: PrefixStudy) -> Found:
    """Curves `normalised_error_FAMILY_NAME` over the number of examples, and what their means over it are."""
    gone = np.asarray(study.trained.diverged_at) >= 0
    found = Found(~gone, gone)
    standard = {}
    for name in dict.fromkeys(("standard", *study.families)):
        print(f"measuring: {name} prompts", flush=True)
        task, prompts = study.prompts(name)
        measure = jax.jit(partial(member_errors, study.predictor_of, task=task))
        trained = np.asarray(measure(study.trained.params, prompts), np.float64)
        errors: dict[str, np.ndarray] = {"trained": trained.mean(0)}
        if name in study.families:
            errors |= _of_baselines(study, prompts, task)
            if task.noise_std > 0.0 and "least_squares" in errors:
                median = np.median(errors["least_squares"], axis=0)  # around k = d the mean is infinite
                found.add_one(f"peak_of_least_squares_{name}", float(np.argmax(median)))
        if name == "standard":
            untrained = np.asarray(measure(study.untrained, prompts), np.float64)
            of_learners = {role: of[None] for role, of in errors.items() if role != "trained"}
            standard = {"trained": trained, "untrained": untrained, **of_learners}
            errors["untrained"] = untrained.mean(0)
        found.arrays["learners"] = [role for role in errors if role not in ("trained", "untrained")]
        for role, of_prompts in errors.items():
            found.curves[f"normalised_error_{name}_{role}"] = band(of_prompts)
        _by_member(found, name, trained)
    _summaries(found, standard, study.task)
    if study.task.logistic:
        found.arrays["are_classes"] = True
    if others := [name for name in study.families if name != "standard"]:
        found.arrays["other_families"] = others
    return found


def _of_baselines(study: PrefixStudy, prompts: PrefixPrompt, task: FunctionRegression) -> dict[str, np.ndarray]:
    """The same of every learner, `[prompt n]`, in float64: near k = d least squares loses half its digits."""
    exact: PrefixPrompt = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prompts._replace(w=None))
    found: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for name in study.baselines:
            if name in HOST_BASELINES:
                found[name] = _of_host(name, exact, task)
                continue
            roles, make = BASELINES[name]
            measure = jax.jit(partial(_errors, make(), task=task, at_once=LEARNERS_AT_ONCE))
            errors = np.asarray(measure(jax.tree.map(jnp.asarray, exact)))
            found |= dict(zip(roles, errors.reshape(len(roles), *errors.shape[-2:]), strict=True))
    return found


def _of_host(name: str, prompts: PrefixPrompt, task: FunctionRegression) -> np.ndarray:
    """Errors of a learner of another library, `[prompt n]`: one fit after another, for every prefix of every prompt."""
    quiet = not sys.stderr.isatty()
    shown = partial(tqdm, total=len(prompts.x), desc=f"measuring: {name}", unit="prompt", disable=quiet)
    x, y, x_query = (np.asarray(leaf) for leaf in prompts[:3])
    y_hat = learners.host_predictions(HOST_BASELINES[name](), x, y, x_query, progress=shown)
    errors = analysis.errors_of(jnp.asarray(y_hat), jnp.asarray(prompts.y_query), task.logistic)
    return np.asarray(errors) / _of_zero(task)


def _errors(predictor: PrefixPredictor, prompts: PrefixPrompt, task: FunctionRegression, at_once: int) -> Array:
    return analysis.prefix_errors(predictor, prompts, task.in_order, at_once, task.logistic) / _of_zero(task)


def _of_zero(task: FunctionRegression) -> float:
    """The error of always zero."""
    return 1.0 if task.logistic else task.label_variance


def band(errors: np.ndarray) -> dict[str, list]:
    """A curve over the number of examples from errors `[prompt n]`, in a band from 5 to 95 % of resampled prompts."""
    interval = analysis.bootstrap_interval(jnp.asarray(errors), jax.random.key(0))
    low, high = (np.where(np.isfinite(interval.mean), ends, np.nan) for ends in (interval.low, interval.high))
    return {"x": list(range(errors.shape[1])), "mean": interval.mean.tolist(), "low": low.tolist(),
            "high": high.tolist()}  # fmt: skip


def _by_member(found: Found, family: str, errors: np.ndarray) -> None:
    """Means over prompts, and over lengths that have a query, of every member."""
    by_length = errors.mean(1)
    ending = "" if family == "standard" else f"_{family}"
    found.add(f"normalised_error{ending}", np.nanmean(by_length, axis=1))
    found.arrays[f"normalised_error_by_member{ending}"] = by_length.tolist()


def _summaries(found: Found, standard: Mapping[str, np.ndarray], task: FunctionRegression) -> None:
    """Of the standard prompts: means over lengths of all learners, and how far members are from them.

    The best Lasso has, at every length, the penalty that is best there.
    """
    by_length = {role: errors.mean(1) for role, errors in standard.items()}  # [member n]
    beyond = {}
    for role, values in by_length.items():
        if role == "untrained":
            found.add("normalised_error_untrained", values.mean(1), over=EVERY[:1])
        elif role != "trained":
            found.add_one(f"normalised_error_{role}", values.mean())
            beyond[role] = by_length["trained"] - values
            found.add(f"excess_over_{role}", beyond[role].mean(1))
    if paths := [beyond[role] for role in beyond if role.startswith("lasso_")]:
        found.add("excess_over_best_lasso", np.max(paths, axis=0).mean(1))
    found.is_free &= by_length["trained"].mean(1) <= LEARNED_BELOW
    d, best = task.d_input, by_length.get("least_squares")
    if best is not None:
        excess = by_length["trained"] - best
        if d > 1:
            found.add("excess_over_least_squares_below", excess[:, : d - 1].max(1))
        if excess.shape[1] >= d:
            found.add("excess_over_least_squares_around", excess[:, d - 1 : d + 2].max(1))
        if excess.shape[1] > d + 2:
            found.add("excess_over_least_squares_above", excess[:, d + 2 :].max(1))


def end_of(curriculum: Curriculum | None) -> int:
    """The step from which training is on the whole task."""
    return 0 if curriculum is None else max(curriculum.inputs.steps, curriculum.points.steps)
