"""The experiment of docs/own_experiment.md runs outside the repository, with the package installed from a wheel."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FEW = (
    "--config.train.steps=400",
    "--config.train.log_every=20",
    "--config.train.checkpoint_every=20",
    "--config.eval.prompts=256",
    "--config.eval.curve_prompts=64",
)
SWEEP = "--config.task.weight_scale=0.5,1"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def icl_gd(tmp_path_factory):
    """The command `icl-gd` of a new environment with the wheel. Dependencies come from the current environment."""
    directory = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", directory, ROOT], check=True)
    venv.create(directory / "venv", with_pip=False)
    python = directory / "venv" / "bin" / "python"
    (wheel,) = directory.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", wheel], check=True)
    (site,) = (directory / "venv").glob("lib/python*/site-packages")
    # Adds this path only. Its own .pth files, by which the package of this repository would be found, are ignored.
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"])
    return directory / "venv" / "bin" / "icl-gd"


@pytest.fixture
def here(tmp_path):
    """A directory that contains only the file from the docs."""
    page = (ROOT / "docs" / "own_experiment.md").read_text()
    code = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    assert code.count("\n") <= 80
    (tmp_path / "signs.py").write_text(code)
    return tmp_path


def ran(command, here, *words):
    return subprocess.run([command, *words], cwd=here, capture_output=True, text=True, timeout=300)


def test_it_runs_with_an_override_a_sweep_a_kill_and_a_resume(icl_gd, here):
    words = ["run", "signs.py", "--workdir=out", *FEW, SWEEP]
    process = subprocess.Popen([icl_gd, *words], cwd=here, stdout=subprocess.DEVNULL, env=os.environ)
    checkpoints = here / "out" / "checkpoints"
    deadline = time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if any(path.name.isdigit() and int(path.name) >= 40 for path in checkpoints.glob("*/*")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    assert process.wait() == -signal.SIGKILL
    assert not (here / "out" / "results.json").exists()
    again = ran(icl_gd, here, *words)
    assert again.returncode == 0, again.stderr
    assert "resuming weight_scale=0.5 from step" in again.stdout
    done = json.loads((here / "out" / "results.json").read_text())
    assert [point["fields"] for point in done["sweep"]] == [{"task.weight_scale": 0.5}, {"task.weight_scale": 1.0}]
    assert all(point["metrics"]["growth_with_length"]["mean"] > 0 for point in done["sweep"])
    assert (here / "out" / "figures" / "01_sweep.png").stat().st_size > 0


def test_its_claim_and_its_figure_are_in_the_report(icl_gd, here):
    done = ran(icl_gd, here, "run", "signs.py", "--verbose", *FEW)
    assert done.returncode == 0, done.stderr
    assert re.search(r"holds  grows +3 ", done.stdout)
    names = {path.name for path in (here / "runs" / "signs" / "figures").glob("*.png")}
    assert any(name.endswith("_length.png") for name in names)
    assert (
        "Mean absolute prediction as a function of the norm of the query;"
        in (here / "runs/signs/report.html").read_text()
    )


def test_what_ships_runs_by_its_name_and_what_is_wrong_is_refused(icl_gd, here):
    assert "all checks passed" in ran(icl_gd, here, "doctor").stdout
    few = ("--config.task.d_input=2", "--config.analyses=()", "--config.train.steps=4")
    assert ran(icl_gd, here, "run", "one_layer:smoke", "--workdir=shipped", *few).returncode == 0
    for words, expected in (
        (["run", "one_layr"], "did you mean one_layer?"),
        (["runn"], "did you mean run?"),
        (["run", "signs.py", "--config.task.weight_scal=1"], "did you mean task.weight_scale?"),
        (["run", "signs.py", "--config.task.n_context=0"], "task.n_context=0 must be a whole number of at least 1"),
    ):
        refused = ran(icl_gd, here, *words)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert expected in refused.stderr
    assert not (here / "runs").exists()
