"""Compares the speed of prefix learners with that of scikit-learn and NumPy, called once per prompt and prefix.

    python benchmarks/baselines.py [--json] [--write | --smoke]

The data are 1,280 prompts of 41 points with 20 inputs, labelled by sparse linear functions. The prefix learners of
`icl_gd` predict at every length of all prompts, in float64; compilation is not counted. The other libraries are called
as in published code, once for every prompt and prefix. Their calls are timed on a few prompts, and the time is scaled
to all prompts. Trees of scikit-learn and xgboost are timed in one process and on all cores.

pip install 'icl-gd[baselines]' installs scikit-learn and xgboost; without xgboost, boosted trees are omitted. This
takes about five minutes on two CPU cores, on which nothing else should run.
"""

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pages  # beside this script

from icl_gd import analysis, learners
from icl_gd.cores import usable_cores
from icl_gd.tasks import FunctionRegression, Sparse
from icl_gd.training import mesh
from icl_gd.types import PrefixPrompt

try:
    from sklearn.linear_model import Lasso
    from sklearn.neighbors import KNeighborsRegressor
except ModuleNotFoundError as error:
    raise SystemExit("error: scikit-learn is not installed: pip install 'icl-gd[baselines]'") from error


class Sizes(NamedTuple):
    """Sizes of the data and of the timings.

    Attributes:
      prompts, n_context, d_input: sizes of the data.
      sample: number of prompts on which calls of other libraries are timed.
      rounds: number of timings of each prefix learner; the minimum counts.
      greedy, boosted: number of prompts for greedy and for boosted trees. Boosted trees are slower, so they get fewer.
    """

    prompts: int = 1280
    n_context: int = 40
    d_input: int = 20
    sample: int = 4
    rounds: int = 3
    greedy: int = 1280
    boosted: int = 64


# 12 prompts can be divided among 1, 2, 3 or 4 devices.
SMOKE = Sizes(prompts=12, n_context=6, d_input=4, sample=2, rounds=1, greedy=2, boosted=2)
ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)
TARGET = 50  # speed-up of all prefix learners together
NO_XGBOOST = pages.missing("baselines", "xgboost")

OURS = {
    "least squares": learners.prefix_least_squares,
    "averaging": learners.prefix_averaging,
    "3 nearest neighbours": learners.prefix_nearest_neighbours(3),
    "five Lassos": learners.prefix_lasso_path(ALPHAS),
}


def _least_squares(x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    return x_query @ np.linalg.lstsq(x, y, rcond=None)[0]


def _averaging(x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    return x_query @ (x * y).mean(0)


def _nearest(x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    return KNeighborsRegressor(min(3, len(x))).fit(x, y[:, 0]).predict(x_query[None])


def _lassos(x: np.ndarray, y: np.ndarray, x_query: np.ndarray) -> np.ndarray:
    fits = [Lasso(alpha, fit_intercept=False, max_iter=100_000).fit(x, y[:, 0]) for alpha in ALPHAS]
    return np.array([fit.predict(x_query[None])[0] for fit in fits])


CALLS = {
    "least squares": _least_squares,
    "averaging": _averaging,
    "3 nearest neighbours": _nearest,
    "five Lassos": _lassos,
}


def prompts(sizes: Sizes) -> PrefixPrompt:
    """Draws the data."""
    task = FunctionRegression(Sparse(sizes.d_input), sizes.n_context)
    return jax.jit(jax.vmap(task.sample_prefixes))(jax.random.split(jax.random.key(0), sizes.prompts))


def _min_seconds(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def compiled(name: str, batch: PrefixPrompt, rounds: int) -> tuple[float, np.ndarray]:
    """Times a prefix learner on all prompts. The prompts are distributed over the devices.

    Args:
      name: a key of `OURS`.
      batch: the prompts; their number must be a multiple of the number of devices.
      rounds: number of timings.

    Returns:
      The minimum time in seconds, and the predictions `[... prompt n m]`. The Lassos have a first axis of penalties.
    """
    devices = jax.local_device_count()
    parts = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
    run = jax.pmap(partial(analysis.prefix_predictions, OURS[name], in_order=True))
    y_hat = jax.block_until_ready(run(parts))
    seconds = _min_seconds(lambda: jax.block_until_ready(run(parts)), rounds)
    by_device = list(np.asarray(y_hat))  # one array `[... prompt n m]` per device
    return seconds, np.concatenate(by_device, axis=-3)


def called(name: str, batch: PrefixPrompt, sample: int) -> tuple[float, np.ndarray]:
    """Times calls of another library, one for every prefix of the first prompts.

    Args:
      name: a key of `CALLS`.
      batch: the prompts.
      sample: number of prompts that are used.

    Returns:
      The time in seconds, scaled to all prompts, and the predictions for the sample.
    """
    x, y = (np.asarray(part[:sample]) for part in (batch.x, batch.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ignore warnings that the Lasso does not converge
        began = time.perf_counter()
        y_hat = [[CALLS[name](x[i, :k], y[i, :k], x[i, k]) for k in range(1, x.shape[1])] for i in range(sample)]
        seconds = time.perf_counter() - began
    return seconds * len(batch.x) / sample, np.asarray(y_hat)


def measure(sizes: Sizes) -> list[dict]:
    """Measures the rows of the first table: one per prefix learner, and a last one with the sums."""
    rows = []
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), prompts(sizes))
        for name in OURS:
            ours, y_hat = compiled(name, batch, sizes.rounds)
            by_calls, expected = called(name, batch, sizes.sample)
            sampled = y_hat[..., : sizes.sample, 1:, 0].reshape(-1, sizes.sample, sizes.n_context)
            sampled = np.moveaxis(sampled, 0, -1)
            rows.append(
                {
                    "learner": name,
                    "seconds": ours,
                    "by_calls": by_calls,
                    "faster": by_calls / ours,
                    "difference": float(np.median(np.abs(sampled - expected.reshape(sampled.shape)))),
                }
            )
            print(f"{name}: {ours:.3g} s, by calls {by_calls:.3g} s", file=sys.stderr)
    total = {key: sum(row[key] for row in rows) for key in ("seconds", "by_calls")}
    rows.append(
        {
            "learner": "all of these",
            **total,
            "faster": total["by_calls"] / total["seconds"],
            "difference": max(row["difference"] for row in rows),
        }
    )
    return rows


def measure_hosts(sizes: Sizes) -> list[dict]:
    """Measures the rows of the second table: seconds of trees in one process and on all cores."""
    x, y = (np.asarray(part, float) for part in prompts(sizes)[:2])
    cores = usable_cores()
    rows = []
    trees = {"greedy tree, depth 4": (sizes.greedy, learners.greedy_tree(4))}
    if not NO_XGBOOST:
        trees["boosted trees"] = sizes.boosted, learners.boosted_trees()
    for name, (n, predictor) in trees.items():
        predict = partial(learners.host_predictions, predictor, x[:n], y[:n], x[:n])
        seconds = {}
        for processes in sorted({1, cores}):
            began = time.perf_counter()
            predict(processes=processes)
            seconds[processes] = time.perf_counter() - began
            print(f"{name}, {processes} processes: {seconds[processes]:.3g} s", file=sys.stderr)
        rows.append(
            {
                "learner": name,
                "prompts": n,
                "one": seconds[1],
                "processes": cores,
                "all": seconds[cores],
                "faster": seconds[1] / seconds[cores],
            }
        )
    return rows


def table(records: dict[str, Any]) -> str:
    """Both tables as Markdown."""
    reached = "yes" if records["learners"][-1]["faster"] >= TARGET else "no"
    lines = [
        f"Measured on {records['devices']} x cpu, JAX {jax.__version__}. "
        f"Target: all of these learners together are {TARGET} times faster than calls. Reached: {reached}.",
        "",
        "| learner | seconds | by calls | times faster | median difference |",
        "|---|---|---|---|---|",
    ]
    for row in records["learners"]:
        lines.append(
            f"| {row['learner']} | {row['seconds']:.3g} | {row['by_calls']:.3g} | {row['faster']:.3g} | "
            f"{row['difference']:.1g} |"
        )
    lines += [
        "",
        "| on the host | prompts | one process / s | processes | all / s | times faster |",
        "|---|---|---|---|---|---|",
    ]
    for row in records["hosts"]:
        lines.append(
            f"| {row['learner']} | {row['prompts']} | {row['one']:.3g} | {row['processes']} | {row['all']:.3g} | "
            f"{row['faster']:.3g} |"
        )
    if NO_XGBOOST:
        lines += ["", f"Without boosted trees: {NO_XGBOOST}."]
    return "\n".join(lines)


def main() -> None:
    options = pages.parse(pages.parser(__doc__))
    mesh.use_cpu_cores()
    sizes = SMOKE if options.smoke else Sizes()
    records = {"devices": jax.local_device_count(), "learners": measure(sizes), "hosts": measure_hosts(sizes)}
    pages.report(options, records, {"baselines": table(records)})


if __name__ == "__main__":
    main()
