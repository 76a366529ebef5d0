"""Learners of every prefix, beside calls of scikit-learn and NumPy for each prompt and prefix.

    python benchmarks/baselines.py [--json] [--write]

1,280 prompts of 41 points with 20 inputs, labels of sparse linear functions. Ours take them all, in float64, compiled,
which is not counted. The others are called as published code calls them, once for every prompt and prefix, on a
sample of prompts whose time is scaled up. Trees, which are scikit-learn's and xgboost's own, are timed on one process
and on all cores, on fewer prompts. Takes some five minutes on two CPU cores, on which nothing else should run.
"""

import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.linear_model import Lasso
from sklearn.neighbors import KNeighborsRegressor

from icl_gd import analysis, learners
from icl_gd.cores import usable_cores
from icl_gd.tasks import FunctionRegression, Sparse
from icl_gd.training import mesh
from icl_gd.types import PrefixPrompt

PROMPTS, SAMPLE, ROUNDS = 1280, 4, 3
HOST_PROMPTS = {"greedy tree, depth 4": 1280, "boosted trees": 64}  # starting a process costs seconds
ALPHAS = (1.0, 0.1, 0.01, 0.001, 0.0001)
ASKED = 50  # times faster, all but the trees together

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


def prompts() -> PrefixPrompt:
    task = FunctionRegression(Sparse(20), 40)
    return jax.jit(jax.vmap(task.sample_prefixes))(jax.random.split(jax.random.key(0), PROMPTS))


def _least(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return min(times)


def compiled(name: str, batch: PrefixPrompt) -> tuple[float, np.ndarray]:
    """Seconds of one of ours on all prompts, spread over devices, and what it predicts `[... prompt n m]`."""
    devices = jax.local_device_count()
    parts = jax.tree.map(lambda leaf: leaf.reshape(devices, -1, *leaf.shape[1:]), batch)
    run = jax.pmap(partial(analysis.prefix_predictions, OURS[name], in_order=True))
    y_hat = jax.block_until_ready(run(parts))
    seconds = _least(lambda: jax.block_until_ready(run(parts)))
    found = np.asarray(y_hat)  # [device ... prompt n m]
    return seconds, np.concatenate(list(found), axis=-3)


def called(name: str, batch: PrefixPrompt) -> tuple[float, np.ndarray]:
    """Seconds of calls for every prefix of a sample of prompts, scaled to all, and what they predict."""
    x, y = (np.asarray(part[:SAMPLE]) for part in (batch.x, batch.y))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the Lasso says that it has not converged
        began = time.perf_counter()
        y_hat = [[CALLS[name](x[i, :k], y[i, :k], x[i, k]) for k in range(1, x.shape[1])] for i in range(SAMPLE)]
        seconds = time.perf_counter() - began
    return seconds * PROMPTS / SAMPLE, np.asarray(y_hat)


def measure() -> list[dict]:
    rows = []
    with jax.enable_x64(True):
        batch = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), prompts())
        for name in OURS:
            ours, y_hat = compiled(name, batch)
            theirs, expected = called(name, batch)
            here = np.moveaxis(y_hat[..., :SAMPLE, 1:, 0].reshape(-1, SAMPLE, y_hat.shape[-2] - 1), 0, -1)
            rows.append({"learner": name, "seconds": ours, "by_calls": theirs, "faster": theirs / ours,
                         "difference": float(np.median(np.abs(here - expected.reshape(here.shape))))})  # fmt: skip
            print(f"{name}: {ours:.3g} s, by calls {theirs:.3g} s", file=sys.stderr)
    together = {key: sum(row[key] for row in rows) for key in ("seconds", "by_calls")}
    rows.append({"learner": "all of these", **together, "faster": together["by_calls"] / together["seconds"],
                 "difference": max(row["difference"] for row in rows)})  # fmt: skip
    return rows


def measure_hosts() -> list[dict]:
    """Seconds of trees over processes."""
    x, y = (np.asarray(part, float) for part in prompts()[:2])
    cores = usable_cores()
    rows = []
    trees = {"greedy tree, depth 4": learners.greedy_tree(4), "boosted trees": learners.boosted_trees()}
    for name, predictor in trees.items():
        n = HOST_PROMPTS[name]
        predict = partial(learners.host_predictions, predictor, x[:n], y[:n], x[:n])
        seconds = []
        for processes in dict.fromkeys((1, cores)):
            began = time.perf_counter()
            predict(processes=processes)
            seconds.append(time.perf_counter() - began)
            print(f"{name}, {processes} processes: {seconds[-1]:.3g} s", file=sys.stderr)
        rows.append({"learner": name, "prompts": n, "one": seconds[0], "processes": cores,
                     "all": seconds[-1], "faster": seconds[0] / seconds[-1]})  # fmt: skip
    return rows


def table(found: dict[str, Any]) -> str:
    lines = [
        f"Measured on {found['devices']} x cpu, JAX {jax.__version__}. All of these together were asked to be "
        f"{ASKED} times faster: {'yes' if found['learners'][-1]['faster'] >= ASKED else 'no'}.",
        "", "| learner | seconds | by calls | times faster | median difference |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for row in found["learners"]:
        lines.append(
            f"| {row['learner']} | {row['seconds']:.3g} | {row['by_calls']:.3g} | {row['faster']:.3g} | "
            f"{row['difference']:.1g} |"
        )
    lines += ["", "| on the host | prompts | one process / s | processes | all / s | times faster |",
              "|---|---|---|---|---|---|"]  # fmt: skip
    for row in found["hosts"]:
        lines.append(
            f"| {row['learner']} | {row['prompts']} | {row['one']:.3g} | {row['processes']} | {row['all']:.3g} | "
            f"{row['faster']:.3g} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    from pages import command  # beside this script

    mesh.use_cpu_cores()
    every = lambda: {"devices": jax.local_device_count(), "learners": measure(), "hosts": measure_hosts()}
    command(__doc__, "baselines", every, table)
