"""The content of the page, computed in advance."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from icl_gd.analysis import prediction_losses
from icl_gd.lab.evaluation.measured import CURVES, FIT, held_out_key
from icl_gd.lab.inspection.comparison import Side, learners_of, sides_of
from icl_gd.lab.inspection.effects import Unit, combinations_of, effects, units_of
from icl_gd.lab.inspection.look import Look, lens_names, look, share_names
from icl_gd.lab.inspection.page import check_size
from icl_gd.lab.inspection.subject import Subject
from icl_gd.models import Model, TransformerConfig
from icl_gd.models.modifications import UNMODIFIED
from icl_gd.tasks import FunctionRegression, LinearRegression, draw_prompts
from icl_gd.types import Array, Layout, Predictor, Prompt

FIT_PROMPTS = 4096  # prompts that rates are fitted on
LEAST_PROMPTS, MOST_PROMPTS = 32, 1024  # prompts of mean losses
SECONDS = 10  # between two reports of progress
WORK = 2**38  # multiplications of all ablations of one model, by which the prompts of mean losses are limited


def page_data(subject: Subject, members: Sequence[int], n_prompts: int, seed: int) -> dict[str, Any]:
    """Computes everything that a page shows.

    Args:
      subject: the models and their task.
      members: numbers of the members to show.
      n_prompts: number of prompts to show.
      seed: determines the prompts, which no member was trained on.

    Returns:
      The content of the page, in values that JSON can hold.

    Raises:
      ConfigError: if the page would be too large.
    """
    task = subject.task
    fit = draw_prompts(task.sample, held_out_key(seed, FIT), FIT_PROMPTS)
    sides = sides_of(subject, members, fit)
    first = sides[0].model
    prompts = draw_prompts(task.sample, held_out_key(seed, CURVES), max(n_prompts, _affordable(sides, task)))
    n_edits = 2 * len(combinations_of(len(units_of(first.config))))
    check_size([_prompt(first, prompts, 0), [[0.12345] * task.d_output] * n_edits], n_prompts, len(sides))
    return {
        "title": subject.name,
        "task": _task_in_words(task),
        "tokens": _tokens(first.layout, task.n_context),
        "n_losses": len(prompts.x),
        "prompts": [
            {
                "x": _rounded(prompts.x[i]),
                "y": _rounded(prompts.y[i]),
                "x_query": _rounded(prompts.x_query[i]),
                "y_query": _rounded(prompts.y_query[i], 5),
            }
            for i in range(n_prompts)
        ],
        "references": [
            _reference(name, learner, prompts, n_prompts)
            for name, learner in learners_of(task, fit, first.config.n_layers)
        ],
        "sides": [_side(side, prompts, n_prompts, f"model {i} of {len(sides)}") for i, side in enumerate(sides, 1)],
    }


def _reference(name: str, learner: Predictor, prompts: Prompt, n_prompts: int) -> dict[str, Any]:
    """The predictions and the mean loss of a learner."""
    predictions = jax.jit(jax.vmap(learner))(prompts.x, prompts.y, prompts.x_query)
    return {"name": name, **_mean_loss(predictions, prompts), "predictions": _rounded(predictions[:n_prompts], 5)}


def _mean_loss(predictions: Array, prompts: Prompt) -> dict[str, Any]:
    """The mean loss over prompts, and its standard error."""
    values = prediction_losses(predictions, prompts)
    return {"loss": _rounded(values.mean(), 5), "error": _rounded(values.std() / np.sqrt(len(values)), 2)}


def _affordable(sides: Sequence[Side], task: Any) -> int:
    """The number of prompts of mean losses: a power of two, fewer for large models with many heads."""
    work = 1
    for side in sides:
        parameters = sum(leaf.size for leaf in jax.tree.leaves(side.model.params))
        runs = 2 * len(combinations_of(len(units_of(side.model.config))))
        work = max(work, runs * parameters * (2 * task.n_context + 1))
    return 1 << (max(LEAST_PROMPTS, min(MOST_PROMPTS, WORK // work)).bit_length() - 1)


def _side(side: Side, prompts: Prompt, n_prompts: int, which: str) -> dict[str, Any]:
    """What the page shows of one model."""
    model, config = side.model, side.model.config
    units = units_of(config)
    edited = combinations_of(len(units))
    print(f"{which}, {side.name}: {2 * len(edited):,} edits on {len(prompts.x):,} prompts", flush=True)
    found = effects(model, prompts, edited, _progress())
    return {
        "name": side.name,
        "kind": side.kind,
        "about": side.about,
        "n_heads": config.n_heads,
        "kinds": list(config.kinds),
        "lens": lens_names(config),
        "shares": share_names(config),
        "units": [{"label": _label(unit), "code": unit._asdict()} for unit in units],
        "combinations": edited,
        "prompts": [_prompt(model, prompts, i) for i in range(n_prompts)],
        **_mean_loss(found["zero"].predictions[0], prompts),
        "edits": {
            kind: {"losses": _rounded(each.losses, 5), "predictions": _rounded(each.predictions[:, :n_prompts], 5)}
            for kind, each in found.items()
        },
    }


def _progress() -> Callable[[int, int], None]:
    """A function that prints, at most every ten seconds, how many edits are computed."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS and done < total:
            print(f"  {done:,} of {total:,} edits", flush=True)
            last = time.monotonic()

    return report


def _label(unit: Unit) -> str:
    part = f"head {unit.head}" if unit.head is not None else {"attn_out": "attention", "mlp_out": "MLP"}[unit.site]
    return f"layer {unit.layer}, {part}"


def _prompt(model: Model, prompts: Prompt, i: int) -> dict[str, Any]:
    """What the page shows of one model on one prompt."""
    return look_data(look(model, prompts.x[i], prompts.y[i], prompts.x_query[i]), model.config)


def look_data(found: Look, config: TransformerConfig) -> dict[str, Any]:
    """The values of one prompt, in values that JSON can hold.

    Args:
      found: the values.
      config: the architecture.

    Returns:
      The values. Rows of patterns and scores end at the last key that is attended to; scores that equal the pattern
      are None.
    """
    found = jax.tree.map(np.asarray, found)
    t = found.pattern.shape[-1]
    # The query is not a key, unless all tokens attend to it; in causal attention a token attends to those before it.
    ends = range(1, t + 1) if config.causal else [t if config.attend_to_query else t - 1] * t

    def rows(matrices: Any) -> list[list[list]]:
        return [[_rounded(row[:end]) for row, end in zip(matrix, ends, strict=True)] for matrix in matrices]

    same = [kind == "linear" and config.modification == UNMODIFIED for kind in config.kinds]
    return {
        "prediction": _rounded(found.prediction, 5),
        "lens": _rounded(found.lens, 5),
        "shares": _rounded(found.shares, 5),
        "layers": [
            {
                "pattern": rows(found.pattern[layer]),
                "scores": None if same[layer] else rows(found.scores[layer]),
                "values": _rounded(found.values[layer]),
                "by_key": _rounded(found.by_key[layer]),
            }
            for layer in range(config.n_layers)
        ],
    }


def _tokens(layout: Layout, n: int) -> list[dict[str, Any]]:
    """The tokens of a prompt: a label, which counts examples from 1, the index of the example, and the content."""
    if not layout.has_separate_tokens:
        examples = [{"label": str(i + 1), "example": i, "holds": "xy"} for i in range(n)]
        return [*examples, {"label": "q", "example": n, "holds": "x"}]
    pairs = [{"label": f"{part}{i + 1}", "example": i, "holds": part} for i in range(n) for part in "xy"]
    return [*pairs, {"label": "q", "example": n, "holds": "x"}]


def _task_in_words(task: Any) -> str:
    """The task in one sentence, without its full stop."""
    if isinstance(task, LinearRegression):
        name, inputs = "Linear regression", task.inputs
    elif isinstance(task, FunctionRegression):
        name, inputs = f"Regression on functions of the class {type(task.functions).__name__}", task.inputs
    else:
        name, inputs = re.sub("(?<=[a-z])[A-Z]", lambda found: f" {found[0].lower()}", type(task).__name__), None
    drawn = f" with {inputs} inputs" if inputs else ""
    parts = [f"{name}{drawn}: x has {_counted(task.d_input, 'dimension')}, y has {task.d_output}"]
    parts.append(f"each prompt has {_counted(task.n_context, 'example')}")
    if isinstance(task, FunctionRegression) and task.family != "standard":
        parts.append(f"the prompt distribution is {task.family}")
    if isinstance(task, FunctionRegression | LinearRegression) and task.noise_std:
        parts.append(f"labels have noise of standard deviation {float(task.noise_std):.3g}")
    if isinstance(task, LinearRegression) and task.corrupted_labels:
        parts.append(f"{_counted(int(task.corrupted_labels), 'label')} in each prompt are corrupted")
    return "; ".join(parts)


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


def _rounded(values: Any, digits: int = 4) -> Any:
    """Numbers rounded to significant digits, in nested lists; None for what is not finite."""
    values = np.asarray(values, np.float64)
    if values.ndim:
        return [_rounded(value, digits) for value in values]
    if not np.isfinite(values):
        return None
    number = float(f"{values:.{digits}g}")
    return int(number) if number == int(number) and abs(number) < 10**6 else number
