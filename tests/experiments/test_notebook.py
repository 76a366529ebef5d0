"""A run in a notebook: a progress bar that is redrawn, interrupted cells that save and resume, unchanged settings."""

import sys

import pytest

from icl_gd.lab.lifecycle import monitor

SET_UP = """
import jax
from icl_gd import lab
jax.config.update("jax_enable_x64", True)
experiment = lab.Experiment(
    task=lab.Regression(d_input=2, n_context=3), model=lab.Network(init_scale=1.0), reference=lab.GradientDescent(),
    train=lab.Train(steps={steps}, batch_size=16, log_every=5, checkpoint_every=5), seeds=2,
    eval=lab.Eval(prompts=64, curve_prompts=32), analyses=("alignment",),
)
"""
RUN = "results = lab.run(experiment, {workdir!r})\nprint('loss', results['metrics']['loss_trained']['mean'] > 0)"


def test_a_bar_is_redrawn_below_a_cell(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert not monitor.redraws()
    monkeypatch.setitem(sys.modules, "ipykernel", object())
    assert monitor.redraws()


@pytest.fixture
def kernel():
    """A function that runs code in a kernel, and interrupts it as soon as the output contains `said`."""
    manager = pytest.importorskip("jupyter_client").manager
    pytest.importorskip("ipykernel")
    manager, client = manager.start_new_kernel(kernel_name="python3", startup_timeout=120)

    def run(code, said=None):
        printed = []

        def hear(message):
            content = message["content"]
            printed.append(content.get("text") or content.get("ename", "") + content.get("evalue", ""))
            nonlocal said
            if said and said in "".join(printed):
                said = None
                manager.interrupt_kernel()

        reply = client.execute_interactive(code, output_hook=hear, timeout=180)
        return reply["content"]["status"], "".join(filter(None, printed))

    yield run
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.slow
def test_an_interrupted_cell_is_saved_and_the_same_cell_goes_on(kernel, tmp_path):
    run = RUN.format(workdir=str(tmp_path / "run"))
    assert kernel(SET_UP.format(steps=100_000))[0] == "ok"
    status, printed = kernel(run, said="| 10/100000")
    assert (status, "Interrupted" in printed, "stopping after this chunk" in printed) == ("error", True, True)
    assert any((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "held.json").exists()
    checkpoints = sorted((int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()), reverse=True)
    # Fewer steps are refused, and the kernel keeps running.
    status, printed = kernel(SET_UP.format(steps=10) + run)
    assert (status, "may be raised, to extend the run, but not lowered" in printed) == ("error", True)
    status, printed = kernel(
        SET_UP.format(steps=checkpoints[0] + 10) + "\nimport shutil, json\n" + _shortened(tmp_path) + run
    )
    assert status == "ok", printed
    assert "resuming training from step" in printed
    assert "loss True" in printed
    assert "\r" in printed  # the progress bar is redrawn
    status, printed = kernel(run + "\nprint(jax.config.jax_enable_x64, jax.numpy.ones(()).dtype)")
    assert status == "ok", printed
    assert "holds a finished run" in printed
    assert "True float64" in printed


def _shortened(directory):
    """Code that changes the stored settings, as if the run had been started with one step."""
    return (
        f"path = {str(directory / 'run' / 'config.json')!r}\n"
        "stored = json.loads(open(path).read())\n"
        "stored['config']['train']['steps'] = 1\n"
        "open(path, 'w').write(json.dumps(stored))\n"
    )
