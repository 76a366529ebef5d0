"""Records of free and trapped seeds, and metrics.jsonl after a crash and a resume."""

import json
import math

import jax.numpy as jnp
import numpy as np

from icl_gd.lab.evaluation.measured import GROUPS, Records, clip_losses, free_members
from icl_gd.lab.lifecycle import monitor


def test_a_member_that_diverged_is_not_free():
    losses = np.array([0.2, np.nan, 0.241, 0.239, np.inf])
    np.testing.assert_array_equal(free_members(losses, 0.2), [True, False, False, True, False])


def test_a_seed_is_not_trapped_by_rare_prompts_on_which_it_diverges():
    losses = np.full((3, 2000), 0.1)
    losses[0, :2] = np.nan, np.inf
    losses[1, :100] = 1e30  # one in twenty
    losses[2] = 0.4
    means = np.asarray(clip_losses(jnp.asarray(losses), 42.0)).mean(-1)
    np.testing.assert_array_equal(free_members(means, 0.2), [True, False, False])
    np.testing.assert_array_equal(clip_losses(jnp.asarray([0.0, 41.0, 43.0]), 42.0), [0.0, 41.0, 42.0])


def test_metrics_of_all_seeds_and_of_the_free_ones():
    found = Records(np.array([True, False, True]), np.array([False, True, True]))
    found.add("loss", [1.0, 9.0, 2.0], [0.1, 7.0, 0.3])
    found.add("share", [1.0, 9.0, 2.0], over=GROUPS)
    found.add_one("gd", 0.2)
    metrics = found.metrics()
    assert metrics["loss"]["mean"] == 4.0
    assert metrics["loss_untrapped"]["per_seed"] == [1.0, 2.0]
    np.testing.assert_allclose(metrics["loss_untrapped"]["stderr"], 0.2)
    assert "loss_trapped" not in metrics
    assert metrics["share_trapped"]["per_seed"] == [9.0]
    assert [metrics[f"seeds_{fate}"]["mean"] for fate in ("trapped", "diverged")] == [1, 2]
    some = found.metrics(slice(1, 3))
    assert list(some) == list(metrics)
    assert some["loss"]["per_seed"] == [9.0, 2.0]
    assert (some["loss_untrapped"]["per_seed"], some["loss_untrapped"]["stderr"]) == ([2.0], 0.3)
    assert some["gd"]["per_seed"] == [0.2]
    none_free = Records(np.array([False]), np.array([False]))
    none_free.add("loss", [1.0], [0.1])
    assert all(math.isnan(none_free.metrics()["loss_untrapped"][key]) for key in ("mean", "std", "stderr"))
    assert none_free.shown == [0]


def test_metrics_go_on_where_the_run_goes_on(tmp_path):
    other = monitor.Monitor(tmp_path, 10, 0, "n=5")
    other.write(9, {"loss": np.array([1.0])})
    other.close()
    first = monitor.Monitor(tmp_path, 10, 5)
    for step in (2, 4, 6):
        first.write(step, {"loss": np.array([step, math.nan])})
    first.close()
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 8, "seed": 5, "metr')  # a crash
    again = monitor.Monitor(tmp_path, 10, 5)
    again.resume(4)
    for step in (6, 8):
        again.write(step, {"loss": np.array([10.0 * step, 1.0])})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    found = [(line["step"], line["seed"], line["metric"]) for line in lines]
    assert len(set(found)) == len(found) == 9
    assert next(line["value"] for line in lines if (line["step"], line["seed"]) == (2, 6)) is None
    history = monitor.read_history(tmp_path)["loss"]
    assert {step: history[step][5] for step in history} == {2: 2.0, 4: 4.0, 6: 60.0, 8: 80.0}
    assert monitor.read_history(tmp_path, "n=5") == {"loss": {9: {0: 1.0}}}
