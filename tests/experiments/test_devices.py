"""The same run on one device, on eight devices by jit and by pmap, and in two processes has the same losses."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
STEPS = 200
SIZES = (
    *(f"--config.train.{name}" for name in (f"steps={STEPS}", "log_every=50", "checkpoint_every=100")),
    *("--config.seeds=8", "--config.analyses=()", "--config.eval.prompts=64", "--config.eval.curve_prompts=32"),
)


def start(workdir, devices, *more):
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "experiments.run",
            "--config=configs/one_layer.py:smoke",
            f"--workdir={workdir}",
            *SIZES,
            *more,
        ],
        cwd=ROOT,
        env={**kept, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*started, code=0):
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [code] * len(started), "\n".join(said)
    return said


def start_two(workdir, *more, of_the_second=()):
    """Starts one run as two processes with two devices each."""
    met = (f"--coordinator=localhost:{free_port()}", "--process_count=2")
    return [start(workdir, 2, *met, f"--process_index={i}", *more, *(of_the_second if i else ())) for i in range(2)]


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return np.asarray([line["value"] for line in lines if line["metric"] == "training_loss"])


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("share", [True, False])
def test_losses_do_not_depend_on_devices_or_processes(share, tmp_path):
    share = f"--config.train.share_batches={str(share).lower()}"
    finish(start(tmp_path / "one", 1, share, "--config.train.parallel=none"))
    expected = losses(tmp_path / "one")
    assert expected.shape == (4 * 8,)
    for mode in ("jit", "pmap"):
        finish(start(tmp_path / mode, 8, share, f"--config.train.parallel={mode}"))
        np.testing.assert_allclose(losses(tmp_path / mode), expected, rtol=1e-5, err_msg=mode)
    _, second = finish(*start_two(tmp_path / "two", share))
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=1e-5)
    assert "step" not in second  # only the first process prints progress
    assert (tmp_path / "two" / "results.json").exists()
    first, _ = finish(*start_two(tmp_path / "two", share, f"--config.train.steps={STEPS + 50}"))
    assert f"resuming training from step {STEPS}\n" in first
    finish(start(tmp_path / "one", 1, share, "--config.train.parallel=none", f"--config.train.steps={STEPS + 50}"))
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)


@pytest.mark.slow
def test_processes_with_different_settings_end(tmp_path):
    for said in finish(*start_two(tmp_path / "two", of_the_second=("--config.seed=7",)), code=2):
        assert said.count("error: ") == 1
        assert "different settings" in said
    assert not (tmp_path / "two").exists()


@pytest.mark.slow
def test_what_only_the_first_process_can_see_ends_all(tmp_path):
    """The first process cannot write to the workdir. The other process must not wait for it."""
    (tmp_path / "two").write_text("")
    two = start_two(tmp_path / "two")
    said = [process.communicate(timeout=120)[0] for process in two]
    assert two[0].returncode == 2
    assert "cannot write" in said[0]
    assert two[1].returncode != 0
