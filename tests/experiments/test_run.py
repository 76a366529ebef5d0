"""The files that a run leaves, its exit codes, and its settings of the process."""

import json
import logging
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import absl.logging
import jax
import pytest
from whole import check_redrawn, check_what_it_leaves  # from this directory

from icl_gd import lab
from icl_gd.lab import cli, command, command_line, notebook
from icl_gd.lab.config.claims import Claim
from icl_gd.lab.lifecycle import monitor
from icl_gd.lab.lifecycle import settings as settings_of_a_run
from icl_gd.lab.reporting import results
from icl_gd.models.attention import KINDS
from icl_gd.schema import description
from icl_gd.training import Interrupted, checkpoint

ROOT = Path(__file__).parents[2]
MINE = lab.Experiment(
    task=lab.Regression(d_input=2, n_context=3),
    model=lab.Network(),
    train=lab.Train(steps=4, batch_size=8, log_every=2, checkpoint_every=2),
    eval=lab.Eval(prompts=32, curve_prompts=16),
    reference=lab.GradientDescent(),
    seeds=2,
    claims=(lab.claim("zero", "worse than nothing", metric="loss_trained", source="here", at_least=0.0),),
)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    """A command silences libraries until its process ends."""
    verbosity, level = absl.logging.get_verbosity(), logging.getLogger("asyncio").level
    yield
    absl.logging.set_verbosity(verbosity)
    logging.getLogger("asyncio").setLevel(level)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["one_layer", "learning_rate_sweep", "sine", "garg_linear", "dual_model"])
def test_smoke_as_a_program(name, tmp_path):
    """Runs one config of every kind and a sweep in new processes, twice. test_smokes.py runs all configs."""
    command = [sys.executable, "-m", "experiments.run", f"--config=configs/{name}.py:smoke", f"--workdir={tmp_path}"]

    def program():
        return subprocess.run(command, cwd=ROOT, check=True, timeout=600, capture_output=True, text=True)

    program()
    check_what_it_leaves(tmp_path)
    said = []
    check_redrawn(tmp_path, lambda: said.append(program().stdout))
    assert "holds a finished run; drawing" in said[0]


def test_a_failing_run_says_so_in_one_line(tmp_path, monkeypatch, capsys):
    def fail(run, stop):
        raise OSError("no space\nleft")

    monkeypatch.setattr(command, "carry_out", fail)
    handler = signal.getsignal(signal.SIGTERM)
    code = command.main(["run", f"--config={ROOT}/configs/one_layer.py:smoke", f"--workdir={tmp_path}/run"])
    assert code == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "OSError: no space left" in err
    assert "Traceback" in (tmp_path / "run" / "error.log").read_text()
    assert signal.getsignal(signal.SIGTERM) is handler


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_waits_for_the_chunk_while_steps_are_unsaved(number, code, tmp_path, monkeypatch, capsys):
    def polls(run, stop):
        assert stop.signal is None
        stop.saved = False
        signal.raise_signal(number)
        raise Interrupted(7, stop.signal)

    def hangs(run, stop):
        stop.saved = False
        signal.raise_signal(number)
        signal.raise_signal(number)
        raise AssertionError("still running")

    def analyses(run, stop):
        signal.raise_signal(number)
        raise AssertionError("still running")

    words = ["run", f"--config={ROOT}/configs/one_layer.py:smoke", f"--workdir={tmp_path}/run"]
    for work, told in ((polls, "step 7"), (hangs, "at once"), (analyses, "at once")):
        monkeypatch.setattr(command, "carry_out", work)
        assert command.main(words) == code
        assert told in capsys.readouterr().err


def test_help(capsys):
    assert command.main(["run", "--help"]) == 0
    assert "--config=configs/NAME.py" in capsys.readouterr().out


@pytest.mark.parametrize("config", ["one_layer", "dual_model:smoke", "garg_linear:tiny", "sine"])
def test_help_lists_every_field_with_its_value_and_what_it_accepts(config):
    """The help lists the fields of this task and model, in order, with the values of this variant."""
    lines = iter(command_line.help_of(["run", f"--config={config}"]).splitlines()[2:])
    name, _, variant = config.partition(":")
    experiment = command_line.load(ROOT / "configs" / f"{name}.py", variant)
    for field, its in experiment.fields.items():
        value = experiment[field] if field != "claims" else f"... ({len(experiment.claims)}; () for none)"
        quote = "'" * isinstance(value, tuple)
        shown, about = next(lines), next(lines)
        assert shown == f"  --config.{field}={quote}{value}{quote}"
        assert about.startswith(f"      {description(its.hint)}."), field
    assert list(lines) == []


def test_help_says_what_is_accepted_in_words():
    page = command_line.help_of(["run", "--config=one_layer:smoke"])
    assert "  --config.train.steps=20\n      a whole number of at least 1 and at most" in page
    kinds = ", ".join(KINDS)
    assert f"  --config.model.attention=linear\n      one of {kinds}, or a tuple of these." in page
    assert "To list all fields of a config" in command_line.help_of(["run", "--config=no_such_config"])


@pytest.mark.parametrize(
    ("words", "code", "out", "err"),
    [
        ([], 0, "icl-gd run CONFIG", ""),
        (["--help"], 0, "icl-gd run CONFIG", ""),
        (["run", "one_layer:smoke", "--help"], 0, "--config.train.steps=20\n", ""),
        (["doctor", "--help"], 0, "Checks that runs work on this machine", ""),
        (
            ["rnu"],
            2,
            "",
            "error: icl-gd rnu: unknown command; did you mean run? accepted: run, doctor, zoo, inspect, identify\n",
        ),
        (["run", "one_layer:smoke", "--config.train.steps=0"], 2, "", "error: train.steps=0 must be a whole number"),
        (["run", "--config=one_layer:smoke", "--config.train.steps=0"], 2, "", "error: train.steps=0 must be"),
        (["run", "one_layr"], 2, "", "error: --config=one_layr: no such file; did you mean one_layer?"),
        (["run"], 2, "", "error: --config is missing"),
        (["zoo", "--help"], 0, "icl-gd zoo one_layer_0", ""),
        (["zoo"], 0, "one_layer_construction  ", ""),
        (["zoo", "one_layer_0"], 0, "VO.F2.loss", ""),
        (["zoo", "one_layr_0"], 2, "", "error: the zoo has no model 'one_layr_0'; did you mean 'one_layer_0'?"),
        (["zoo", "--all"], 2, "", "error: --all: zoo takes one name of a model, nothing, or --help\n"),
        (["doctor", "--all"], 2, "", "error: --all: doctor takes no arguments except --help\n"),
    ],
)
def test_the_console_command(words, code, out, err, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["icl-gd", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr()
    assert (ended.value.code, told.err.count("\n")) == (code, int(code == 2))
    assert out in told.out
    assert told.err.startswith(err)
    assert list(tmp_path.iterdir()) == []


def of_the_process():
    """The settings of the process that a run changes."""
    values = {name: jax.config.values[name] for name in settings_of_a_run.OF_JAX}
    level = logging.getLogger("asyncio").level
    return values | {"absl": absl.logging.get_verbosity(), "asyncio": level, "warnings": warnings.showwarning}


@pytest.mark.slow
def test_an_experiment_is_run_from_python(tmp_path, capsys):
    before = of_the_process()
    done = lab.run(MINE, tmp_path / "mine", name="mine")
    assert of_the_process() == before
    assert done == json.loads((tmp_path / "mine" / "results.json").read_text())
    assert (done["experiment"], done["steps"]) == ("mine", 4)
    assert len(done["metrics"]["loss_trained"]["per_seed"]) == MINE.seeds
    assert [claim["holds"] for claim in done["claims"]] == [True]
    assert (tmp_path / "mine" / "report.html").exists()
    assert "training: step 4/4" in capsys.readouterr().out

    assert lab.run(MINE, tmp_path / "mine", name="mine") == done
    assert "holds a finished run; drawing" in capsys.readouterr().out
    assert lab.run(MINE.change({"train.steps": 6}), tmp_path / "mine", name="mine")["steps"] == 6
    said = capsys.readouterr().out
    assert "extending the run from step 4 to 6" in said
    assert "resuming training from step 4" in said
    with pytest.raises(lab.ConfigError, match=r"other settings: .*seeds \(stored 2, requested 3\)"):
        lab.run(MINE.change({"seeds": 3}), tmp_path / "mine", name="mine")


def test_a_run_that_is_interrupted_goes_on_when_called_again(tmp_path, monkeypatch, capsys):
    before, longer = of_the_process(), MINE.change({"train.steps": 8})
    written, handler = monitor.Monitor.write, signal.getsignal(signal.SIGINT)

    def and_stopped(self, step, metrics):
        written(self, step, metrics)
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patched:
        patched.setattr(monitor.Monitor, "write", and_stopped)
        with pytest.raises(Interrupted):
            lab.run(MINE, tmp_path)
    assert of_the_process() == before
    assert signal.getsignal(signal.SIGINT) is handler
    assert "resuming" not in capsys.readouterr().out
    step = lab.run(longer, tmp_path)["resumed_at"]
    assert 2 <= step < 8  # the next chunk may already have been computed, and is saved too
    assert f"resuming training from step {step}\n" in capsys.readouterr().out


def test_a_run_sets_the_process_and_leaves_it_as_it_was_when_it_fails(tmp_path, monkeypatch):
    before, within = of_the_process(), {}

    def fails(run, stop):
        within.update(of_the_process())
        raise OSError("no space left")

    monkeypatch.setattr(notebook, "carry_out", fails)
    with pytest.raises(OSError, match="no space left"):
        lab.run(MINE.change({"precision": "float64"}), tmp_path / "mine")
    assert of_the_process() == before
    assert (within["jax_enable_x64"], within["jax_default_matmul_precision"]) == (True, "highest")
    assert within["jax_disable_most_optimizations"] is False
    changed = {name for name in before if before[name] != within[name]}
    assert changed >= {"jax_enable_x64", "jax_default_matmul_precision", "absl", "asyncio", "warnings"}
    assert not (tmp_path / "mine").exists()


def test_a_signal_that_python_ignores_is_heard_and_leaves_no_trace(monkeypatch, capsys):
    """Python ignores exceptions in `__del__` (as in callbacks of the garbage collector), but the signal is recorded."""

    class Dying:
        def __init__(self, raised):
            self.raised = raised

        def __del__(self):
            if self.raised is None:
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise self.raised

    before = sys.unraisablehook
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: seen.append(raised.exc_type))
    with monitor.Stop() as stop:
        Dying(None)
        assert stop.signal == signal.SIGINT
        assert seen == []
        Dying(ValueError("another"))
    assert seen == [ValueError]
    monkeypatch.undo()
    assert sys.unraisablehook is before


def test_pending_tasks_print_nothing_after_a_run_that_could_not_save(monkeypatch, capsys):
    """They may end after the signal handlers of the run are gone."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "unraisablehook", lambda raised: print(raised.exc_type, file=sys.stderr))
    with pytest.raises(OSError, match="full"), monitor.Stop(), checkpoint._suppress_closed_loop_tracebacks():
        raise OSError("full")
    for error in (RuntimeError("Event loop is closed"), ValueError("another")):
        sys.unraisablehook(SimpleNamespace(exc_type=type(error), exc_value=error))
    assert capsys.readouterr().err == "<class 'ValueError'>\n"


def test_a_command_stays_silent_after_its_run(monkeypatch):
    """Threads of Orbax may log the error of a failed checkpoint after the settings of the run are restored."""
    monkeypatch.setattr(command, "main", lambda argv, began: 1)
    with pytest.raises(SystemExit):
        command.start(["run"], 0.0)
    assert absl.logging.get_verbosity() == absl.logging.FATAL
    assert logging.getLogger("asyncio").level == logging.CRITICAL


def test_a_run_without_a_workdir_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr(notebook, "carry_out", lambda run, stop: seen.append(run.workdir) or {"metrics": {}})
    assert lab.run(MINE) == {"metrics": {}}
    assert not seen[0].parent.exists()
    assert list(tmp_path.iterdir()) == []


def test_claims_are_judged_by_their_numbers():
    done = {
        "metrics": {"a": results.metric([1.0, 3.0])},
        "curves": {"c": results.curve([0.5, 2.0], [[4.0, 4.0], [4.0, 6.0]])},
    }
    cases = [
        ("a", "mean", "within", 2.05, 0.1, True),
        ("a", "mean", "within", 2.2, 0.1, False),
        ("a", "max", "at_most", 2.9, 0.0, False),
        ("a", "min", "at_least", 1.0, 0.0, True),
        ("c[2.0]", "mean", "within", 5.0, 0.0, True),
        ("c[9.0]", "mean", "within", 5.0, 0.0, False),
        ("c[2.0]", "max", "at_least", 6.0, 0.0, True),
        ("missing", "mean", "at_most", 9.0, 0.0, False),
    ]
    for metric, reduce, relation, target, tolerance, holds in cases:
        claim = Claim("i", "s", "p", metric, relation, target, tolerance, reduce)
        assert results.check_claims([claim], done, [])[0]["holds"] is holds
    assert "task.d_input" in results.check_claims([claim], done, ["task.d_input"])[0]["note"]


def test_json_is_atomic_and_has_no_nan(tmp_path):
    results.write_json(tmp_path / "a.json", {"x": [float("nan"), 1.0]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [None, 1.0]}
    assert os.listdir(tmp_path) == ["a.json"]
