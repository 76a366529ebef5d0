"""Bad input ends with exit code 2 and one line that says what was wrong and what would do; nothing is written."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from icl_gd.lab import run
from icl_gd.lab.command_line import parse
from icl_gd.lab.config.bad_input import BadInput
from icl_gd.lab.config.described import task_of
from icl_gd.lab.lifecycle.workdirs import held

CONFIGS = Path(__file__).parents[2] / "configs"
ONE = f"--config={CONFIGS}/one_layer.py"
GAUSSIAN = f"--config={CONFIGS}/gaussian_optimum.py"
SWEEP = f"--config={CONFIGS}/context_sweep.py"
TWO, SOFTMAX = f"--config={CONFIGS}/two_layers.py", f"--config={CONFIGS}/softmax_heads.py"
SINE = f"--config={CONFIGS}/sine.py"
APART = f"--config={CONFIGS}/token_copying.py"
DUAL, VARIANTS = f"--config={CONFIGS}/dual_model.py", f"--config={CONFIGS}/attention_variants.py"

BAD = [
    ([], ["--config", "one_layer"]),
    (["--config"], ["--config"]),
    ([f"--config={CONFIGS}/one_layr.py"], ["one_layr", "did you mean configs/one_layer.py?"]),
    ([f"--config={CONFIGS.parent}/README.md"], ["README.md", "get_config"]),
    ([f"{ONE}:smok"], ["smok", "did you mean smoke?", "converged"]),
    ([ONE, "--wokdir=x"], ["--wokdir", "--workdir"]),
    ([ONE, "--config.trian.steps=4"], ["trian.steps", "train.steps"]),
    ([ONE, "--config.train.step=4"], ["train.step", "train.steps"]),
    ([ONE, "--config.train=4"], ["--config.train:", "did you mean one of train.", "train.steps"]),
    ([ONE, "extra"], ["extra", "--config.FIELD"]),
    ([ONE, "--profile=maybe"], ["--profile=maybe", "true or false"]),
    ([ONE, "--config.train.steps=abc"], ["train.steps", "abc", "int"]),
    ([ONE, "--config.train.steps=1.5"], ["train.steps", "1.5", "int"]),
    ([ONE, "--config.train.share_batches=maybe"], ["share_batches", "maybe"]),
    ([ONE, "--config.train.steps=0"], ["train.steps=0", "at least 1"]),
    ([ONE, "--config.train.steps=-5"], ["train.steps=-5", "at least 1"]),
    ([ONE, "--config.train.learning_rate=nan"], ["train.learning_rate=nan", "finite"]),
    ([ONE, "--config.train.learning_rate=inf"], ["train.learning_rate=inf", "finite"]),
    ([ONE, "--config.train.beta2=1.0"], ["train.beta2", "below 1"]),
    ([ONE, "--config.task.noise_std=1e39"], ["task.noise_std=1e+39", "at most"]),
    ([ONE + ":"], ["variant", "empty"]),
    ([ONE, "--workdir=/proc/x"], ["--workdir=/proc/x", "directory"]),
    ([ONE, "--config.model.n_heads=1000000", "--config.analyses=()"], ["GiB", "model.n_heads=1000000"]),
    ([ONE, "--config.seed=-1"], ["seed=-1", "at least 0"]),
    ([ONE, "--config.seeds=0"], ["seeds=0", "at least 1"]),
    ([ONE, "--config.task.noise_std=-0.1"], ["task.noise_std=-0.1"]),
    ([ONE, "--config.task.inputs=unifrm"], ["unifrm", "did you mean uniform?"]),
    ([ONE, "--config.task.name=quadratic"], ["task.name=quadratic", "linear"]),
    ([ONE, "--config.model.attention=softmax"], ["softmax", "interpolation"]),
    ([ONE, "--config.model.attention=sotfmax"], ["sotfmax", "linear"]),
    ([ONE, "--config.model.attention=linear,linear"], ["model.attention", "(1)"]),
    ([ONE, "--config.model.clip=-1"], ["model.clip=-1"]),
    ([ONE, "--config.task.corrupted_labels=11"], ["task.corrupted_labels=11", "task.n_context=10"]),
    ([ONE, "--config.task.corrupted_labels=-1"], ["task.corrupted_labels=-1", "at least 0"]),
    ([ONE, "--config.task.corrupted_labels=1.5"], ["task.corrupted_labels=1.5", "int"]),
    ([ONE, "--config.task.corrupted_labels=(0,11)"], ["task.corrupted_labels=11", "task.n_context=10"]),
    ([GAUSSIAN, "--config.task.corrupted_labels=1"], ["task.corrupted_labels=1", "optimum"]),
    ([ONE, "--config.task.pool=0"], ["task.pool=0", "at least 1"]),
    ([ONE, "--config.analyses=('pool',)"], ["task.pool=None", "pool"]),
    ([ONE, "--config.analyses=('softmax',)"], ["model.attention=linear", "softmax"]),
    ([SOFTMAX, "--config.model.n_heads=2", "--config.task.n_context=1"], ["task.n_context=1", "mean", "at least 2"]),
    ([TWO, "--config.model.d_embed=12", "--config.analyses=('curvature',)"], ["model.d_embed=12", "curvature"]),
    ([ONE, "--config.reference.steps=3", "--config.analyses=('weights',)"], ["reference.steps=3", "weights"]),
    (
        [TWO, "--config.task.corrupted_labels=4", "--config.reference.steps=1", "--config.analyses=()"],
        ["task.corrupted_labels=4", "reference.learner=gd"],
    ),
    ([ONE, "--config.analyses=('table',)", "--config.task.d_input=4"], ["task.d_input=4", "table", "10"]),
    ([ONE, "--config.precision=float16"], ["float16", "float32"]),
    ([ONE, "--config.train.schedule=linear"], ["linear", "cosine"]),
    ([ONE, "--config.train.form=momments"], ["train.form=momments", "did you mean moments?"]),
    (
        [ONE, "--config.train.form=moments", "--config.model.clip=1", "--config.analyses=()"],
        ["form=moments", "clip=1.0"],
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
    ([ONE, "--coordinator=a:1"], ["--process_count is missing", "go together"]),
    ([ONE, "--coordinator=a", "--process_count=2", "--process_index=0"], ["--coordinator=a", "HOST:PORT"]),
    ([ONE, "--coordinator=a:1", "--process_count=2", "--process_index=2"], ["--process_index=2", "from 0 to 1"]),
    ([ONE, "--coordinator=a:1", "--process_count=x", "--process_index=2"], ["--process_count=x", "whole number"]),
    ([ONE, "--distributed=maybe"], ["--distributed=maybe", "true or false"]),
    ([ONE, "--distributed", "--process_index=0"], ["--distributed", "contradicts --process_index"]),
    (
        [ONE, "--config.train.parallel=jit", "--config.seeds=3", "--config.train.batch_size=2047"],
        ["train.parallel=jit", "among 2 devices", "2 or 4 members", "2046 or 2048"],
    ),
    ([ONE, "--config.recipe=cake"], ["recipe=cake", "linear_attention"]),
    ([ONE, "--config.analyses=('shift',)"], ["analyses=shift", "did you mean shifts?"]),
    ([ONE, "--config.model.n_layers=2"], ["model.n_layers=2", "analyses"]),
    ([ONE, "--config.model.n_heads=2"], ["model.n_heads=2", "interpolation"]),
    ([ONE, "--config.train.batch_size=2000000000"], ["GiB", "train.batch_size=2000000000"]),
    ([GAUSSIAN, "--config.task.d_input=4"], ["task.eigenvalues", "task.d_input=4"]),
    ([GAUSSIAN, "--config.task.inputs=uniform"], ["task.inputs=uniform", "optimum"]),
    ([SWEEP, "--config.task.n_context=(5,-1)"], ["task.n_context=-1"]),
    ([SINE, "--config.task.inputs=normal"], ["task.inputs=normal", "does nothing", "uniform"]),
    ([SINE, "--config.task.d_input=2"], ["task.d_input=2", "takes 1"]),
    ([SINE, "--config.analyses=('weights',)"], ["analyses", "does nothing", "()"]),
    ([SINE, "--config.train.learning_rate=(1e-3,1e-4)"], ["train.learning_rate", "recipe=sine takes one value"]),
    ([SINE, "--config.train.weight_decay=0.1"], ["train.weight_decay=0.1", "takes 0.0"]),
    ([SINE, "--config.model.d_embed=None"], ["model.d_embed=None", "at least 2"]),
    ([SINE, "--config.reference.step_size=0"], ["reference.step_size=0", "above 0"]),
    ([SINE, "--config.task.name=linear"], ["task.name=linear", "recipe=sine"]),
    ([ONE, "--config.task.name=sine"], ["task.name=sine", "recipe=linear_attention"]),
    ([ONE, "--config.task.faithful=true"], ["task.faithful=True", "does nothing"]),
    ([ONE, "--config.reference.learning_rate=1e-3"], ["reference.learning_rate=0.001", "does nothing"]),
    ([ONE, f"--workdir={CONFIGS}/one_layer.py/x"], ["--workdir", "cannot write"]),
    ([ONE, "--workdir=" + 300 * "a"], ["--workdir", "too long"]),
    ([ONE, "--workdir="], ["--workdir", "directory"]),
    (["--config=one_layer"], ["did you mean configs/one_layer.py?"]),
    (["--config.train.steps=abc", ONE], ["train.steps=abc"]),
    ([ONE, "--config.train.steps", "-5"], ["train.steps=-5", "at least 1"]),
    ([ONE, "--config.train.steps"], ["train.steps", "needs a value"]),
    ([ONE, "--config.train.steps=99999999999"], ["train.steps=99999999999", "at most"]),
    ([ONE, "--config..steps=1"], ["unknown field", "train.steps"]),
    ([ONE, "--train.steps=1"], ["--train.steps", "did you mean --config.train.steps?"]),
    ([ONE, "--flagfile=x"], ["--flagfile", "accepted"]),
    ([ONE, "--", "x"], ["stray argument '--'"]),
    ([ONE, "---config.seeds=2"], ["stray argument"]),
    ([ONE, "--noconfig.train.steps"], ["train.steps", "needs a value"]),
    ([ONE, "--config.train.log_every=0"], ["train.log_every=0"]),
    ([ONE, "--config.train.checkpoint_every=0"], ["train.checkpoint_every=0"]),
    ([ONE, "--config.train.learning_rate=1e400"], ["train.learning_rate=inf", "finite"]),
    ([ONE, "--config.task.inputs=a\nb"], ["task.inputs=a b"]),
    ([ONE, "--config.claims=({},)"], ["claims", "()"]),
    ([ONE, "--config.model.d_head=0"], ["model.d_head=0", "at least 1"]),
    ([ONE, "--config.model.clip=1"], ["model.clip=1.0", "analyses=weights,interpolation"]),
    ([ONE, "--config.model.n_layers=100000000", "--config.analyses=()"], ["GiB", "model.n_layers=100000000"]),
    ([ONE, "--config.eval.prompts=10000000000000000"], ["eval.prompts", "at most"]),
    ([ONE, "--config.seeds=4294967295", "--config.seed=5"], ["seeds=4294967295", "seed=5"]),
    ([GAUSSIAN, "--config.task.eigenvalues=(1,2"], ["task.eigenvalues=(1,2", "tuple"]),
    ([GAUSSIAN, "--config.task.eigenvalues=(None,1,1,1,1)"], ["task.eigenvalues=None", "must be a number"]),
    ([GAUSSIAN, "--config.task.eigenvalues=(1,1,1,1,0)"], ["task.eigenvalues=0", "above 0"]),
    ([GAUSSIAN, "--config.task.eigenvalues=()"], ["task.rotation_seed=0", "task.eigenvalues"]),
    ([SWEEP, "--config.task.n_context=(5.5,)"], ["task.n_context=5.5", "whole"]),
    ([SWEEP, "--config.task.n_context=()"], ["task.n_context=()", "at least one"]),
    ([SWEEP, "--config.task.n_context=(5,5)"], ["task.n_context", "once"]),
    ([ONE, "--config.task.n_context=(5,10"], ["task.n_context=(5,10", "whole number"]),
    ([ONE, "--config.seeds=(2,3)"], ["seeds=(2, 3)", "one value", "train.learning_rate", "task.n_context"]),
    ([ONE, "--config.train.schedule=('constant','cosine')"], ["train.schedule=('constant', 'cosine')", "one value"]),
    ([ONE, "--config.train.share_batches=(True,False)"], ["train.share_batches=(True, False)", "one value"]),
    ([ONE, "--config.model.clip=(1.0,2.0)"], ["model.clip=(1.0, 2.0)", "one value"]),
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
    ([VARIANTS, "--config.model.share=None"], ["model.beta=(0.0, 0.25, 0.5)", "both"]),
    (
        [VARIANTS, "--config.model.reads_query=False"],
        ["model.alpha=(-1.0, -0.5, 0.0, 0.5, 1.0)", "needs model.reads_query=True"],
    ),
    ([VARIANTS, "--config.train.weight_decay=0.1"], ["train.weight_decay=0.1", "model.alpha"]),
    ([f"{DUAL}:layer", "--config.model.beta=0.5"], ["model.beta=0.5", "both"]),
    ([f"{DUAL}:layer", "--config.model.attention=mixed"], ["model.attention=mixed", "softmax"]),
    ([f"{DUAL}:linear", "--config.analyses=('random_features',)"], ["model.attention=linear", "kernel of softmax"]),
    ([f"{DUAL}:layer", "--config.model.layout=alternating"], ["model.layout=alternating", "model.style=von_oswald"]),
    ([DUAL, "--config.model.reads_query=True"], ["model.reads_query=True", "causal"]),
    ([DUAL, "--config.analyses=('random_features',)"], ["model.style=gpt2", "von_oswald"]),
    ([DUAL, "--config.train.active_inputs=(6,1,10)"], ["train.active_inputs=(6, 1, 10)", "at most task.d_input=5"]),
    ([f"{DUAL}:layer", "--config.train.active_points=(3,1,9)"], ["active_points=(3, 1, 9)", "model.style=gpt2"]),
    (
        [f"--config={CONFIGS}/random_features.py", "--config.eval.suite_values=1"],
        ["eval.suite_values=1", "at least 2"],
    ),
    ([DUAL, "--config.model.d_embed=33"], ["model.d_embed=33", "model.n_heads=2"]),
    ([DUAL, "--config.task.name=cubic"], ["task.name=cubic", "linear"]),
    ([ONE, "--config.model.alpha=0.5"], ["model.alpha=0.5", "leave it at None"]),
    ([GAUSSIAN, "--config.task.d_input=(5,4)"], ["task.eigenvalues", "task.d_input=4"]),
    ([ONE, "--config.train.batch_size=(2,2000000000)"], ["GiB", "train.batch_size=2000000000"]),
    (
        [ONE, f"--config.train.clip={tuple(range(1, 5000))}", "--config.train.batch_size=100000"],
        ["GiB", "fewer than 4999 combinations"],
    ),
]


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    """Input that is wrongly accepted fails its test instead of training."""
    monkeypatch.setattr(run, "_execute", lambda asked: 0)


def test_a_workdir_is_held_by_one_run(tmp_path, monkeypatch, capsys):
    words = ["run", f"{ONE}:smoke", f"--workdir={tmp_path}/a/b"]
    monkeypatch.setattr(run, "_execute", lambda asked: run.main(words))
    assert run.main(words) == 2
    assert "in use by another run" in capsys.readouterr().err
    assert not (tmp_path / "a" / "b").exists()


def test_a_refused_run_leaves_the_directory_to_the_one_that_holds_it(tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    with held(workdir):
        monkeypatch.setattr(Path, "exists", lambda path: False)  # both looked before either had made it
        with pytest.raises(BadInput, match="in use by another run"), held(workdir):
            pass
        monkeypatch.undo()
        assert workdir.is_dir()
    assert not workdir.exists()


def test_a_directory_taken_away_before_it_is_locked_is_not_held(tmp_path, monkeypatch):
    workdir, lock = tmp_path / "run", fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda *args: (workdir.rmdir(), lock(*args)))
    with pytest.raises(BadInput, match="in use by another run"), held(workdir):
        pass


def test_a_workdir_of_another_experiment_is_refused(tmp_path, capsys):
    asked = parse(["run", f"{ONE}:converged", f"--workdir={tmp_path}"])
    stored = {"experiment": "one_layer", "variant": "trapped", "config": asked.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert run.main(["run", f"{ONE}:converged", f"--workdir={tmp_path}"]) == 2
    assert "holds a run of one_layer:trapped" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "expected"), BAD, ids=lambda v: " ".join(map(str, v))[-50:])
def test_one_line_and_nothing_written(words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.main(["run", *words]) == 2
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
    "too_few": "from ml_collections import ConfigDict\ndef get_config(variant): return ConfigDict({'seeds': 1})",
}


@pytest.mark.parametrize("name", NOT_CONFIGS)
def test_files_that_are_no_configs(name, capsys, tmp_path):
    (tmp_path / f"{name}.py").write_text(NOT_CONFIGS[name])
    assert run.main(["run", f"--config={tmp_path}/{name}.py", f"--workdir={tmp_path}/run"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert name in err
    assert os.listdir(tmp_path) == [f"{name}.py"]


GOOD_CLAIM = {"id": "A", "statement": "it is small", "source": "here", "metric": "loss_trained",
              "relation": "at_most", "target": 1.0}  # fmt: skip
BAD_CLAIMS = {
    "no_target": ([{k: v for k, v in GOOD_CLAIM.items() if k != "target"}], "of claim A, it lacks target"),
    "misspelt": ([{**GOOD_CLAIM, "tolerence": 0.1}], "it has tolerence; did you mean tolerance?"),
    "relation": ([{**GOOD_CLAIM, "relation": "at_mots"}], "its relation=at_mots: did you mean at_most?"),
    "reduce": ([{**GOOD_CLAIM, "reduce": "median"}], "its reduce=median: "),
    "nan": ([{**GOOD_CLAIM, "target": float("nan")}], "its target=nan must be a finite number"),
    "words": ([{**GOOD_CLAIM, "target": "1"}], "its target='1' must be a finite number"),
    "number": ([{**GOOD_CLAIM, "source": 2}], "its source=2 must be words"),
    "tolerance": ([{**GOOD_CLAIM, "tolerance": -1}], "its tolerance=-1 must be at least 0"),
    "twice": ([GOOD_CLAIM, GOOD_CLAIM], "A is stated twice"),
    "no_mapping": ([3], "of claim 0, it is no mapping"),
}


@pytest.mark.parametrize("name", BAD_CLAIMS)
def test_claims_are_checked_before_the_run(name, capsys, tmp_path):
    claims, expected = BAD_CLAIMS[name]
    of = lambda claims: (
        f"""
from icl_gd.lab.config.defaults import base_config
nan = float("nan")
def get_config(variant):
    config = base_config()
    config.claims = tuple({claims})
    return config
"""
    )
    words = ["run", f"--config={tmp_path}/{name}.py", f"--workdir={tmp_path}/run"]
    (tmp_path / f"{name}.py").write_text(of([GOOD_CLAIM]))
    assert run.main(words) == 0
    (tmp_path / f"{name}.py").write_text(of(claims))
    assert run.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: claims: ")
    assert err.count("\n") == 1
    assert expected in err, err


def test_a_config_may_have_no_variants(capsys, tmp_path):
    text = "from icl_gd.lab.config.defaults import base_config\ndef get_config(): return base_config()\n"
    (tmp_path / "mine.py").write_text(text)
    assert parse(["run", f"--config={tmp_path}/mine.py", f"--workdir={tmp_path}/run"]).name == "mine"
    assert run.main(["run", f"--config={tmp_path}/mine.py:smoke", f"--workdir={tmp_path}/run"]) == 2
    assert "takes no variant" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"[1]", b'{"config": 3}', b"{", b"\xff\xfe"])
def test_unreadable_stored_settings_are_refused(content, capsys, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert run.main(["run", f"{ONE}:smoke", f"--workdir={tmp_path}"]) == 2
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
    found = parse(["run", *words, "--config.model.d_head=4", "--config.analyses=alignment", "--config.analyses=shifts"])
    config = found.config
    assert (config.seeds, config.train.share_batches, config.model.clip, config.model.d_head) == (3, False, 2.0, 4)
    assert config.analyses == ("alignment", "shifts")
    assert set(found.overridden) == {"seeds", "train.share_batches", "model.clip", "model.d_head", "analyses"}
    assert (found.name, found.variant, found.workdir) == ("one_layer", None, tmp_path)
    assert parse(["run", GAUSSIAN, "--config.task.rotation_seed=None"]).config.task.rotation_seed is None
    assert parse(["run", f"{ONE}:smoke"]).workdir == Path("runs/one_layer-smoke")


def test_only_settings_of_the_run_itself_may_differ_from_those_stored(tmp_path):
    asked = parse(["run", ONE, f"--workdir={tmp_path}"])
    (tmp_path / "config.json").write_text(json.dumps({"device": "abacus", "config": asked.config.to_dict()}))
    assert parse(
        ["run", ONE, f"--workdir={tmp_path}", "--config.train.log_every=7", "--config.train.checkpoint_every=9"]
    )
    with pytest.raises(BadInput, match=r"seeds \(stored 10, asked 3\)"):
        parse(["run", ONE, f"--workdir={tmp_path}", "--config.seeds=3"])


def test_a_field_that_an_older_version_lacked_was_at_its_default(tmp_path):
    stored = parse(["run", ONE]).config.to_dict()
    del stored["train"]["form"], stored["train"]["parallel"]
    (tmp_path / "config.json").write_text(json.dumps({"config": stored}))
    assert parse(["run", ONE, f"--workdir={tmp_path}"])
    with pytest.raises(BadInput, match=r"train.form \(stored auto, asked tokens\)"):
        parse(["run", ONE, f"--workdir={tmp_path}", "--config.train.form=tokens"])


def test_covariance_of_a_config():
    config = parse(["run", GAUSSIAN]).config
    rotated = np.asarray(task_of(config).covariance)
    np.testing.assert_allclose(sorted(np.linalg.eigvalsh(rotated)), sorted(config.task.eigenvalues), rtol=1e-12)
    assert np.abs(rotated - np.diag(np.diag(rotated))).max() > 0.1
    config.task.rotation_seed = None
    np.testing.assert_array_equal(task_of(config).covariance, np.diag(config.task.eigenvalues))


def test_other_settings_than_those_stored_are_refused(capsys, tmp_path):
    config = {"train": {"steps": 3}}
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    assert run.main(["run", f"{ONE}:smoke", f"--workdir={tmp_path}"]) == 2
    assert "train.steps (stored 3, asked 20)" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["config.json"]


def test_as_a_program(tmp_path):
    command = [sys.executable, "-m", "experiments.run", ONE, "--config.train.steps=-5", f"--workdir={tmp_path}/run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=CONFIGS.parent, timeout=120)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (tmp_path / "run").exists()
