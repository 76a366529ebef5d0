"""Names the algorithm of an in-context learner, from its predictions and, if it has layers, from those of every layer.

>>> from icl_gd import learners
>>> from icl_gd.tasks import LinearRegression
>>> verdict = identify(learners.ridge(penalty=2.0), LinearRegression(d_input=3, n_context=8))
>>> verdict.name, round(verdict.parameters["penalty"], 2)
('ridge regression', 2.0)
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

import jax
import numpy as np
from annotated_types import Gt, Lt

from icl_gd.analysis.calls import ARGUMENTS, Calls, check_predictor
from icl_gd.analysis.symmetries import check_task, violations
from icl_gd.identification.black_box import black_box, nearest
from icl_gd.identification.cause import opened
from icl_gd.identification.evidence import by_shift, controls, observed
from icl_gd.identification.families import Name
from icl_gd.identification.layerwise import check_layers, layered
from icl_gd.identification.probe import CEILING, Probe
from icl_gd.identification.samples import unexplained
from icl_gd.identification.subject import EXACT, FRESH, MANY, Answer, Subject
from icl_gd.identification.verdict import Evidence, Hypothesis, Verdict
from icl_gd.schema import Seed, check_function, checked
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Predictor

Ceiling = Annotated[float, Gt(0), Lt(1)]


@checked
def identify(
    predictor: Predictor,
    task: Sampled,
    *,
    layerwise: Predictor | None = None,
    seed: Seed = 0,
    ceiling: Ceiling = CEILING,
    progress: Callable[[str], Any] = len,
) -> Verdict:
    """Names the algorithm that an in-context learner computes, or says "none".

    Args:
      predictor: a Predictor or a `Model`; a NumPy function of one prompt is accepted, too.
      task: where prompts are drawn from: an object with `d_input`, `d_output` and `sample(key) -> Prompt`. The number
        of examples is never changed, except for one shift, which is left out if the Predictor refuses it.
      layerwise: the prediction before the first and after every layer, `[depth m]`. Default: that of a `Model`;
        otherwise only the predictions are used.
      seed: random seed of prompts and transformations.
      ceiling: largest part of the response, as a share of squares, that may break the symmetries of an algorithm.
        Default: 0.1.
      progress: called with a description before every stage.

    Returns:
      The verdict.

    Raises:
      ValueError: if an argument is not what it must be, the Predictor does not return m finite numbers for a prompt, or
        the last prediction of `layerwise` is not that of the Predictor.
    """
    began = time.perf_counter()
    check_predictor(predictor)
    check_function("progress", progress, ("stage",))
    check_task(task, MANY)
    progress("symmetries")
    subject = Subject(predictor, task, seed)
    if layerwise is not None:
        check_function("layerwise", layerwise, ARGUMENTS)
        check_layers(subject, Calls(layerwise, name="layerwise"))
    broken = violations(subject.call, subject.prompts, subject.other, subject.generator)
    by_layer = layerwise if layerwise is not None else getattr(predictor, "layerwise", None)
    box, read, seen = _answers(subject, by_layer, ceiling, progress)
    answers = read or box
    progress("evidence")
    hypotheses = [as_hypothesis(subject, answer) for answer in answers]
    shifts = by_shift(subject, answers[0] if answers else None)
    rows, near = observed(subject, answers, box, read, seen, ceiling), None
    if not answers and seen is not None:
        progress("the nearest algorithm")
        near, row = _nearest(subject, seen)
        rows.append(row)
    if answers:
        progress("layers of the construction")
        rows += opened(predictor, answers[0], task, jax.random.fold_in(jax.random.key(seed), 1), subject.n)
    noise = answers[0].noise if answers else seen.base.violation if seen is not None else 0.0
    return Verdict(
        verdict=answers[0].name.verdict if answers else "none",
        parameters=answers[0].parameters if answers else {},
        intervals=answers[0].intervals if answers else {},
        not_excluded=hypotheses,
        black_box=[as_hypothesis(subject, answer) for answer in box],
        nearest=near,
        unexplained={
            "in_distribution": hypotheses[0].unexplained if hypotheses else 1.0,
            "shifted": max(shifts.values(), default=1.0),
            "noise_floor": noise,
        },
        by_shift=shifts,
        symmetries={name: violation.value for name, violation in broken.items()},
        evidence=rows,
        controls=controls(subject, answers[0], predictor) if answers else {},
        reading="layer by layer" if read else "black box",
        seconds=time.perf_counter() - began,
    )


def _answers(
    subject: Subject, by_layer: Predictor | None, ceiling: float, progress: Callable[[str], Any]
) -> tuple[list[Answer], list[Answer], Probe | None]:
    """What the predictions alone do not exclude, what the layers do not exclude, and the probe."""
    if subject.is_zero:
        return [zero(subject)], [], None
    box, seen = black_box(subject, ceiling, progress)
    if by_layer is None:
        return box, [], seen
    progress("layers")
    return box, layered(subject, Calls(by_layer), ceiling), seen


def _nearest(subject: Subject, seen: Probe) -> tuple[Hypothesis, Evidence]:
    """The nearest algorithm, and by how much it is excluded."""
    closest = nearest(subject, seen)
    near = as_hypothesis(subject, closest)
    left, limit = near.unexplained, FRESH * seen.base.violation + EXACT
    says = f"part of the predictions for fresh prompts that {closest.words}, the nearest algorithm, leaves unexplained"
    return near, Evidence("behaviour", "nearest_unexplained", says, left, limit, left > limit)


def zero(subject: Subject) -> Answer:
    """The algorithm that predicts zero.

    Returns:
      The answer.
    """
    return Answer(Name("zero"), {}, lambda x, y, x_query: np.zeros((len(x), y.shape[-1])), {}, 0.0)


def as_hypothesis(subject: Subject, answer: Answer) -> Hypothesis:
    """An algorithm with the share of the response to fresh prompts that it does not explain.

    Returns:
      The hypothesis.
    """
    left = 0.0 if answer.name.verdict == "zero" else unexplained(subject.fresh, subject.response, answer.predict)
    return Hypothesis(answer.name.verdict, answer.parameters, left)
