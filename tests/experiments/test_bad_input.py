"""Bad input: exit code 2, and one line that says what was wrong and what is accepted; nothing is written."""

import fcntl
import json
import math
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from icl_gd.lab import command
from icl_gd.lab.command_line import parse
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.lifecycle.workdirs import locked
from icl_gd.migrations import CONFIGS as FORMATS
from icl_gd.migrations import newest_of
from icl_gd.trees import nested

CONFIGS = Path(__file__).parents[2] / "configs"
ONE = f"--config={CONFIGS}/one_layer.py"
GAUSSIAN = f"--config={CONFIGS}/gaussian_optimum.py"
SWEEP = f"--config={CONFIGS}/context_sweep.py"
TWO, SOFTMAX = f"--config={CONFIGS}/two_layers.py", f"--config={CONFIGS}/softmax_heads.py"
SINE = f"--config={CONFIGS}/sine.py"
APART = f"--config={CONFIGS}/token_copying.py"
DUAL, VARIANTS = f"--config={CONFIGS}/dual_model.py", f"--config={CONFIGS}/attention_variants.py"
NO_CLAIMS = "--config.claims=()"  # other analyses do not measure the claims of the config

BAD = [
    ([], ["--config", "one_layer"]),
    (["--config"], ["--config"]),
    ([f"--config={CONFIGS}/one_layr.py"], ["one_layr", "did you mean one_layer?"]),
    ([f"--config={CONFIGS.parent}/README.md"], ["README.md", "get_config"]),
    ([f"{ONE}:smok"], ["smok", "did you mean smoke?", "converged"]),
    ([ONE, "--wokdir=x"], ["--wokdir", "--workdir"]),
    ([ONE, "--config.trian.steps=4"], ["trian.steps", "train.steps"]),
    ([ONE, "--config.train.step=4"], ["train.step", "train.steps"]),
    ([ONE, "--config.train=4"], ["--config.train:", "did you mean one of train.", "train.steps"]),
    ([ONE, "extra"], ["extra", "--config.FIELD"]),
    ([ONE, "--profile=maybe"], ["--profile=maybe", "true or false"]),
    ([ONE, "--verbose=maybe"], ["--verbose=maybe", "true or false"]),
    ([ONE, "--config.train.steps=abc"], ["train.steps=abc", "whole number of at least 1"]),
    ([ONE, "--config.train.steps=1.5"], ["train.steps=1.5", "whole number of at least 1"]),
    ([ONE, "--config.train.share_batches=maybe"], ["train.share_batches=maybe", "True or False"]),
    ([ONE, "--config.train.steps=0"], ["train.steps=0", "at least 1"]),
    ([ONE, "--config.train.steps=-5"], ["train.steps=-5", "at least 1"]),
    ([ONE, "--config.train.learning_rate=nan"], ["train.learning_rate=nan", "finite"]),
    ([ONE, "--config.train.learning_rate=inf"], ["train.learning_rate=inf", "finite"]),
    ([ONE, "--config.train.beta2=1.0"], ["train.beta2", "below 1"]),
    ([ONE, "--config.task.noise_std=1e39"], ["task.noise_std=1e+39", "at most"]),
    ([ONE + ":"], ["variant", "empty"]),
    ([ONE, "--workdir=/proc/x"], ["--workdir=/proc/x", "directory"]),
    ([ONE, "--config.model.n_heads=1000000", "--config.analyses=()", NO_CLAIMS], ["GiB", "model.n_heads=1000000"]),
    ([ONE, "--config.seed=-1"], ["seed=-1", "at least 0"]),
    ([ONE, "--config.seeds=0"], ["seeds=0", "at least 1"]),
    ([ONE, "--config.task.noise_std=-0.1"], ["task.noise_std=-0.1"]),
    ([ONE, "--config.task.inputs=unifrm"], ["unifrm", "did you mean uniform?"]),
    ([ONE, "--config.task.name=quadratic"], ["task.name=quadratic", "linear"]),
    ([ONE, "--config.model.attention=softmax"], ["softmax", "interpolation"]),
    ([ONE, "--config.model.attention=sotfmax"], ["sotfmax", "linear"]),
    ([ONE, "--config.model.attention=linear,linear"], ["model.attention=('linear', 'linear')", "n_layers=1"]),
    ([ONE, "--config.model.clip=-1"], ["model.clip=-1"]),
    ([ONE, "--config.task.corrupted_labels=11"], ["task.corrupted_labels=11", "at most n_context=10"]),
    ([ONE, "--config.task.corrupted_labels=-1"], ["task.corrupted_labels=-1", "at least 0"]),
    ([ONE, "--config.task.corrupted_labels=1.5"], ["task.corrupted_labels=1.5", "whole number"]),
    ([ONE, "--config.task.corrupted_labels=(0,11)"], ["task.corrupted_labels=11", "at most n_context=10"]),
    ([GAUSSIAN, "--config.task.corrupted_labels=1"], ["task.corrupted_labels=1", "optimum"]),
    ([ONE, "--config.task.pool=0"], ["task.pool=0", "at least 1"]),
    ([ONE, "--config.analyses=('pool',)", NO_CLAIMS], ["task.pool=None", "pool"]),
    ([ONE, "--config.analyses=('softmax',)", NO_CLAIMS], ["model.attention=linear", "softmax"]),
    (
        [SOFTMAX, "--config.model.n_heads=2", "--config.task.n_context=1", NO_CLAIMS],
        ["task.n_context=1", "mean", "at least 2"],
    ),
    (
        [TWO, "--config.model.d_embed=12", "--config.analyses=('curvature',)", NO_CLAIMS],
        ["model.d_embed=12", "curvature"],
    ),
    (
        [ONE, "--config.reference.steps=3", "--config.analyses=('weights',)", NO_CLAIMS],
        ["reference.steps=3", "weights"],
    ),
    (
        [TWO, "--config.task.corrupted_labels=4", "--config.reference.steps=1", "--config.analyses=()", NO_CLAIMS],
        ["task.corrupted_labels=4", "reference.learner=gd"],
    ),
    ([ONE, "--config.analyses=('table',)", NO_CLAIMS, "--config.task.d_input=4"], ["task.d_input=4", "table", "10"]),
    ([ONE, "--config.precision=float16"], ["float16", "float32"]),
    ([ONE, "--config.train.schedule=step"], ["step", "cosine"]),
    ([ONE, "--config.train.form=gramm"], ["train.form=gramm", "did you mean gram?"]),
    (
        [ONE, "--config.train.form=gram", "--config.model.clip=1", "--config.analyses=()", NO_CLAIMS],
        ["form=gram", "clip=1.0"],
    ),
    ([ONE, "--config.train.parallel=pmp"], ["train.parallel=pmp", "did you mean pmap?"]),
    ([ONE, "--config.train.beta2=0.99999999"], ["train.beta2=0.99999999 is 1.0 in float32", "below 1"]),
    ([ONE, "--config.train.learning_rate=1e-50"], ["train.learning_rate=1e-50 is 0.0 in float32", "above 0"]),
    ([ONE, "--config.train.clip=1e300"], ["train.clip=1e+300 is inf in float32", "finite"]),
    (
        [
            ONE,
            *(
                f"--config.train.{name}=({','.join(f'{i + 1}e-4' for i in range(99))})"
                for name in ("learning_rate", "clip", "weight_decay")
            ),
        ],
        ["99 of train.learning_rate", "at most 100,000"],
    ),
    ([ONE, "--coordinator=a:99999", "--process_count=2", "--process_index=0"], ["--coordinator=a:99999", "HOST:PORT"]),
    ([ONE, "--coordinator=a:1"], ["--process_count is missing", "together"]),
    ([ONE, "--coordinator=a", "--process_count=2", "--process_index=0"], ["--coordinator=a", "HOST:PORT"]),
    ([ONE, "--coordinator=a:1", "--process_count=2", "--process_index=2"], ["--process_index=2", "from 0 to 1"]),
    ([ONE, "--coordinator=a:1", "--process_count=x", "--process_index=2"], ["--process_count=x", "whole number"]),
    ([ONE, "--distributed=maybe"], ["--distributed=maybe", "true or false"]),
    ([ONE, "--distributed", "--process_index=0"], ["--distributed", "contradicts --process_index"]),
    (
        [ONE, "--config.train.parallel=jit", "--config.seeds=3", "--config.train.batch_size=2047"],
        ["train.parallel=jit", "among 2 devices", "2 or 4 members", "2046 or 2048"],
    ),
    ([ONE, "--config.recipe=cake"], ["config.recipe: unknown field", "accepted: seeds"]),
    ([ONE, "--config.analyses=('shift',)"], ["analyses=shift", "did you mean shifts?"]),
    ([ONE, "--config.model.n_layers=2"], ["model.n_layers=2", "analyses"]),
    ([ONE, "--config.model.n_heads=2"], ["model.n_heads=2", "interpolation"]),
    ([ONE, "--config.train.batch_size=2000000000"], ["GiB", "train.batch_size=2000000000"]),
    ([GAUSSIAN, "--config.task.d_input=4"], ["task.eigenvalues", "task.d_input=4"]),
    ([GAUSSIAN, "--config.task.inputs=uniform"], ["task.inputs=uniform", "optimum"]),
    ([SWEEP, "--config.task.n_context=(5,-1)"], ["task.n_context=-1"]),
    (
        [SINE, "--config.task.inputs=normal"],
        ["task.inputs: not a field of this experiment, but of task=Regression(...)"],
    ),
    ([SINE, "--config.task.d_input=2"], ["task.d_input: not a field of this experiment, but of task=Regression(...)"]),
    (
        [SINE, "--config.analyses=('weights',)"],
        ["reference.name=deep_features", "analyses=weights", "needs gradient_descent"],
    ),
    (
        [SINE, "--config.train.learning_rate=(1e-3,1e-4)"],
        ["train.learning_rate=(0.001, 0.0001)", "reference.name=deep_features"],
    ),
    ([SINE, "--config.train.weight_decay=0.1"], ["train.weight_decay=0.1", "0 is accepted"]),
    ([SINE, "--config.model.d_embed=None"], ["model.d_embed=None", "at least 2"]),
    ([SINE, "--config.reference.step_size=0"], ["reference.step_size=0", "above 0"]),
    ([SINE, "--config.task.name=linear"], ["task.name=linear", "one of sine"]),
    ([ONE, "--config.task.name=sine"], ["task.name=sine", "one of linear"]),
    ([ONE, "--config.task.faithful=true"], ["task.faithful: not a field of this experiment, but of task=Sine(...)"]),
    (
        [ONE, "--config.reference.learning_rate=1e-3"],
        ["reference.learning_rate: unknown field", "did you mean train.learning_rate?"],
    ),
    ([ONE, f"--workdir={CONFIGS}/one_layer.py/x"], ["--workdir", "cannot write"]),
    ([ONE, "--workdir=" + 300 * "a"], ["--workdir", "too long"]),
    ([ONE, "--workdir="], ["--workdir", "directory"]),
    ([ONE, "--workdir=gs://bucket/run"], ["--workdir=gs://bucket/run: object stores", "give a directory"]),
    (["--config=a/one_layer.py"], ["a/one_layer.py", "did you mean one_layer, which is a built-in config?"]),
    (["--config.train.steps=abc", ONE], ["train.steps=abc"]),
    ([ONE, "--config.train.steps", "-5"], ["train.steps=-5", "at least 1"]),
    ([ONE, "--config.train.steps"], ["train.steps", "needs a value"]),
    ([ONE, "--config.train.steps=99999999999"], ["train.steps=99999999999", "at most"]),
    ([ONE, "--config..steps=1"], ["unknown field", "train.steps"]),
    ([ONE, "--train.steps=1"], ["--train.steps", "did you mean --config.train.steps?"]),
    ([ONE, "--flagfile=x"], ["--flagfile", "No such file", "give a text file"]),
    ([ONE, "--", "x"], ["stray argument '--'"]),
    ([ONE, "---config.seeds=2"], ["stray argument"]),
    ([ONE, "--noconfig.train.steps"], ["train.steps", "needs a value"]),
    ([ONE, "--config.train.log_every=0"], ["train.log_every=0"]),
    ([ONE, "--config.train.checkpoint_every=0"], ["train.checkpoint_every=0"]),
    ([ONE, "--config.train.learning_rate=1e400"], ["train.learning_rate=inf", "finite"]),
    ([ONE, "--config.task.inputs=a\nb"], ["task.inputs=a b"]),
    ([ONE, "--config.claims=({},)"], ["claims: {} is not a claim", "claim(...)"]),
    ([ONE, "--config.model.d_head=0"], ["model.d_head=0", "at least 1"]),
    ([ONE, "--config.model.clip=1"], ["model.clip=1.0", "analyses=weights,interpolation"]),
    ([ONE, "--config.model.sum_normalised=true"], ["model.sum_normalised=True", "analyses=weights,interpolation"]),
    (
        [ONE, "--config.model.n_layers=100000000", "--config.analyses=()", NO_CLAIMS],
        ["model.n_layers=100000000"],
    ),
    ([ONE, "--config.eval.prompts=10000000000000000"], ["eval.prompts", "at most"]),
    ([ONE, "--config.seeds=4294967295", "--config.seed=5"], ["seeds=4294967295", "seed=5"]),
    ([GAUSSIAN, "--config.task.eigenvalues=(1,2"], ["task.eigenvalues=(1,2", "tuple"]),
    (
        [GAUSSIAN, "--config.task.eigenvalues=(None,1,1,1,1)"],
        ["task.eigenvalues=(None, 1, 1, 1, 1)", "each element a number above 0"],
    ),
    (
        [GAUSSIAN, "--config.task.eigenvalues=(1,1,1,1,0)"],
        ["task.eigenvalues=(1, 1, 1, 1, 0)", "each element a number above 0"],
    ),
    ([GAUSSIAN, "--config.task.eigenvalues=()"], ["task.rotation_seed=0", "task.eigenvalues"]),
    ([SWEEP, "--config.task.n_context=(5.5,)"], ["task.n_context=5.5", "whole"]),
    ([SWEEP, "--config.task.n_context=()"], ["task.n_context=()", "at least one"]),
    ([SWEEP, "--config.task.n_context=(5,5)"], ["task.n_context", "once"]),
    ([ONE, "--config.task.n_context=(5,10"], ["task.n_context=(5,10", "whole number"]),
    ([ONE, "--config.seeds=(2,3)"], ["seeds=(2, 3)", "one value", "train.learning_rate", "task.n_context"]),
    ([ONE, "--config.train.log_every=(10,20)"], ["train.log_every=(10, 20)", "one value", "train.steps"]),
    ([ONE, "--config.precision=('float32','float64')"], ["precision=('float32', 'float64')", "one value"]),
    ([ONE, "--config.eval.prompts=(8,16)"], ["eval.prompts=(8, 16)", "one value", "train.learning_rate"]),
    ([ONE, "--config.reference.steps=(1,2)"], ["reference.steps=(1, 2)", "one value", "train.learning_rate"]),
    (
        [ONE, "--config.train.schedule=('constant','cosin')"],
        ["train.schedule=cosin", "one of constant, cosine", "did you mean cosine?"],
    ),
    ([ONE, "--config.train.share_batches=(True,2)"], ["train.share_batches=2", "True or False"]),
    ([ONE, "--config.task.name=('linear','sine')"], ["task.name=sine", "one of linear"]),
    ([ONE, "--config.model.clip=(1.0,2.0)"], ["model.clip=1.0", "analyses=weights,interpolation"]),
    ([ONE, "--config.train.learning_rate=()"], ["train.learning_rate=()", "at least one"]),
    ([ONE, "--config.train.learning_rate=(1,1.0)"], ["train.learning_rate=(1, 1.0)", "once"]),
    ([ONE, "--config.train.learning_rate=(1e-3,'a')"], ["train.learning_rate=a", "must be a number"]),
    ([ONE, "--config.train.learning_rate=(1e-3,(1,))"], ["train.learning_rate=(1,)", "must be a number"]),
    ([ONE, "--config.train.learning_rate=(1e-3,None)"], ["train.learning_rate=None", "must be a number"]),
    ([ONE, "--config.train.beta1=(0.9,1.0)"], ["train.beta1=1.0", "below 1"]),
    ([ONE, "--config.train.batch_size=(1,2.5)"], ["train.batch_size=2.5", "whole"]),
    ([ONE, "--config.train.batch_size=(True,2)"], ["train.batch_size=True", "must be a whole number"]),
    ([ONE, "--config.model.init_scale=(1,0)"], ["model.init_scale=0", "above 0"]),
    ([ONE, "--config.task.inputs=('uniform','nrmal')"], ["task.inputs=nrmal", "did you mean normal?"]),
    ([ONE, "--config.task.inputs=('uniform',['normal'])"], ["task.inputs=['normal']", "one of uniform"]),
    ([APART, "--config.task.d_output=11"], ["task.d_output=11", "at most 10", "model.layout=concatenated"]),
    ([APART, "--config.task.d_input=2", "--config.task.d_output=3"], ["task.d_output=3", "at most 2"]),
    ([APART, "--config.model.layout=concatenated"], ["model.layout=concatenated", "analyses=copying"]),
    ([ONE, "--config.model.layout=interleaved"], ["model.layout=interleaved", "analyses=weights,interpolation"]),
    ([ONE, "--config.model.layout=interleavd"], ["model.layout=interleavd", "did you mean interleaved?"]),
    ([ONE, "--config.model.n_layers=(1,2)"], ["model.n_layers=2", "analyses"]),
    ([VARIANTS, "--config.model.alpha=1.5"], ["model.alpha=1.5", "at most 1"]),
    ([VARIANTS, "--config.model.alpha=(0.0,-1.5)"], ["model.alpha=-1.5", "at least -1"]),
    ([VARIANTS, "--config.model.beta=-0.1"], ["model.beta=-0.1", "at least 0"]),
    ([VARIANTS, "--config.model.share=0.0"], ["model.share=0.0", "above 0"]),
    ([VARIANTS, "--config.model.share=0.6"], ["model.share=0.6", "at most 0.5"]),
    ([VARIANTS, "--config.model.share=None"], ["model.beta=0.0", "share=None", "both"]),
    (
        [VARIANTS, "--config.model.attend_to_query=False"],
        ["model.alpha=-1.0", "set attend_to_query=True"],
    ),
    ([VARIANTS, "--config.train.weight_decay=0.1"], ["train.weight_decay=0.1", "model.alpha"]),
    ([f"{DUAL}:layer", "--config.model.beta=0.5"], ["model.beta=0.5", "both"]),
    ([f"{DUAL}:layer", "--config.model.attention=mixed"], ["model.attention=mixed", "softmax"]),
    (
        [f"{DUAL}:linear", "--config.analyses=('random_features',)", NO_CLAIMS],
        ["model.attention=linear", "kernel of softmax"],
    ),
    (
        [f"{DUAL}:layer", "--config.model.layout=alternating"],
        ["model.layout=alternating", "one of concatenated, interleaved"],
    ),
    (
        [DUAL, "--config.model.attend_to_query=True"],
        ["model.attend_to_query: not a field of this experiment", "model.style=von_oswald"],
    ),
    (
        [DUAL, "--config.analyses=('random_features',)", NO_CLAIMS],
        ["model.style=gpt2", "von_oswald", "random_features"],
    ),
    ([DUAL, "--config.train.active_inputs=(6,1,10)"], ["train.active_inputs=(6, 1, 10)", "at most task.d_input=5"]),
    ([f"{DUAL}:layer", "--config.train.active_points=(3,1,9)"], ["active_points=(3, 1, 9)", "model.style=gpt2"]),
    (
        [f"--config={CONFIGS}/random_features.py", "--config.eval.suite_values=1"],
        ["eval.suite_values=1", "at least 2"],
    ),
    ([DUAL, "--config.model.d_embed=33"], ["model.d_embed=33", "model.n_heads=2"]),
    ([DUAL, "--config.task.name=cubic"], ["task.name=cubic", "linear"]),
    ([ONE, "--config.model.alpha=0.5"], ["model.alpha=0.5", "set attend_to_query=True"]),
    ([GAUSSIAN, "--config.task.d_input=(5,4)"], ["task.eigenvalues", "task.d_input=4"]),
    ([ONE, "--config.train.batch_size=(2,2000000000)"], ["GiB", "train.batch_size=2000000000"]),
    (
        [ONE, f"--config.train.clip={tuple(range(1, 5000))}", "--config.train.batch_size=100000"],
        ["GiB", "fewer than 4999 combinations"],
    ),
]


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    """Replaces the run, so that wrongly accepted input fails the test instead of training."""
    monkeypatch.setattr(command, "_execute", lambda asked: 0)


def test_a_workdir_is_held_by_one_run(tmp_path, monkeypatch, capsys):
    words = ["run", f"{ONE}:smoke", f"--workdir={tmp_path}/a/b"]
    monkeypatch.setattr(command, "_execute", lambda asked: command.main(words))
    assert command.main(words) == 2
    assert "in use by another run" in capsys.readouterr().err
    assert not (tmp_path / "a" / "b").exists()


def test_a_refused_run_leaves_the_directory_to_the_one_that_holds_it(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    with locked(workdir):
        # As if both runs had looked for the directory before one of them created it.
        monkeypatch.setattr(Path, "exists", lambda path: False)
        with pytest.raises(ConfigError, match="in use by another run"), locked(workdir):
            pass
        monkeypatch.undo()
        assert workdir.is_dir()
    assert not workdir.exists()


def test_a_directory_taken_away_before_it_is_locked_is_not_held(tmp_path, monkeypatch):
    workdir, lock = tmp_path / "run", fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *args: (workdir.rmdir(), lock(*args)))
    with pytest.raises(ConfigError, match="in use by another run"), locked(workdir):
        pass


def test_a_workdir_of_another_experiment_is_refused(tmp_path, capsys):
    asked = parse(["run", f"{ONE}:converged", f"--workdir={tmp_path}"])
    there = {**stored(asked.experiment), "experiment": "one_layer", "variant": "trapped"}
    (tmp_path / "config.json").write_text(json.dumps(there))
    assert command.main(["run", f"{ONE}:converged", f"--workdir={tmp_path}"]) == 2
    assert "holds a run of one_layer:trapped" in capsys.readouterr().err


def stored(experiment):
    """The config.json of a run of this experiment."""
    return {"format": newest_of(FORMATS), "config": nested(experiment.flat())}


@pytest.mark.parametrize(("words", "expected"), BAD, ids=lambda v: " ".join(map(str, v))[-50:])
def test_one_line_and_nothing_written(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command.main(["run", *words]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out == ""
    assert all(part in err for part in expected), err
    assert not os.listdir(tmp_path)


NOT_CONFIGS = {
    "plain": "x = 1",
    "syntax": "def (",
    "exits": "import sys; sys.exit(3)",
    "plain_dict": "def get_config(variant): return {'seeds': 1}",
    "nothing": "def get_config(variant): pass",
    "raises": "def get_config(variant): raise ValueError('not today')",
    "refused": "from icl_gd.lab import Train\ndef get_config(variant): return Train(steps=0)",
    "lacks_parts": "from icl_gd.lab import Experiment\ndef get_config(variant): return Experiment(seeds=3)",
    "other_field": "from icl_gd.lab import Network\ndef get_config(variant): return Network(layers=3)",
}


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_an_unknown_variant_is_refused_in_python_too(config):
    with pytest.raises(ValueError, match=r"unknown variant 'tinny'; choose from .*smoke"):
        runpy.run_path(str(config))["get_config"]("tinny")


@pytest.mark.parametrize("name", NOT_CONFIGS)
def test_files_that_are_no_configs(name, capsys, tmp_path):
    (tmp_path / f"{name}.py").write_text(NOT_CONFIGS[name])
    assert command.main(["run", f"--config={tmp_path}/{name}.py", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert name in err
    assert os.listdir(tmp_path) == [f"{name}.py"]


GOOD_CLAIM = {"metric": "loss_trained", "source": "here", "at_most": 1.0}
BAD_CLAIMS = {
    "no_relation": ({"at_most": None}, "claim 'A' states no relation; give one of within, at_least, at_most"),
    "two_relations": ({"at_least": 0.0}, "claim 'A' states at_least and at_most; give one of within, "),
    "within": ({"at_most": None, "within": 1.0}, "claim 'A': within=1.0 must be (target, tolerance)"),
    "misspelt": ({"tolerence": 0.1}, "unexpected keyword argument 'tolerence'"),
    "reduce": (
        {"reduce": "means"},
        "claim 'A': reduce='means' must be one of mean, min, max, lower, upper; did you mean ",
    ),
    "nan": ({"at_most": math.nan}, "claim 'A': target=nan must be a finite number"),
    "words": ({"at_most": "1"}, "claim 'A': target='1' must be a number"),
    "number": ({"source": 2}, "claim 'A': source=2 must be a string"),
    "tolerance": ({"tolerance": -1}, "claim 'A': tolerance=-1 must be a number of at least 0"),
    "unmeasured": (
        {"metric": "loss_traned"},
        "claims: A is about loss_traned, which is not measured by gradient_descent",
    ),
}


def stating(directory, name, *claims):
    """Writes a config with the given claims (as keyword arguments). Returns the command line that runs it."""
    stated = ", ".join(f"claim('A', 'it is small', **{of!r})" for of in claims)
    (directory / f"{name}.py").write_text(
        "from icl_gd.lab import Experiment, GradientDescent, Network, Regression, claim\nnan = float('nan')\n"
        "def get_config(variant):\n"
        f"    return Experiment(Regression(), Network(), GradientDescent(), claims=({stated},))\n"
    )
    return ["run", f"--config={directory}/{name}.py", f"--workdir={directory}/run"]


@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_claims_are_checked_before_the_run(name, capsys, tmp_path):
    changed, expected = BAD_CLAIMS[name]
    assert command.main(stating(tmp_path, name, GOOD_CLAIM)) == 0
    assert command.main(stating(tmp_path, name, GOOD_CLAIM | changed)) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: --config={tmp_path}/{name}.py")
    assert err.count("\n") == 1
    assert expected in err, err


def test_a_claim_is_stated_once(capsys, tmp_path):
    assert command.main(stating(tmp_path, "twice", GOOD_CLAIM, GOOD_CLAIM)) == 2
    assert "claims: two claims have the id A; give every claim its own id" in capsys.readouterr().err


def test_a_config_may_have_no_variants(capsys, tmp_path):
    stating(tmp_path, "mine", GOOD_CLAIM)
    mine = (tmp_path / "mine.py").read_text()
    (tmp_path / "mine.py").write_text(mine.replace("get_config(variant)", "get_config()"))
    assert parse(["run", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run"]).name == "mine"
    assert command.main(["run", f"--config={tmp_path}/mine.py:smoke", f"--workdir={tmp_path}/run"]) == 2
    assert "takes no variant" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[1]", b'{"config": 3}', b"{", b"\xff\xfe"])
def test_unreadable_stored_settings_are_refused(content, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert command.main(["run", f"{ONE}:smoke", f"--workdir={tmp_path}"]) == 2
    assert "config.json is unreadable" in capsys.readouterr().err
    assert (tmp_path / "config.json").read_bytes() == content


def test_good_input_in_every_spelling(tmp_path):
    words = [
        "--config.seeds",
        "3",
        "--noconfig.train.share_batches",
        ONE,
        "--config.model.clip=2",
        f"--workdir={tmp_path}",
    ]
    words += ["--config.model.d_head=4", "--config.analyses=copying", "--config.analyses=alignment,shifts", NO_CLAIMS]
    found = parse(["run", *words])
    its, train, model = found.experiment, found.experiment.train, found.experiment.model
    assert (its.seeds, train.share_batches, model.clip, model.d_head) == (3, False, 2.0, 4)
    assert its.analysis_names == ("alignment", "shifts")
    assert set(found.overridden) == {"seeds", "train.share_batches", "model.clip", "model.d_head", "analyses"}
    assert (found.name, found.variant, found.workdir) == ("one_layer", None, tmp_path)
    assert parse(["run", GAUSSIAN, "--config.task.rotation_seed=None"]).experiment.task.rotation_seed is None
    assert parse(["run", f"{ONE}:smoke"]).workdir == Path("runs/one_layer-smoke")


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.py").write_text((CONFIGS / "one_layer.py").read_text())
    found = parse(["run", "--config=~/mine.py:smoke", "--workdir=~/run"])
    assert (found.name, found.workdir) == ("mine", tmp_path / "run")


def test_only_settings_of_the_run_itself_may_differ_from_those_stored(tmp_path):
    asked = parse(["run", ONE, f"--workdir={tmp_path}"])
    (tmp_path / "config.json").write_text(json.dumps({"device": "abacus", **stored(asked.experiment)}))
    assert parse(
        ["run", ONE, f"--workdir={tmp_path}", "--config.train.log_every=7", "--config.train.checkpoint_every=9"]
    )
    with pytest.raises(ConfigError, match=r"seeds \(stored 10, requested 3\)"):
        parse(["run", ONE, f"--workdir={tmp_path}", "--config.seeds=3"])


def test_a_field_that_an_older_version_lacked_was_at_its_default(tmp_path):
    there = stored(parse(["run", ONE]).experiment)
    del there["config"]["train"]["form"], there["config"]["train"]["parallel"]
    (tmp_path / "config.json").write_text(json.dumps(there))
    assert parse(["run", ONE, f"--workdir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"train.form \(stored auto, requested tokens\)"):
        parse(["run", ONE, f"--workdir={tmp_path}", "--config.train.form=tokens"])


def test_covariance_of_a_config():
    experiment = parse(["run", GAUSSIAN]).experiment
    eigenvalues = experiment["task.eigenvalues"]
    rotated = np.asarray(experiment.eval_task.covariance)
    np.testing.assert_allclose(sorted(np.linalg.eigvalsh(rotated)), sorted(eigenvalues), rtol=1e-12)
    assert np.abs(rotated - np.diag(np.diag(rotated))).max() > 0.1
    along_axes = experiment.change({"task.rotation_seed": None}).eval_task
    np.testing.assert_array_equal(along_axes.covariance, np.diag(eigenvalues))


def test_other_settings_than_those_stored_are_refused(capsys, tmp_path):
    smoke = parse(["run", f"{ONE}:smoke"]).experiment.change({"train.steps": 3, "seeds": 4})
    (tmp_path / "config.json").write_text(json.dumps(stored(smoke)))
    assert command.main(["run", f"{ONE}:smoke", f"--workdir={tmp_path}"]) == 2
    err = capsys.readouterr().err
    assert "train.steps (stored 3, requested 20)" in err
    assert "seeds (stored 4, requested 2)" in err
    assert os.listdir(tmp_path) == ["config.json"]


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "experiments.run", ONE, "--config.train.steps=-5", f"--workdir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONFIGS.parent, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "run").exists()
