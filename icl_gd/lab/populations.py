"""One population after another, as a config sweeps over them, and what their records become.

A sweep within a population takes training and measurements once, and metrics combination by combination; one over sizes
repeats it. A sweep leaves its metrics in `sweep`, one entry a combination; `metrics`, and the curves and arrays of
single populations, stay empty, because a mean over combinations would mean nothing.
"""

from collections.abc import Callable, Sequence
from typing import Any

from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Config
from icl_gd.lab.evaluation.study import Found
from icl_gd.lab.reporting import results

Records = dict[str, Any]  # metrics, curves, arrays and sweep, as in results.json


def in_turn(config: Config, measure: Callable[[Config, str], Records]) -> Records:
    """Records of all populations.

    Args:
      measure: of one, by its config, with one value in each field that is swept over in turn, and its label.
    """
    found: Records = {"metrics": {}, "curves": {}, "arrays": {}, "sweep": []}
    if swept := sweeps.describe(config):
        print(swept, flush=True)
    for fields, one in sweeps.in_turn(config):
        part = measure(one, sweeps.label(fields))
        found["sweep"] += [point | {"fields": fields | point["fields"]} for point in part.pop("sweep")]
        found |= part if not swept else {}
    found["curves"] |= _curves(found["sweep"])
    return found


def records(found: Found, config: Config, points: Sequence[sweeps.Fields], label: str) -> Records:
    """Of one population, or of every combination in it."""
    if any(points):
        part = lambda i: slice(i * config.seeds, (i + 1) * config.seeds)
        return {"sweep": [{"fields": fields, "metrics": found.metrics(part(i))} for i, fields in enumerate(points)]}
    metrics = found.metrics()
    sweep = [{"fields": {}, "metrics": metrics}] if label else []
    return {"metrics": metrics, "curves": found.curves, "arrays": found.arrays, "sweep": sweep}


def _curves(sweep: list[dict]) -> dict[str, Any]:
    """Every metric of a sweep over one field as a curve over its values; of a sweep over several there are none."""
    if not sweep or len(sweep[0]["fields"]) > 1:
        return {}
    (field,) = sweep[0]["fields"]
    names = set.intersection(*(set(point["metrics"]) for point in sweep))
    return {f"{name}_by_{sweeps.leaf(field)}": results.sweep_line(sweep, field, name) for name in sorted(names)}
