"""The result of a run in one sentence, made from its metrics and claims.

>>> from icl_gd.lab.reporting.answer import claims_in_words
>>> claims_in_words([{"id": "a", "holds": True}, {"id": "b", "holds": False}])
'1 of 2 claims hold; b fails'
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from icl_gd import plots

Metrics = Mapping[str, Mapping[str, Any]]
# Seeds have learned an algorithm if their sensitivity cosine is at least LEARNED_COSINE, and the relative difference of
# their loss to the algorithm's loss at most LEARNED_LOSS.
LEARNED_COSINE, LEARNED_LOSS = 0.99, 0.05
MAIN = {"loss_trained": "loss", "normalised_error": "normalised error"}
# Endings of metrics "sensitivity_cosine_..." that do not end with the name of a learner.
NOT_LEARNERS = ("untrapped", "trapped", "untrained", "wrong_step", "function")


def answer(results: Mapping[str, Any]) -> str:
    """The result of a run in one sentence.

    A population has learned an algorithm if every free seed has a sensitivity cosine of at least 0.99 and a loss within
    5 % of the algorithm's loss. Otherwise the sentence names the closest algorithm, with loss ratio and cosine.

    Returns:
      For example "10 of 10 seeds learned 1 step of gradient descent: loss within 0.2 %, sensitivity cosine at least
      0.9999; all 16 claims hold."
    """
    result = _sweep_result(results) if results["sweep"] else _population_result(results)
    return f"{result}; {claims_in_words(results['claims'])}." if results["claims"] else f"{result}."


def claims_in_words(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims hold, and which fail.

    Returns:
      For example "all 16 claims hold", or "14 of 16 claims hold; VO.F2.loss, VO.F2.cosine fail".
    """
    failing = [claim["id"] for claim in claims if not claim["holds"]]
    if not failing:
        return f"all {len(claims)} claims hold" if len(claims) > 1 else "the claim holds"
    shown = ", ".join(failing if len(failing) < 5 else failing[:3])
    shown += f" and {len(failing) - 3} others" if len(failing) >= 5 else ""
    verb = "fails" if len(failing) == 1 else "fail"
    return f"{len(claims) - len(failing)} of {len(claims)} claims hold; {shown} {verb}"


def _sweep_result(results: Mapping[str, Any]) -> str:
    fields = ", ".join(dict.fromkeys(field for point in results["sweep"] for field in point["fields"]))
    count = len(results["sweep"])
    trained = "combinations were trained" if count > 1 else "combination was trained"
    return f"{count} {trained} ({fields})" if fields else f"{count} {trained}"


def _population_result(results: Mapping[str, Any]) -> str:
    metrics: Metrics = results["metrics"]
    main = "normalised_error" if "normalised_error" in metrics else "loss_trained"
    if main not in metrics or "seeds_trapped" not in metrics:
        return "The run has no loss of trained seeds"
    seeds = len(metrics[main]["per_seed"])
    free = seeds - round(metrics["seeds_trapped"]["mean"])
    if free == 0:
        return f"All {seeds} seeds are trapped: mean {MAIN[main]} {_number(metrics[main]['mean'])}"
    if main == "normalised_error":
        return f"{free} of {seeds} seeds learned the task: {_compared_with_baselines(metrics)}"
    learners = {name.removeprefix("sensitivity_cosine_") for name in metrics if name.startswith("sensitivity_cosine_")}
    learners = {name for name in learners if not name.endswith(NOT_LEARNERS) and f"loss_ratio_{name}" in metrics}
    if not learners:
        return f"{free} of {seeds} seeds are free: loss {_number(_free(metrics, main)['mean'])}"
    return f"{free} of {seeds} seeds {_compared_with_learners(metrics, learners, results['arrays'].get('n_layers'))}"


def _compared_with_learners(metrics: Metrics, learners: set[str], n_layers: int | None) -> str:
    """Compares the free seeds with the learner for which their mean sensitivity cosine is largest."""
    by_learner = {name: _free(metrics, f"sensitivity_cosine_{name}") for name in learners}
    closest = max(sorted(learners), key=lambda name: by_learner[name]["mean"] or 0.0)
    ratios = _values(_free(metrics, f"loss_ratio_{closest}"))
    cosines = _values(by_learner[closest])
    title = _title(closest)
    if closest == "gd" and n_layers:
        title = f"{n_layers} step{'s' * (n_layers > 1)} of gradient descent"
    difference = max((abs(ratio - 1.0) for ratio in ratios), default=math.inf)
    if cosines and min(cosines) >= LEARNED_COSINE and difference <= LEARNED_LOSS:
        percent = math.ceil(difference * 1e3) / 10  # rounded up
        cosine = math.floor(min(cosines) * 1e4) / 1e4  # rounded down
        return f"learned {title}: loss within {percent:g} %, sensitivity cosine at least {cosine:g}"
    ratio = _free(metrics, f"loss_ratio_{closest}")["mean"]
    numbers = f"loss ratio {_number(ratio)}, sensitivity cosine {_number(by_learner[closest]['mean'])}"
    return f"are free; the closest algorithm is {title} ({numbers})"


def _compared_with_baselines(metrics: Metrics) -> str:
    """Compares the free seeds with the baseline that has the smallest mean error."""
    error = _number(_free(metrics, "normalised_error")["mean"])
    baselines = [name.removeprefix("excess_over_") for name in metrics if name.startswith("excess_over_")]
    known = {
        name: metrics[f"normalised_error_{name}"]["mean"] for name in baselines if f"normalised_error_{name}" in metrics
    }
    known = {name: mean for name, mean in known.items() if mean is not None}
    if not known:
        return f"mean normalised error {error}"
    best = min(known, key=known.__getitem__)
    return f"mean normalised error {error} ({_title(best)}: {_number(known[best])})"


def _title(learner: str) -> str:
    return plots.role_of(learner)[0].replace("$\\alpha$", "α")


def _free(metrics: Metrics, name: str) -> Mapping[str, Any]:
    """A metric over free seeds; over all seeds if it is not reported for free seeds."""
    return metrics.get(f"{name}_untrapped", metrics[name])


def _values(metric: Mapping[str, Any]) -> list[float]:
    return [value for value in metric["per_seed"] if value is not None and math.isfinite(value)]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
