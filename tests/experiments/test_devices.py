"""The same run on one device, on eight, by jit and by pmap, and in two processes: really started, the same losses."""

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
        [sys.executable, "-m", "experiments.run", "--config=configs/one_layer.py:smoke", f"--workdir={workdir}", *SIZES,
         *more],
        cwd=ROOT, env={**kept, "JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def finish(*started):
    try:
        said = [process.communicate(timeout=300)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0] * len(started), "\n".join(said)
    return said


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
    met = (f"--coordinator=localhost:{free_port()}", "--process_count=2")
    two = [start(tmp_path / "two", 2, share, *met, f"--process_index={i}") for i in range(2)]
    _, second = finish(*two)
    np.testing.assert_allclose(losses(tmp_path / "two"), expected, rtol=1e-5)
    assert "step" not in second  # the first alone speaks
    assert (tmp_path / "two" / "results.json").exists()
