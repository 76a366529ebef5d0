"""Learners of every prefix, beside calls of scikit-learn and NumPy for each prompt and prefix.

    python benchmarks/baselines.py [--json] [--write | --smoke]

1,280 prompts of 41 points with 20 inputs, labels of sparse linear functions. Ours take them all, in float64, compiled,
which is not counted. The others are called as published code calls them, once for every prompt and prefix, on a
sample of prompts whose time is scaled up. Trees, which are scikit-learn's and xgboost's own, are timed on one process
and on all cores, on fewer prompts. Both libraries come with pip install 'icl-gd[baselines]'; boosted trees are left out
without xgboost. Takes some five minutes on two CPU cores, on which nothing else should run.
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
    """Prompts and their sizes; how many of them are a sample, and how often each of ours is timed."""

    prompts: int = 1280
    n_context: int = 40
    d_input: int = 20
    sample: int = 4
    rounds: int = 3
    greedy: int = 1280
    boosted: int = 64  # fewer: they take long, and starting a process costs seconds


SMOKE = Sizes(prompts=12, n_context=6, d_input=4, sample=2, rounds=1, greedy=2, boosted=2)  # 12: of up to four devices
ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)
ASKED = 50  # times faster, all but the trees together
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
    fit = lambda alpha: Lasso(alpha, fit_intercept=False, max_iter=100_000).fit(x, y[:, 0])
    return np.array([fit(alpha).predict(x_query[None])[0] for alpha in ALPHAS])


CALLS = {
    "least squares": _least_squares,
    "averaging": _averaging,
    "3 nearest neighbours": _nearest,
    "five Lassos": _lassos,
}


def prompts(sizes: Sizes) -> PrefixPrompt:
    task = FunctionRegression(Sparse(sizes.d_input), sizes.n_context)
    return jax.jit(jax.vmap(task.sample_prefixes))(jax.random.split(jax.random.key(0), sizes.prompts))


def _least(run: Callable[[], Any], rounds: int) -> float:
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def compiled(name: str, batch: PrefixPrompt, rounds: int) -> tuple[float, np.ndarray]:
    """Seconds of one of ours on all prompts, spread over devices, and what it predicts `[... prompt n m]`."""
    devices = jax.local_device_count()
    parts = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
    run = jax.pmap(partial(analysis.prefix_predictions, OURS[name], in_order=True))
    y_hat = jax.block_until_ready(run(parts))
    seconds = _least(lambda: jax.block_until_ready(run(parts)), rounds)
    found = np.asarray(y_hat)  # [device ... prompt n m]
    return seconds, np.concatenate(list(found), axis=-3)


def called(name: str, batch: PrefixPrompt, sample: int) -> tuple[float, np.ndarray]:
    """Seconds of calls for every prefix of a sample of prompts, scaled to all, and what they predict."""
    x, y = (np.asarray(part[:sample]) for part in (batch.x, batch.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Lasso says that it has not converged
        began = time.perf_counter()
        y_hat = [[CALLS[name](x[i, :k], y[i, :k], x[i, k]) for k in range(1, x.shape[1])] for i in range(sample)]
        seconds = time.perf_counter() - began
    return seconds * len(batch.x) / sample, np.asarray(y_hat)


def measure(sizes: Sizes) -> list[dict]:
    rows = []
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), prompts(sizes))
        for name in OURS:
            ours, y_hat = compiled(name, batch, sizes.rounds)
            theirs, expected = called(name, batch, sizes.sample)
            here = y_hat[..., : sizes.sample, 1:, 0].reshape(-1, sizes.sample, sizes.n_context)
            here = np.moveaxis(here, 0, -1)
            rows.append(
                {
                    "learner": name,
                    "seconds": ours,
                    "by_calls": theirs,
                    "faster": theirs / ours,
                    "difference": float(np.median(np.abs(here - expected.reshape(here.shape)))),
                }
            )
            print(f"{name}: {ours:.3g} s, by calls {theirs:.3g} s", file=sys.stderr)
    together = {key: sum(row[key] for row in rows) for key in ("seconds", "by_calls")}
    rows.append(
        {
            "learner": "all of these",
            **together,
            "faster": together["by_calls"] / together["seconds"],
            "difference": max(row["difference"] for row in rows),
        }
    )
    return rows


def measure_hosts(sizes: Sizes) -> list[dict]:
    """Seconds of trees over processes."""
    x, y = (np.asarray(part, float) for part in prompts(sizes)[:2])
    cores = usable_cores()
    rows = []
    trees = {"greedy tree, depth 4": (sizes.greedy, learners.greedy_tree(4))}
    if not NO_XGBOOST:
        trees["boosted trees"] = sizes.boosted, learners.boosted_trees()
    for name, (n, predictor) in trees.items():
        predict = partial(learners.host_predictions, predictor, x[:n], y[:n], x[:n])
        seconds = []
        for processes in dict.fromkeys((1, cores)):
            began = time.perf_counter()
            predict(processes=processes)
            seconds.append(time.perf_counter() - began)
            print(f"{name}, {processes} processes: {seconds[-1]:.3g} s", file=sys.stderr)
        rows.append(
            {
                "learner": name,
                "prompts": n,
                "one": seconds[0],
                "processes": cores,
                "all": seconds[-1],
                "faster": seconds[0] / seconds[-1],
            }
        )
    return rows


def table(found: dict[str, Any]) -> str:
    lines = [
        f"Measured on {found['devices']} x cpu, JAX {jax.__version__}. All of these together were asked to be "
        f"{ASKED} times faster: {'yes' if found['learners'][-1]['faster'] >= ASKED else 'no'}.",
        "",
        "| learner | seconds | by calls | times faster | median difference |",
        "|---|---|---|---|---|",
    ]
    for row in found["learners"]:
        lines.append(
            f"| {row['learner']} | {row['seconds']:.3g} | {row['by_calls']:.3g} | {row['faster']:.3g} | "
            f"{row['difference']:.1g} |"
        )
    lines += [
        "",
        "| on the host | prompts | one process / s | processes | all / s | times faster |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["hosts"]:
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
    found = {"devices": jax.local_device_count(), "learners": measure(sizes), "hosts": measure_hosts(sizes)}
    pages.report(options, found, {"baselines": table(found)})


if __name__ == "__main__":
    main()
