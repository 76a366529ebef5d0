"""Errors at every length of a prompt: causal Transformers beside learners, on one family of prompts after another."""

import importlib.util
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from icl_gd import analysis, learners, models, plots
from icl_gd.lab.config.errors import reject
from icl_gd.lab.config.experiment import Experiment
from icl_gd.lab.config.parts import Functions, InConfig
from icl_gd.lab.config.questions import Done, Picture, Reference
from icl_gd.lab.evaluation.measured import EVERY, Compared, Evaluation, Records, Setting
from icl_gd.schema import OneOf, check
from icl_gd.tasks import EVAL_SUITE, FunctionRegression
from icl_gd.training import Curriculum
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS_AT_ONCE, LEARNERS_AT_ONCE = 64, 8  # of a Transformer; of learners, whose slowest prompt is everyone's
LEARNED_BELOW = 0.9  # of the error of always zero: a seed that ends above has learned nothing
ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)  # of the Lasso, as published
CURVE = "normalised_error_"
WORST = 1.1  # shown over training
BEYOND = "trained_n_context"  # an array: examples of training's prompts, where those of evaluation have more
BEYOND_SAID = "Prompts of training have {} examples: what is predicted after more (shaded) was never trained."
# Families of one figure, by its title; what is not named stands for itself.
GROUPS = {
    "query": ("random_quadrants", "opposite_quadrants", "orthogonal_query", "repeated_query"),
    "inputs": ("half_subspace", "skewed", "noisy"),
    "scale of inputs": ("inputs_third", "inputs_half", "inputs_double", "inputs_triple"),
    "scale of labels": ("labels_third", "labels_half", "labels_double", "labels_triple"),
}
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


BESIDE = {"tree": "sklearn", "tree_4": "sklearn", "xgboost": "xgboost"}  # what baselines need installed


@dataclass(frozen=True)
class PrefixLearners(Reference):
    """Learners that answer at every length of a prompt, on prompts like those of training and on others.

    Attributes:
      suite: of prompts, that errors at every length are measured on.
      baselines: learners beside the trained model.
    """

    name: ClassVar[str] = "prefix_learners"
    tasks: ClassVar[tuple[type, ...]] = (Functions,)
    records: ClassVar[tuple[str, ...]] = (
        *("normalised_error", "normalised_error_*", "excess_over_*", "peak_of_least_squares_*", "training_loss"),
    )
    on_prefixes: ClassVar[bool] = True
    in_config: ClassVar[InConfig] = InConfig({"suite": "eval.suite", "baselines": "eval.baselines"})
    suite: Annotated[tuple[str, ...] | tuple[()], OneOf(EVAL_SUITE)] = ("standard",)
    baselines: Annotated[tuple[str, ...] | tuple[()], OneOf((*BASELINES, *HOST_BASELINES))] = ()

    def __post_init__(self):
        check(self)
        for name in ("suite", "baselines"):
            words = getattr(self, name)
            if twice := [word for word in words if words.count(word) > 1]:
                raise ValueError(f"eval.{name}={twice[0]}: every word is accepted once")
        if self.baselines and not self.suite:
            raise ValueError("eval.suite=(): baselines are measured on suite of prompts; give some, as ('standard',)")

    def check(self, experiment: Experiment) -> None:
        if not experiment.network.causal:
            reject("model.style", experiment.model.name, "reference.name=prefix_learners takes gpt2, which is causal")
        if experiment.law.noise != "normal" and not experiment.law.noise_std and "noisy" not in self.suite:
            reject(
                "task.noise",
                experiment.law.noise,
                "does nothing without noise; give task.noise_std, or noisy among eval.suite",
            )
        if experiment.law.logistic and "noisy" in self.suite:
            reject("eval.suite", "noisy", "labels of task.name=signs are classes, without noise; leave it out")

    def check_here(self) -> None:
        for name in self.baselines:
            if name in BESIDE and importlib.util.find_spec(BESIDE[name]) is None:
                reject("eval.baselines", name, f"needs {BESIDE[name]}: pip install 'icl-gd[baselines]'")

    def prepare(self, setting: Setting) -> "BesidePrefixLearners":
        if beyond := setting.experiment.never_trained:
            asked = " to ".join(map(str, dict.fromkeys((beyond[0], beyond[-1]))))
            warnings.warn(
                f"eval.n_context={beyond[-1]}: what is predicted after {asked} examples is never trained, as "
                f"task.n_context={beyond[0] - 1}; figures shade it",
                stacklevel=2,
            )
        return BesidePrefixLearners(setting)


@dataclass(frozen=True)
class BesidePrefixLearners(Compared):
    """A population that is measured at every length of a prompt."""

    setting: Setting

    @cached_property
    def _watch(self) -> Callable[[Any, Any], dict[str, Array]]:
        network, layout, task = self.setting.network, self.setting.layout, self.setting.task

        @jax.jit
        def watch(params: Any, prompts: Any) -> dict[str, Array]:
            predictor_of = partial(models.prefix_predictor, network, layout=layout)
            errors = member_errors(predictor_of, params, prompts, task).mean(1)  # [member n]
            return {"normalised_error": errors.mean(1), "normalised_error_at_end": errors[:, -1]}

        return watch

    def watch(self, params: Any) -> dict[str, np.ndarray]:
        """Errors over all lengths, and with all examples `[member]`."""
        return jax.tree.map(np.asarray, self._watch(params, self.setting.prompts))

    def evaluate(self, study: Evaluation) -> Records:
        """Errors at every length, on every family of prompts, beside those of the baselines."""
        return evaluate(study)

    def over_training(self, study: Evaluation, found: Records) -> None:
        super().over_training(study, found)
        found.arrays["curriculum_ends_at"] = end_of(study.experiment.settings.curriculum)


def family_prompts(study: Evaluation, family: str) -> tuple[FunctionRegression, PrefixPrompt]:
    """The task a family is of, and its prompts, on a leading axis."""
    task = EVAL_SUITE[family](study.task) if family != "standard" else study.task
    key = jax.random.fold_in(study.key, sorted(EVAL_SUITE).index(family))
    return task, jax.jit(jax.vmap(task.sample_prefixes))(jax.random.split(key, study.n_prompts))


def member_errors(
    predictor_of: Callable[[Any], PrefixPredictor], params: Any, prompts: PrefixPrompt, task: FunctionRegression
) -> Array:
    """Errors of all members, over that of always zero: `[member prompt n]`."""
    one = lambda member: _errors(predictor_of(member), prompts, task, PROMPTS_AT_ONCE)
    return jax.lax.map(one, params)


def evaluate(study: Evaluation) -> Records:
    """Curves `normalised_error_FAMILY_NAME` over the number of examples, and what their means over it are."""
    gone = np.asarray(study.trained.diverged_at) >= 0
    found = Records(~gone, gone)
    suite = tuple(study.experiment.reference.suite)[: study.suite_values]
    standard = {}
    for name in dict.fromkeys(("standard", *suite)):
        print(f"measuring: {name} prompts", flush=True)
        task, prompts = family_prompts(study, name)
        measure = jax.jit(partial(member_errors, study.trained.prefix_predictor, task=task))
        trained = np.asarray(measure(study.trained.params, prompts), np.float64)
        errors: dict[str, np.ndarray] = {"trained": trained.mean(0)}
        if name in suite:
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
    beyond = study.experiment.never_trained
    if beyond:
        found.arrays[BEYOND] = beyond[0] - 1
    _summaries(found, standard, study.task, beyond[0] if beyond else None)
    if study.task.logistic:
        found.arrays["are_classes"] = True
    if others := [name for name in suite if name != "standard"]:
        found.arrays["other_families"] = others
    return found


def _of_baselines(study: Evaluation, prompts: PrefixPrompt, task: FunctionRegression) -> dict[str, np.ndarray]:
    """The same of every learner, `[prompt n]`, in float64: near k = d least squares loses half its digits."""
    exact: PrefixPrompt = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prompts._replace(w=None))
    found: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for name in study.experiment.reference.baselines:
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
    errors = analysis.squared_errors(jnp.asarray(y_hat), jnp.asarray(prompts.y_query), task.logistic)
    return np.asarray(errors) / _of_zero(task)


def _errors(predictor: PrefixPredictor, prompts: PrefixPrompt, task: FunctionRegression, at_once: int) -> Array:
    return analysis.prefix_squared_errors(predictor, prompts, task.in_order, at_once, task.logistic) / _of_zero(task)


def _of_zero(task: FunctionRegression) -> float:
    """The error of always zero."""
    return 1.0 if task.logistic else task.label_variance


def band(errors: np.ndarray) -> dict[str, list]:
    """A curve over the number of examples from errors `[prompt n]`, in a band from 5 to 95 % of resampled prompts."""
    interval = analysis.bootstrap_interval(jnp.asarray(errors), jax.random.key(0))
    low, high = (np.where(np.isfinite(interval.mean), ends, np.nan) for ends in (interval.low, interval.high))
    return {
        "x": list(range(errors.shape[1])),
        "mean": interval.mean.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _by_member(found: Records, family: str, errors: np.ndarray) -> None:
    """Means over prompts, and over lengths that have a query, of every member."""
    by_length = errors.mean(1)
    ending = "" if family == "standard" else f"_{family}"
    found.add(f"normalised_error{ending}", np.nanmean(by_length, axis=1))
    found.arrays[f"normalised_error_by_member{ending}"] = by_length.tolist()


def _summaries(
    found: Records, standard: Mapping[str, np.ndarray], task: FunctionRegression, trained: int | None = None
) -> None:
    """Of the standard prompts: means over lengths of all learners, and how far members are from them.

    The best Lasso has, at every length, the penalty that is best there.

    Args:
      trained: so many lengths, from 0 on, have been trained, and tell whether a member has learned; None for all.
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
    found.is_free &= by_length["trained"][:, :trained].mean(1) <= LEARNED_BELOW
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


def _roles(done: Done) -> list[str]:
    """The roles that have a place of their own, in order, and the learners of this run that have none."""
    return list(dict.fromkeys([*plots.ROLES, *done["arrays"].get("learners", ())]))


def _of(done: Done, family: str) -> dict[str, dict]:
    """The curves of a family by role, the trained model first and drawn last."""
    roles = [role for role in _roles(done) if f"{CURVE}{family}_{role}" in done["curves"]]
    return {role: done["curves"][f"{CURVE}{family}_{role}"] for role in roles}


def _draw(ax: plots.Axes, done: Done, curves: dict[str, dict], top: float) -> None:
    for i, (role, curve) in enumerate(curves.items()):
        plots.line(ax, curve, role, label="trained model" if role == "trained" else None)
        ax.lines[-1].set_zorder(10 - i)
    plots.level(ax, 1.0, "zero")
    ax.set_ylim(0, top)
    ax.set_xlim(0, max(curve["x"][-1] for curve in curves.values()))
    if BEYOND in done["arrays"]:
        plots.never_trained(ax, done["arrays"][BEYOND])


def _top(curves: dict[str, dict]) -> float:
    """Averaging and neighbours leave the frame where few examples make them worse than zero."""
    found = [value for role, curve in curves.items() if role in ("trained", "least_squares") for value in curve["mean"]]
    return _frame(np.nanmax(np.array(found, float)))


def _usual(curves: dict[str, dict]) -> float:
    """A frame that holds every learner at half of all lengths at least."""
    medians = [np.nanmedian(np.array(curve["mean"], float)) for role, curve in curves.items() if role != "untrained"]
    return _frame(max(medians))


def _frame(error: float) -> float:
    return float(max(1.15, min(1.1 * error, 3.0)))


def _draw_standard(done: Done) -> plots.Figure:
    curves = _of(done, "standard")
    rows = (len(curves) + 2 + (BEYOND in done["arrays"])) // 2  # of the legend, with always zero
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.5 + 0.17 * rows))
    _draw(ax, done, curves, _usual(curves))
    error = "wrong classes / one half" if done["arrays"].get("are_classes") else "square error / variance of labels"
    ax.set(xlabel="in-context examples", ylabel=error)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_families(done: Done) -> plots.Figure:
    groups = {title: [name for name in names if _of(done, name)] for title, names in GROUPS.items()}
    groups = {title: names for title, names in groups.items() if names}
    columns = max(len(names) for names in groups.values())
    figure, axes = plots.subplots(
        len(groups), columns, figsize=(plots.PAGE, 0.5 + 1.6 * len(groups)), sharex=True, squeeze=False
    )
    handles: dict[str, Any] = {}
    for row, names in zip(axes, groups.values(), strict=True):
        for ax, name in zip(row, names, strict=False):
            curves = _of(done, name)
            _draw(ax, done, curves, _top(curves))
            ax.set_title(name.replace("_", " "))
            handles |= {label: handle for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)}
        for ax in row[len(names) :]:
            ax.set_axis_off()
        row[0].set_ylabel("normalised error")
    for ax in axes[-1]:
        ax.set_xlabel("in-context examples")
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4)
    return figure


def _draw_by_step(done: Done) -> plots.Figure:
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.3))
    curves = done["curves"]
    plots.line(ax, curves["normalised_error_by_step"], "trained", label="mean over lengths")
    at_end = curves["normalised_error_at_end_by_step"]
    ax.plot(at_end["x"], at_end["mean"], ":", color=plots.ROLES["trained"][1], label="at full length")
    metrics, of = done["metrics"], "normalised_error_{}".format
    found = {role: metrics[of(role)]["mean"] for role in _roles(done) if role != "untrained" and of(role) in metrics}
    best = min(found, key=found.__getitem__, default="")
    if best and found[best] < WORST:
        plots.level(ax, found[best], best)
    if end := done["arrays"]["curriculum_ends_at"]:
        ax.axvline(end, color="#999999", linewidth=0.8, label="end of the curriculum")
    ax.set(xlabel="training step", ylabel="normalised error", ylim=(0, WORST))
    ax.locator_params(axis="x", nbins=4)
    ax.legend()
    return figure


PICTURES = (
    Picture(
        "in_context_error",
        (f"{CURVE}standard_trained",),
        _draw_standard,
        "Error after each number of examples, over the variance of labels: the trained model (mean "
        "over seeds) and learners, on the same prompts; bands hold 90 % of means over resampled "
        "prompts. What is much worse than always zero leaves the frame.",
        place=300,
        remarks={BEYOND: BEYOND_SAID},
    ),
    Picture(
        "prompt_families",
        ("other_families",),
        _draw_families,
        "The same model on prompts of other suite than those of its training, beside learners; "
        "bands as before. Curves that are missing are above the frame, at all lengths shown.",
        place=310,
        remarks={BEYOND: BEYOND_SAID},
    ),
    Picture(
        "in_context_error_by_step",
        ("normalised_error_at_end_by_step",),
        _draw_by_step,
        "Error on held-out prompts over training: mean over seeds, and their range; beside it "
        "the learner with the least mean over lengths, on the other prompts that final errors "
        f"are of. What is worse than {WORST}, early or under the curriculum, is above the "
        "frame.",
        place=330,
        remarks={
            BEYOND: "Lengths go beyond the {} examples of training's prompts; after more of them nothing was trained."
        },
    ),
)
