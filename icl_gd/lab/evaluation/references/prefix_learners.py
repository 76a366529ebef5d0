"""The reference for function classes: learners that predict after every number of examples, on several suites."""

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
from icl_gd.lab.evaluation.measured import GROUPS, Evaluation, PreparedReference, Records, Setting
from icl_gd.schema import OneOf, check
from icl_gd.tasks import EVAL_SUITE, FunctionRegression
from icl_gd.training import Curriculum
from icl_gd.types import Array, PrefixPredictor, PrefixPrompt

PROMPTS_AT_ONCE = 64  # batch size of Transformers
LEARNERS_AT_ONCE = 8  # batch size of learners; it is small, because a batch takes as long as its slowest prompt
LEARNED_BELOW = 0.9  # a seed is trapped if its final error is above this multiple of the error of predicting zero
ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)  # penalties of the Lasso, as published
CURVE = "normalised_error_"
WORST = 1.1  # the largest error that the figure over training shows
# Name of an array: the number of examples in training prompts. It is recorded if evaluation prompts have more.
BEYOND = "trained_n_context"
BEYOND_REMARK = "Training prompts have {} examples; predictions after more examples (shaded) were never trained."
# Panels of the figure `prompt_families`: what a row varies -> the suites in this row.
ROWS = {
    "query": ("random_quadrants", "opposite_quadrants", "orthogonal_query", "repeated_query"),
    "inputs": ("half_subspace", "skewed", "noisy"),
    "scale of inputs": ("inputs_third", "inputs_half", "inputs_double", "inputs_triple"),
    "scale of labels": ("labels_third", "labels_half", "labels_double", "labels_triple"),
}
# Baseline -> names of its error curves, and a function that makes its predictor.
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
REQUIRES = {"tree": "sklearn", "tree_4": "sklearn", "xgboost": "xgboost"}  # baseline -> package that it needs


@dataclass(frozen=True)
class PrefixLearners(Reference):
    """Learners that predict after every number of examples, on prompts of the training task and on shifted prompts.

    Attributes:
      suite: kinds of prompts that errors at every length are measured on.
      baselines: learners that the trained model is compared with.
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
            if duplicates := [word for word in words if words.count(word) > 1]:
                raise ValueError(f"eval.{name}={duplicates[0]}: duplicate value; give every value once")
        if self.baselines and not self.suite:
            raise ValueError(
                "eval.suite=(): baselines are measured on the prompts of eval.suite; give at least ('standard',)"
            )

    def check(self, experiment: Experiment) -> None:
        if not experiment.network.causal:
            reject(
                "model.style",
                experiment.model.name,
                "reference.name=prefix_learners needs gpt2, whose attention is causal",
            )
        if experiment.eval_task.noise != "normal" and not experiment.eval_task.noise_std and "noisy" not in self.suite:
            reject(
                "task.noise",
                experiment.eval_task.noise,
                "has no effect without noise; set task.noise_std, or add noisy to eval.suite",
            )
        if experiment.eval_task.logistic and "noisy" in self.suite:
            reject(
                "eval.suite",
                "noisy",
                "the labels of task.name=signs are classes, to which no noise can be added; remove noisy",
            )

    def check_here(self) -> None:
        for name in self.baselines:
            if name in REQUIRES and importlib.util.find_spec(REQUIRES[name]) is None:
                reject("eval.baselines", name, f"needs {REQUIRES[name]}: pip install 'icl-gd[baselines]'")

    def prepare(self, setting: Setting) -> "PreparedPrefixLearners":
        if beyond := setting.experiment.never_trained:
            lengths = " to ".join(map(str, dict.fromkeys((beyond[0], beyond[-1]))))
            warnings.warn(
                f"eval.n_context={beyond[-1]}: predictions after {lengths} examples are never trained, because "
                f"task.n_context={beyond[0] - 1}; figures shade these lengths",
                stacklevel=2,
            )
        return PreparedPrefixLearners(setting)


@dataclass(frozen=True)
class PreparedPrefixLearners(PreparedReference):
    """Learners compared with a population at every length of a prompt."""

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
        """The mean error over all lengths, and the error at full length, `[member]` each."""
        return jax.tree.map(np.asarray, self._watch(params, self.setting.prompts))

    def evaluate(self, evaluation: Evaluation) -> Records:
        """Records of the errors of members and baselines at every length, on every kind of prompts."""
        return evaluate(evaluation)

    def over_training(self, evaluation: Evaluation, records: Records) -> None:
        """Adds curves over training, and the step at which the curriculum ends."""
        super().over_training(evaluation, records)
        records.arrays["curriculum_ends_at"] = curriculum_end(evaluation.experiment.settings.curriculum)


def suite_prompts(evaluation: Evaluation, name: str) -> tuple[FunctionRegression, PrefixPrompt]:
    """The task of one kind of prompts, and a batch of its prompts.

    Args:
      evaluation: the trained population.
      name: "standard" for the task itself, or a key of `EVAL_SUITE`.

    Returns:
      The task, and its prompts with a leading prompt axis.
    """
    task = EVAL_SUITE[name](evaluation.task) if name != "standard" else evaluation.task
    key = jax.random.fold_in(evaluation.key, sorted(EVAL_SUITE).index(name))
    return task, jax.jit(jax.vmap(task.sample_prefixes))(jax.random.split(key, evaluation.n_prompts))


def member_errors(
    predictor_of: Callable[[Any], PrefixPredictor], params: Any, prompts: PrefixPrompt, task: FunctionRegression
) -> Array:
    """Errors of all members at every length, divided by the error of predicting zero.

    Args:
      predictor_of: returns the PrefixPredictor of a member, given its parameters.
      params: parameters with a leading member axis.
      prompts: prompts with a leading prompt axis.
      task: the task of the prompts.

    Returns:
      Errors `[member prompt n]`.
    """
    return jax.lax.map(lambda member: _errors(predictor_of(member), prompts, task, PROMPTS_AT_ONCE), params)


def evaluate(evaluation: Evaluation) -> Records:
    """Measures errors on every kind of prompts.

    Returns:
      Records with a curve `normalised_error_SUITE_LEARNER` over the number of examples for every kind of prompts and
      learner, and with metrics that are means over the number of examples.
    """
    has_diverged = np.asarray(evaluation.trained.diverged_at) >= 0
    records = Records(~has_diverged, has_diverged)
    suite = tuple(evaluation.experiment.reference.suite)[: evaluation.suite_values]
    standard = {}
    for name in dict.fromkeys(("standard", *suite)):
        print(f"measuring: {name} prompts", flush=True)
        task, prompts = suite_prompts(evaluation, name)
        measure = jax.jit(partial(member_errors, evaluation.trained.prefix_predictor, task=task))
        trained = np.asarray(measure(evaluation.trained.params, prompts), np.float64)
        errors: dict[str, np.ndarray] = {"trained": trained.mean(0)}
        if name in suite:
            errors |= _baseline_errors(evaluation, prompts, task)
            if task.noise_std > 0.0 and "least_squares" in errors:
                median = np.median(errors["least_squares"], axis=0)  # the mean is infinite around d examples
                records.add_one(f"peak_of_least_squares_{name}", float(np.argmax(median)))
        if name == "standard":
            untrained = np.asarray(measure(evaluation.untrained, prompts), np.float64)
            baselines = {role: values[None] for role, values in errors.items() if role != "trained"}
            standard = {"trained": trained, "untrained": untrained, **baselines}
            errors["untrained"] = untrained.mean(0)
        records.arrays["learners"] = [role for role in errors if role not in ("trained", "untrained")]
        for role, values in errors.items():
            records.curves[f"normalised_error_{name}_{role}"] = band(values)
        _by_member(records, name, trained)
    beyond = evaluation.experiment.never_trained
    if beyond:
        records.arrays[BEYOND] = beyond[0] - 1
    _summaries(records, standard, evaluation.task, beyond[0] if beyond else None)
    if evaluation.task.logistic:
        records.arrays["are_classes"] = True
    if others := [name for name in suite if name != "standard"]:
        records.arrays["other_families"] = others
    return records


def _baseline_errors(evaluation: Evaluation, prompts: PrefixPrompt, task: FunctionRegression) -> dict[str, np.ndarray]:
    """Errors `[prompt n]` of every baseline, in float64: around d examples, least squares loses half its digits."""
    exact: PrefixPrompt = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), prompts._replace(w=None))
    result: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        for name in evaluation.experiment.reference.baselines:
            if name in HOST_BASELINES:
                result[name] = _host_errors(name, exact, task)
                continue
            roles, make = BASELINES[name]
            measure = jax.jit(partial(_errors, make(), task=task, at_once=LEARNERS_AT_ONCE))
            errors = np.asarray(measure(jax.tree.map(jnp.asarray, exact)))
            result |= dict(zip(roles, errors.reshape(len(roles), *errors.shape[-2:]), strict=True))
    return result


def _host_errors(name: str, prompts: PrefixPrompt, task: FunctionRegression) -> np.ndarray:
    """Errors `[prompt n]` of a learner of another library, fitted to every prefix of every prompt in sequence."""
    quiet = not sys.stderr.isatty()
    progress = partial(tqdm, total=len(prompts.x), desc=f"measuring: {name}", unit="prompt", disable=quiet)
    x, y, x_query = (np.asarray(leaf) for leaf in prompts[:3])
    y_hat = learners.host_predictions(HOST_BASELINES[name](), x, y, x_query, progress=progress)
    errors = analysis.squared_errors(jnp.asarray(y_hat), jnp.asarray(prompts.y_query), task.logistic)
    return np.asarray(errors) / _zero_error(task)


def _errors(predictor: PrefixPredictor, prompts: PrefixPrompt, task: FunctionRegression, at_once: int) -> Array:
    """Errors `[*role prompt n]` of a PrefixPredictor, divided by the error of predicting zero.

    A PrefixPredictor with several predictions, such as the Lasso for several penalties, has the axis `role`.
    """
    errors = analysis.prefix_squared_errors(predictor, prompts, task.in_order, at_once, task.logistic)
    return errors / _zero_error(task)


def _zero_error(task: FunctionRegression) -> float:
    """The error of predicting zero."""
    return 1.0 if task.logistic else task.label_variance


def band(errors: np.ndarray) -> dict[str, list]:
    """A curve over the number of examples: the mean over prompts, and the 5 to 95 % interval of resampled means.

    Args:
      errors: `[prompt n]`.

    Returns:
      The curve, as in results.json.
    """
    interval = analysis.bootstrap_interval(jnp.asarray(errors), jax.random.key(0))
    low, high = (np.where(np.isfinite(interval.mean), ends, np.nan) for ends in (interval.low, interval.high))
    return {
        "x": list(range(errors.shape[1])),
        "mean": interval.mean.tolist(),
        "low": low.tolist(),
        "high": high.tolist(),
    }


def _by_member(records: Records, suite: str, errors: np.ndarray) -> None:
    """Adds the mean error of every member, and its errors by length. The error is nan for a length without a query."""
    by_length = errors.mean(1)
    suffix = "" if suite == "standard" else f"_{suite}"
    records.add(f"normalised_error{suffix}", np.nanmean(by_length, axis=1))
    records.arrays[f"normalised_error_by_member{suffix}"] = by_length.tolist()


def _summaries(
    records: Records, standard: Mapping[str, np.ndarray], task: FunctionRegression, trained: int | None = None
) -> None:
    """Adds metrics on the standard prompts: mean errors of the learners, and how much the members' errors exceed them.

    The "best Lasso" has, at every length, the penalty with the smallest error.

    Args:
      records: receives the metrics. `is_free` becomes False for members with an error above `LEARNED_BELOW`.
      standard: errors `[member prompt n]` by name.
      task: the task of the prompts.
      trained: the number of lengths, from 0 on, that occur in training. Only these decide whether a member is trapped.
        Default: all lengths.
    """
    by_length = {role: errors.mean(1) for role, errors in standard.items()}  # [member n]
    excess_over = {}
    for role, values in by_length.items():
        if role == "untrained":
            records.add("normalised_error_untrained", values.mean(1), over=GROUPS[:1])
        elif role != "trained":
            records.add_one(f"normalised_error_{role}", values.mean())
            excess_over[role] = by_length["trained"] - values
            records.add(f"excess_over_{role}", excess_over[role].mean(1))
    if paths := [excess_over[role] for role in excess_over if role.startswith("lasso_")]:
        records.add("excess_over_best_lasso", np.max(paths, axis=0).mean(1))
    records.is_free &= by_length["trained"][:, :trained].mean(1) <= LEARNED_BELOW
    d, best = task.d_input, by_length.get("least_squares")
    if best is not None:
        excess = by_length["trained"] - best
        if d > 1:
            records.add("excess_over_least_squares_below", excess[:, : d - 1].max(1))
        if excess.shape[1] >= d:
            records.add("excess_over_least_squares_around", excess[:, d - 1 : d + 2].max(1))
        if excess.shape[1] > d + 2:
            records.add("excess_over_least_squares_above", excess[:, d + 2 :].max(1))


def curriculum_end(curriculum: Curriculum | None) -> int:
    """The step at which the curriculum ends and training on the full task begins; 0 without a curriculum."""
    return 0 if curriculum is None else max(curriculum.inputs.steps, curriculum.points.steps)


def _roles(done: Done) -> list[str]:
    """All known roles in the order of figures, then the other learners of this run."""
    return list(dict.fromkeys([*plots.ROLES, *done["arrays"].get("learners", ())]))


def _curves(done: Done, suite: str) -> dict[str, dict]:
    """The curves of a suite by role, with the trained model first."""
    roles = [role for role in _roles(done) if f"{CURVE}{suite}_{role}" in done["curves"]]
    return {role: done["curves"][f"{CURVE}{suite}_{role}"] for role in roles}


def _draw(ax: plots.Axes, done: Done, curves: dict[str, dict], top: float) -> None:
    """Draws curves over the number of examples, the trained model on top, up to the error `top`."""
    for i, (role, curve) in enumerate(curves.items()):
        plots.line(ax, curve, role, label="trained model" if role == "trained" else None)
        ax.lines[-1].set_zorder(10 - i)
    plots.horizontal_line(ax, 1.0, "zero")
    ax.set_ylim(0, top)
    ax.set_xlim(0, max(curve["x"][-1] for curve in curves.values()))
    if BEYOND in done["arrays"]:
        plots.shade_untrained_lengths(ax, done["arrays"][BEYOND])


def _top(curves: dict[str, dict]) -> float:
    """The upper end of an axis that shows the curves of the trained model and of least squares.

    Larger errors of other learners, such as averaging, are cut off.
    """
    roles = ("trained", "least_squares")
    shown = [np.array(curve["mean"], float) for role, curve in curves.items() if role in roles]
    return _frame(np.nanmax(np.concatenate(shown)))


def _median_top(curves: dict[str, dict]) -> float:
    """The upper end of an axis that shows at least half of the lengths of every curve."""
    medians = [np.nanmedian(np.array(curve["mean"], float)) for role, curve in curves.items() if role != "untrained"]
    return _frame(max(medians))


def _frame(error: float) -> float:
    """The upper end of an axis that shows this error; between 1.15 and 3."""
    return float(max(1.15, min(1.1 * error, 3.0)))


def _draw_standard(done: Done) -> plots.Figure:
    curves = _curves(done, "standard")
    n_labels = len(curves) + 1 + (1 if BEYOND in done["arrays"] else 0)  # 1 for predicting zero, 1 for the shaded area
    legend_rows = (n_labels + 1) // 2
    figure, ax = plots.subplots(figsize=(plots.COLUMN, 2.5 + 0.17 * legend_rows))
    _draw(ax, done, curves, _median_top(curves))
    is_classification = done["arrays"].get("are_classes")
    error = "share of wrong classes / 0.5" if is_classification else "squared error / variance of labels"
    ax.set(xlabel="in-context examples", ylabel=error)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_suite(done: Done) -> plots.Figure:
    groups = {title: [name for name in names if _curves(done, name)] for title, names in ROWS.items()}
    groups = {title: names for title, names in groups.items() if names}
    columns = max(len(names) for names in groups.values())
    figure, axes = plots.subplots(
        len(groups), columns, figsize=(plots.PAGE, 0.5 + 1.6 * len(groups)), sharex=True, squeeze=False
    )
    handles: dict[str, Any] = {}
    for row, names in zip(axes, groups.values(), strict=True):
        for ax, name in zip(row, names, strict=False):
            curves = _curves(done, name)
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
    plots.line(ax, curves["normalised_error_by_step"], "trained", label="trained, mean over lengths")
    at_end = curves["normalised_error_at_end_by_step"]
    ax.plot(at_end["x"], at_end["mean"], ":", color=plots.ROLES["trained"][1], label="trained, at full length")
    metrics = {role: done["metrics"].get(f"{CURVE}{role}") for role in _roles(done) if role != "untrained"}
    errors = {role: metric["mean"] for role, metric in metrics.items() if metric is not None}
    best = min(errors, key=errors.__getitem__, default="")
    if best and errors[best] < WORST:
        plots.horizontal_line(ax, errors[best], best)
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
        "Error of the trained model (mean over seeds) and of the learners after each number of in-context examples, "
        "on the same prompts. The error of predicting zero is 1. Bands contain 90 % of the means over resampled "
        "prompts; larger errors are cut off.",
        place=300,
        remarks={BEYOND: BEYOND_REMARK},
    ),
    Picture(
        "prompt_families",
        ("other_families",),
        _draw_suite,
        "Error of the trained model (mean over seeds) and of the learners on prompts that differ from those of "
        "training, one panel for each kind of prompt. The error of predicting zero is 1. Bands contain 90 % of the "
        "means over resampled prompts; curves that do not appear lie above the axis.",
        place=310,
        remarks={BEYOND: BEYOND_REMARK},
    ),
    Picture(
        "in_context_error_by_step",
        ("normalised_error_at_end_by_step",),
        _draw_by_step,
        "Error on held-out prompts during training, as the mean over all lengths and at full length. Lines are means "
        "over seeds, the band is their range. The horizontal line is the learner with the smallest mean error, "
        f"measured on the prompts of the final errors. Errors above {WORST} are cut off.",
        place=330,
        remarks={BEYOND: "Training prompts have {} examples; predictions after more examples were never trained."},
    ),
)
