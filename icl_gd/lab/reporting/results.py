"""The results of a run: metrics, curves and claims as data, written atomically."""

import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from icl_gd.lab.config.claims import Claim
from icl_gd.paths import replacing

Metric = dict[str, Any]
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "icl-gd")


def metric(per_seed: Any, stderr: Any = None) -> Metric:
    """A metric in the format of results.json.

    Args:
      per_seed: values `[seed]`, or one value.
      stderr: the sampling error, if it is known; 0 for exact values. Default: the standard error over seeds, which is
        nan for fewer than two seeds.

    Returns:
      `mean`, `std`, `stderr` and `per_seed`.
    """
    values = np.atleast_1d(np.asarray(per_seed, np.float64))
    n = len(values)
    with np.errstate(invalid="ignore"):  # values of diverged members may be infinite
        std = float(values.std(ddof=1)) if n > 1 else math.nan
    known = std / math.sqrt(n) if stderr is None and n else stderr
    error = float(np.mean(known)) if n and known is not None else math.nan
    mean = float(values.mean()) if n else math.nan
    return {"mean": mean, "std": std, "stderr": error, "per_seed": values.tolist()}


def curve(x: Sequence[Any], members: Any) -> dict[str, list]:
    """A curve in the format of results.json.

    Args:
      x: values of the x axis.
      members: values `[x]` or `[x member]`.

    Returns:
      `x`, and the `mean`, minimum (`low`) and maximum (`high`) over members.
    """
    values = np.asarray(members, np.float64)
    values = values[:, None] if values.ndim == 1 else values
    return {
        "x": list(x),
        "mean": values.mean(1).tolist(),
        "low": values.min(1).tolist(),
        "high": values.max(1).tolist(),
    }


def curves_by_step(
    history: Mapping[str, Mapping[int, Mapping[int, float]]], first_seed: int, members: Sequence[int] | np.ndarray
) -> dict[str, dict[str, list]]:
    """Metrics measured during training, as curves over steps.

    Args:
      history: metric -> step -> seed -> value.
      first_seed: the seed of the first member.
      members: indices of the members that the curves include.

    Returns:
      `METRIC_by_step` -> curve.
    """
    return {
        f"{name}_by_step": curve(
            sorted(by_step), [[by_step[step][first_seed + i] for i in members] for step in sorted(by_step)]
        )
        for name, by_step in history.items()
    }


def sweep_line(sweep: Sequence[Mapping[str, Any]], field: str, name: str) -> dict[str, list]:
    """A metric of a sweep, as a curve over one field.

    Args:
      sweep: the combinations of the sweep, as in `sweep` of results.json.
      field: the field of the x axis.
      name: the metric.

    Returns:
      A curve; its band is the range over seeds, nan if a seed has no value.
    """
    metrics = [point["metrics"][name] for point in sweep]
    seeds = [[math.nan if value is None else value for value in values["per_seed"]] or [math.nan] for values in metrics]
    return {
        "x": [point["fields"][field] for point in sweep],
        "mean": [values["mean"] for values in metrics],
        "low": [float(np.min(values)) for values in seeds],
        "high": [float(np.max(values)) for values in seeds],
    }


def lookup(results: Mapping[str, Any], name: str, reduce: str = "mean") -> float:
    """The measured value of a claim.

    Args:
      results: the content of results.json.
      name: `METRIC`, `CURVE[x]`, or `METRIC[field=value,...]` with all swept fields for one combination of a sweep.
      reduce: how the values of all seeds become one value: "mean", "min" or "max" (for a curve, the ends of its band);
        for a metric also "lower" or "upper", the ends of the 95 % interval of the mean over seeds.

    Returns:
      The value; nan if no seed has a value.

    Raises:
      KeyError: if the results have no such metric, curve, x or combination.
    """
    metrics = results["metrics"]
    parts = re.fullmatch(r"(\w+)\[(.+)\]", name)
    if parts and "=" in parts[2]:
        points = {",".join(f"{f}={v}" for f, v in p["fields"].items()): p["metrics"] for p in results["sweep"]}
        name, metrics = parts[1], points[parts[2]]
    elif parts:
        line = results["curves"][parts[1]]
        part = {"mean": "mean", "min": "low", "max": "high"}[reduce]
        return float(dict(zip(map(str, line["x"]), line[part], strict=True))[parts[2]])
    values = metrics[name]
    if reduce == "mean":
        return float(values["mean"])
    if reduce in ("lower", "upper"):
        return float(values["mean"] + {"lower": -1, "upper": 1}[reduce] * half_interval(values))
    return float({"max": np.max, "min": np.min}[reduce](values["per_seed"])) if values["per_seed"] else math.nan


def half_interval(metric: Mapping[str, Any]) -> float:
    """Half of the width of the 95 % interval of the mean over seeds, by Student's t distribution.

    Returns:
      Half of the width; nan for fewer than two seeds.
    """
    from scipy.stats import t  # takes a second to import

    seeds = np.asarray([math.nan if value is None else value for value in metric["per_seed"]], float)
    if len(seeds) < 2:
        return math.nan
    return float(t.ppf(0.975, len(seeds) - 1) * seeds.std(ddof=1) / len(seeds) ** 0.5)


def check_claims(claims: Sequence[Claim], results: Mapping[str, Any], overridden: Sequence[str]) -> list:
    """Tests claims on the results.

    Args:
      claims: the claims of an experiment.
      results: the content of results.json.
      overridden: names of fields whose values differ from the config; every note lists them.

    Returns:
      The rows of `claims` in results.json.
    """
    rows = []
    for claim in claims:
        try:
            value, note = lookup(results, claim.metric, claim.reduce), claim.note
        except KeyError:
            value, note = math.nan, f"{claim.metric} was not measured with these settings"
        if overridden:
            note = f"the config states this claim for other values of {', '.join(overridden)}. {note}".strip()
        row = {key: getattr(claim, key) for key in ("id", "statement", "source", "metric", "relation")}
        row |= {"target": float(claim.target), "tolerance": float(claim.tolerance), "value": value}
        rows.append({**row, "holds": holds(row), "note": note})
    return rows


def holds(claim: Mapping[str, Any]) -> bool:
    """Whether a claim holds, computed from its relation, value, target and tolerance.

    Returns:
      Whether the claim holds; False if it has no value.
    """
    if claim["value"] is None or math.isnan(claim["value"]):
        return False
    difference = claim["value"] - claim["target"]
    return {
        "within": abs(difference) <= claim["tolerance"],
        "at_least": difference >= -claim["tolerance"],
        "at_most": difference <= claim["tolerance"],
    }[claim["relation"]]


def provenance(precision: str) -> dict[str, Any]:
    """The environment in which results were computed.

    Returns:
      Package versions, device, precision and git revision.
    """
    import jax

    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "device": f"{jax.devices()[0].platform} ({jax.devices()[0].device_kind}) x {jax.device_count()}",
        "precision": precision,
        "git": described.stdout.strip() or None,
    }


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; NaN and infinities become null."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(plain(value), indent=1) + "\n")


def plain(value: Any) -> Any:
    """A value as JSON holds it: numbers that are not finite become None, and NumPy numbers those of Python.

    Returns:
      The value.
    """
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):  # an array or number of NumPy or JAX
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
