"""`icl-gd identify` prints one verdict, refuses what is wrong in one line, and writes a page that refers to nothing."""

import json
import re
import sys
import tarfile
from dataclasses import replace
from html.parser import HTMLParser

import jax
import numpy as np
import pytest
from browser import CHROMIUM, browser  # beside this file
from whole import ROOT  # beside this file

from icl_gd import models, tokens, zoo
from icl_gd.analysis import calls
from icl_gd.identification import Evidence, Hypothesis, Verdict, subject
from icl_gd.identification.fingerprint import FittedFilter
from icl_gd.lab import cli
from icl_gd.lab.inspection.subject import find, restored_task
from icl_gd.lab.inspection.verdicts import command, content
from icl_gd.lab.inspection.verdicts.subject import load_examined
from icl_gd.lab.inspection.verdicts.tasks import config_task, in_words
from icl_gd.lab.reporting.results import plain
from icl_gd.models import Model, TransformerConfig, gpt2_config
from icl_gd.tasks import FunctionRegression, LinearRegression, SineRegression

D, N, PENALTY = 2, 4, 1.5
SIZE = (f"--task.d_input={D}", f"--task.n_context={N}", "--task.inputs=normal")
FUNCTIONS = f"""
import numpy as np

number = 3

def ridge(x, y, x_query):
    print("a predictor that prints")
    gram = x.T @ x + {PENALTY} * np.eye(x.shape[1])
    return np.linalg.solve(gram, x.T @ y).T @ x_query

def wide(x, y, x_query):
    return np.zeros(2)

def labels(x, y, x_query):
    return y

def fails(x, y, x_query):
    raise KeyError("w")

def two(x, y):
    return y[0]

def nothing(x, y, x_query):
    pass

def leaves(x, y, x_query):
    raise SystemExit(3)

def infinite(x, y, x_query):
    return np.inf * y[0]

def sometimes(x, y, x_query):
    return y[0] if x[0, 0] < 1 else np.nan * y[0]
"""
OF_THE_CONTRACT = {
    *("verdict", "name", "parameters", "intervals", "not_excluded", "unexplained", "symmetries", "evidence"),
    *("controls", "seconds"),
}


@pytest.fixture(autouse=True)
def _few_prompts(monkeypatch):
    """A NumPy predictor is called for one prompt at a time; batches of JAX are padded to their size."""
    monkeypatch.setattr(subject, "PROMPTS", 48)
    monkeypatch.setattr(calls, "BATCH", 768)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    return path


def identified(words, capsys):
    """The output of a command line that succeeds, and its progress."""
    assert command.main([str(word) for word in words]) == 0
    return capsys.readouterr()


class Tags(HTMLParser):
    """All tags of a page with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    handle_startendtag = handle_starttag


def refers_to_nothing(text):
    tags = Tags(text).tags
    for tag, attributes in tags:
        assert tag not in ("link", "img", "script", "iframe", "object", "base", "a"), tag
        assert not {"src", "action", "srcset"} & attributes.keys(), (tag, attributes)
        assert attributes.get("href", "#").startswith("#"), attributes
    assert not re.search(r"\w+://|@import|url\((?!#)", text)
    assert "default-src 'none'" in text
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = re.findall(r'(?:href="|url\()#([^")]+)', text)
    assert used
    assert set(used) <= set(ids)


# --- what is printed and written ---


def test_a_construction_of_the_zoo(tmp_path, capsys):
    """The standard output is one JSON object with the entries of the contract, which are also written."""
    out = tmp_path / "new" / "out"
    printed, progress = identified(["--model=one_layer_construction", "--json", f"--out={out}"], capsys)
    assert printed.count("\n") == 1
    found = json.loads(printed)
    assert found.keys() >= OF_THE_CONTRACT
    assert found["verdict"] == "gd"
    assert found["name"] == "gradient descent, 1 step"
    (step,) = (zoo.card("one_layer_construction").rates or {})["step_sizes"]
    assert found["parameters"] == {"n_steps": 1, "step_sizes": [pytest.approx(step, rel=1e-4)]}
    assert [one["verdict"] for one in found["not_excluded"]] == ["gd"]
    assert found["unexplained"].keys() == {"in_distribution", "shifted", "noise_floor"}
    assert found["unexplained"]["shifted"] < 1e-9
    assert found["symmetries"]["linear_in_labels"] < 1e-9
    assert {"rung", "says", "value", "threshold", "supports"} <= found["evidence"][0].keys()
    assert found["task"].startswith("LinearRegression: d_input=10, d_output=1, n_context=10")
    assert (found["subject"], found["member"]) == ("one_layer_construction", None)
    assert re.fullmatch(r"(one_layer_construction: [\w ]+ \(\d+ s\)\n){3,}", progress)
    assert sorted(each.name for each in out.iterdir()) == ["report.html", "verdict.json"]
    assert json.loads((out / "verdict.json").read_text()) == found
    text = (out / "report.html").read_text()
    refers_to_nothing(text)
    for said in (
        found["sentence"],
        "Spectral fingerprint",
        "Unexplained share by shift",
        "What would change the verdict",
        *("Symmetries", "rotation invariant", "Evidence", "<strong>cause</strong>", "Controls"),
    ):
        assert said in text, said
    assert text.count("<svg") == 1


def test_a_numpy_function(file, tmp_path, capsys):
    """What it prints goes to the standard error. Without --json the answer is text. A page may be replaced."""
    words = [f"--predictor={file}:ridge", *SIZE, "--seed=1"]
    printed, progress = identified([*words, "--json"], capsys)
    found = json.loads(printed)
    assert found["verdict"] == "ridge"
    assert found["parameters"]["penalty"] == pytest.approx(PENALTY, rel=1e-6)
    assert "a predictor that prints" in progress
    out = tmp_path / "out"
    for _ in range(2):
        printed, _ = identified([*words, "--out", out], capsys)
    lines = printed.splitlines()
    assert lines[:2] == [f"{file}:ridge", f"  {found['sentence']}"]
    assert lines[-2:] == [f"wrote {out}/report.html", f"wrote {out}/verdict.json"]
    for said in (
        f"d_input={D}, d_output=1, n_context={N}, inputs=normal",
        "penalty 1.5",
        "not excluded",
        "violation of",
        "0.0025 is",
    ):
        assert said in printed
    assert all(len(line) <= 120 for line in lines[2:-2])
    text = (out / "report.html").read_text()
    refers_to_nothing(text)
    assert "Excluded: " in text
    if CHROMIUM is not None:
        with browser() as tab:
            for dark in (False, True):
                tab.resize(400, dark=dark)
                tab.open(out / "report.html")
                assert tab("document.documentElement.scrollWidth") == 400
            assert tab.errors == []
            assert {*tab.requests} == {(out / "report.html").as_uri()}


@pytest.mark.parametrize("penalty", [0.02, 1.0, 40.0])
def test_the_penalty_of_a_ridge_function(penalty, tmp_path, capsys):
    """Any ridge function in NumPy gets its name, and its penalty within 2 %."""
    (tmp_path / "own.py").write_text(FUNCTIONS.replace(f"+ {PENALTY} *", f"+ {penalty} *"))
    printed, _ = identified([f"--predictor={tmp_path}/own.py:ridge", *SIZE, "--json"], capsys)
    found = json.loads(printed)
    assert found["verdict"] == "ridge"
    assert found["parameters"]["penalty"] == pytest.approx(penalty, rel=0.02)


ANSWER = Verdict(
    "gd",
    {"n_steps": 2, "step_sizes": [0.5, 0.5]},
    {"step_sizes": [[0.4, 0.6], [0.4, 0.6]]},
    (Hypothesis("gd", {"n_steps": 2, "step_sizes": [0.5, 0.5]}, 0.25),),
    unexplained={"in_distribution": 0.25, "shifted": np.inf, "noise_floor": np.nan},
    by_shift={"half the input scale": np.inf},
    symmetries={"odd_in_labels": 0.0, "linear_in_query": 0.5},
    evidence=(
        Evidence("cause", "kept", "steps", 1.0, 2.0, True),
        Evidence("behaviour", "size", "predictions", 3.0, 2.0, False),
    ),
)


@pytest.fixture
def answered(monkeypatch):
    """What `identify` was called with; it returns `ANSWER`, and "none" for the second member."""
    made = []

    def identify(predictor, task, **more):
        made.append((predictor, task, more))
        return ANSWER if len(made) != 2 else Verdict("none", nearest=ANSWER.not_excluded[0])

    monkeypatch.setattr(command, "identify", identify)
    return made


def unpacked(name, directory):
    with tarfile.open(ROOT / "tests" / "stored" / f"{name}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory


def test_every_member_of_a_run(tmp_path, capsys, answered):
    """The task is that of the run; numbers that are not finite are null."""
    workdir = unpacked("swept_together", tmp_path)
    printed, _ = identified([f"--workdir={workdir}", "--json"], capsys)
    found = json.loads(printed)["verdicts"]
    assert len(found) == len(answered) > 2
    assert [each["member"] for each in found] == [*range(len(found))]
    assert [each["verdict"] for each in found[:3]] == ["gd", "none", "gd"]
    assert found[0]["unexplained"] == {"in_distribution": 0.25, "shifted": None, "noise_floor": None}
    assert found[0]["evidence"][0]["rung"] == "cause"
    task = restored_task(find(str(workdir)))
    assert all(call[1] == task for call in answered)
    assert all(isinstance(call[0], Model) for call in answered)
    assert not np.allclose(*(jax.tree.leaves(call[0].params)[0] for call in answered[:2]))

    last = len(found) - 1
    words = [f"--workdir={workdir}", f"--member={last}", "--seed=7", "--task.noise_std=0.5"]
    printed, _ = identified([*words, "--json"], capsys)
    assert json.loads(printed)["member"] == last
    predictor, changed, more = answered[-1]
    assert changed == replace(task, noise_std=0.5)
    assert more["seed"] == 7
    for one, other in zip(jax.tree.leaves(predictor), jax.tree.leaves(answered[last][0]), strict=True):
        np.testing.assert_array_equal(one, other)

    answered.clear()
    printed, _ = identified([f"--workdir={workdir}"], capsys)
    first, *rest = printed.splitlines()
    assert first == f"Of {last + 1} members, {last} compute gradient descent, 2 steps, 1 computes {NONE}."
    assert sum(line.startswith("  The predictor computes") for line in rest) == last
    assert ", member 1 (" in printed


NONE = "none of the known algorithms"


def test_the_ladder_is_sorted_and_its_open_rungs_are_named():
    assert [row[0] for row in content.evidence_rows(ANSWER)] == ["behaviour", "cause"]
    assert content.open_rungs(ANSWER) == ["sensitivity", "weights"]
    assert content.parameter_rows(ANSWER)[1] == ("step sizes", "2 × 0.5", "0.4 to 0.6 (all 2)")


@pytest.mark.parametrize(
    ("family", "verdict", "misfit", "symmetric", "said"),
    [
        ("ridge", "gd", 0.5, True, "Excluded: with inputs multiplied by 2, it leaves 0.5 unexplained; at most 0.1 is"),
        ("ridge", "gd", 30.0, True, "Excluded: with inputs multiplied by 2, its error is 30 times the response; at"),
        ("gd", "gd", 0.05, True, "The verdict: with inputs multiplied by 2, it leaves 0.05 unexplained; more than 0.1"),
        ("ridge", "gd", 0.05, True, "Not excluded at any scale of the inputs"),
        ("ridge", "none", 0.05, False, "Excluded by symmetries that it has, and which 0.7 of the response breaks."),
        ("ridge", "none", 0.05, True, "Excluded on fresh prompts"),
        ("gd_plus_plus", "gd", 0.05, True, "Not excluded: the fit is gradient descent, which is its special case"),
    ],
)
def test_what_excludes_an_algorithm(family, verdict, misfit, symmetric, said):
    parameters = {"n_steps": 2, "step_sizes": [1.0, 1.0], "gammas": [1e-9, 0.0]}
    scales = np.array([1.0, 2.0])
    fitted = FittedFilter(family, parameters, np.zeros_like, scales, np.array([0.01, misfit]), np.full(2, 0.1))
    found = content.exclusion(fitted, Verdict(verdict, unexplained={"noise_floor": 0.7}), symmetric)
    assert found.startswith(said)


def test_numbers_of_json():
    value = {"a": np.float64(np.nan), 1: (np.int64(2), [np.inf, True]), "b": np.ones((1, 2)), "c": None}
    assert plain(value) == {"a": None, "1": [2, [None, True]], "b": [[1.0, 1.0]], "c": None}


# --- tasks ---


def test_fields_of_the_task(tmp_path):
    assert config_task({}, {}) == LinearRegression(10, 1, 10)
    given = {"task.d_input": "3", "task.n_context": "5", "task.noise_std": "0.5", "task.inputs": "normal"}
    assert config_task(given, {"task.d_input": "9"}) == LinearRegression(3, 1, 5, inputs="normal", noise_std=0.5)
    assert config_task({"task.name": "sine", "task.n_context": "7"}, {}) == SineRegression(n_context=7)
    sparse = config_task({"task.name": "sparse", "task.d_input": "6", "task.non_zeros": "2"}, {})
    assert isinstance(sparse, FunctionRegression)
    assert in_words(sparse).endswith("functions=Sparse(d_input=6, non_zeros=2)")
    covariance = config_task({"task.eigenvalues": "1,2", "task.d_input": "2"}, {})
    assert "covariance=((1.0, 0.0), (0.0, 2.0))" in in_words(covariance)
    short = {"task.d_input": "2", "task.n_context": "3"}  # shorter than the curriculum of the config begins
    assert config_task({"task.name": "quadratic", **short}, {}).n_context == 3
    assert config_task({"task.name": "signs", **short}, {}).logistic
    layout = tokens.concatenated(D, 2)
    config = TransformerConfig(D + 2)
    Model(config, models.init(config, jax.random.key(0)), layout).save(tmp_path)
    assert load_examined("model", str(tmp_path), {}).task == LinearRegression(D, 2, D, inputs="normal")
    shifted = load_examined("model", str(tmp_path), {"task.noise_std": "1.0", "task.n_context": "9"}).task
    assert shifted == LinearRegression(D, 2, 9, inputs="normal", noise_std=1.0)


def test_layers_are_examined_on_the_features_of_their_embedding():
    examined = load_examined("model", "sine_construction", {"task.n_context": "4"}, on_features=True)
    (member,) = examined.members
    assert (member.task.d_input, member.task.n_context, examined.task.d_input) == (39, 4, 1)
    assert member.predictor.layout.d_input == 39
    assert examined.task_in_words.endswith("; the layers are examined on the features of the embedding")


# --- what is refused ---

ZOO = "--model=one_layer_0"


def test_what_is_refused_is_said_in_one_line(file, tmp_path, capsys, monkeypatch):
    """Before anything is computed or written."""
    monkeypatch.setattr(command, "identify", None)
    other = tmp_path / "other"
    other.mkdir()
    (other / "report.html").write_text("my own")
    saved, run = tmp_path / "saved", tmp_path / "run"
    config = gpt2_config(D, 2 * N + 1, d_embed=4, n_layers=1, n_heads=1, d_read_out=1)
    Model(config, models.init(config, jax.random.key(0)), tokens.alternating(D, 1)).save(saved)
    unpacked("swept_together", run)
    mine = f"--predictor={file}"
    before = sorted(tmp_path.rglob("*"))
    for words, said in {
        (): "nothing to identify is given; give one of --workdir=DIR, --model=NAME_OR_DIR and --predictor",
        (ZOO, mine): "--model and --predictor are given; give one of",
        (ZOO, "--modle=x"): "--modle: unknown flag; did you mean --model?",
        (ZOO, "--members=1"): "did you mean --member?",
        (ZOO, "--task=linear"): "give one field at a time, such as --task.name=linear",
        (ZOO, "--json=maybe"): "--json=maybe: must be true or false",
        (ZOO, "--json", "--json=false"): "--json is given twice, as true and false; give it once",
        (ZOO, "--n_context=5"): "--n_context: unknown flag; did you mean --task.n_context?",
        (ZOO, "--seed=٣"): "--seed=٣: must be a whole number from 0",
        (ZOO, "--seed=-1"): "--seed=-1: must be a whole number from 0",
        (ZOO, "--seed=1", "--seed=2"): "--seed is given twice, as 1 and 2; give it once",
        (ZOO, "--member=1"): "--member=1: must be 0, because there is one member",
        (f"--workdir={run}", "--member=99"): "--member=99: must be a whole number from 0 to",
        (ZOO, "--out="): "--out is empty; give a directory",
        (ZOO, f"--out={file}"): "mine.py is a file; give a directory",
        (ZOO, f"--out={other}"): f"report.html is there and was not written by icl-gd identify; give another "
        f"directory, such as --out={other}/identify",
        (ZOO, f"--out={'a' * 300}"): "a...: no such path is possible (File name too long); give another path",
        ("--model=~no_such_user",): "--model=~no_such_user: the user does not exist; give another path",
        (ZOO, "--out=gs://bucket/x"): "object stores are neither read nor written",
        (ZOO, "--out=/proc/x"): "cannot write to /proc",
        ("one_layer_0",): "stray argument 'one_layer_0'; give a model as --model=one_layer_0",
        ("mine.py:ridge",): "give a function as --predictor=mine.py:ridge",
        ("--model",): "--model needs a value: --model=VALUE",
        ("--model=",): "--model is empty; give --model=NAME_OR_DIR",
        ("--model=one_layr_0",): "did you mean one_layer_0?",
        (f"--model={run}",): f"a run as --workdir={run}",
        (f"--workdir={saved}",): f"this is a saved model, not a run; give it as --model={saved}",
        (f"--workdir={other}",): "holds no checkpoints; give the workdir of a run",
        (ZOO, "--features"): "--features: the model has no embedding, so its features are its inputs; identify the",
        (f"{mine}:ridge", "--features"): "--features takes the layers of a model; give --model or --workdir",
        (ZOO, "--features=yes"): "--features=yes: must be true or false",
        (ZOO, "--task.d_input=5"): "task.d_input=5: the model has d_input=10; give --task.d_input=10",
        (ZOO, "--task.d_output=2"): "task.d_output=2: the model has d_output=1; give --task.d_output=1",
        (ZOO, "--task.n_contxt=5"): "--task.n_contxt: not a field of the task of this model; did you mean task.n_c",
        (ZOO, "--task.inputs=gauss"): "task.inputs=gauss must be one of uniform, normal",
        (ZOO, "--task.corrupted_labels=11"): "task.corrupted_labels=11 must be at most n_context=10",
        (f"--model={saved}", f"--task.n_context={N + 1}"): f"but the model has {2 * N + 1} positions; give "
        f"--task.n_context={N}",
        (mine,): "must be a file or module and a function",
        (f"--predictor={tmp_path}/mne.py:ridge",): "did you mean mine.py?",
        (f"{mine}:rige",): "has no function 'rige'; did you mean ridge?",
        (f"{mine}:number",): "number is no function but int",
        (f"{mine}:two",): "mine.py:two cannot be called with (x, y, x_query): too many positional arguments; give",
        (f"{mine}:nothing", *SIZE): "it returns NoneType; return y_hat [m], an array of m=1 real numbers",
        (f"{mine}:leaves", *SIZE): "it raises SystemExit (3); accept a prompt of this size",
        ("--predictor=..:f",): "--predictor=..:f: .. is no name of a module; give --predictor=MODULE:FUNCTION",
        (f"{mine}:ridge", "--task.pool=3"): "a verdict is reached on fresh prompts, without a pool; leave it out",
        (f"{mine}:ridge", "--task.name=affine", "--task.n_context=0"): "task.n_context=0: a verdict needs at least one",
        (f"{mine}:ridge", "--task.n_context=100000"): "2048 prompts with n_context=100000, d_input=10 and",
        ("--predictor=no_such_module:f",): "there is no module no_such_module; give an installed module",
        (f"{mine}:ridge", "--task.n_contxt=5"): "unknown field of task.name=linear; did you mean task.n_context?",
        (f"{mine}:ridge", "--config.task.n_context=0"): "task.n_context=0 must be a whole number of at least 1",
        (f"{mine}:ridge", "--task.n_context=5,10"): "give one value; there are no sweeps here",
        (f"{mine}:ridge", "--task.name=liner"): "task.name=liner: did you mean linear?",
        (f"{mine}:wide", *SIZE): f"for x [{N} {D}], y [{N} 1] and x_query [{D}], it returns an array [2]; return "
        "y_hat [1], or give the size that it takes by --task.d_input",
        (f"{mine}:labels", *SIZE): f"it returns an array [{N} 1]; return y_hat [1]",
        (f"{mine}:fails", *SIZE): "it raises KeyError ('w'); accept a prompt of this size",
        (f"{mine}:infinite", *SIZE): "inf; return finite numbers",
    }.items():  # fmt: skip
        assert command.main([str(word) for word in words]) == 2, words
        out, error = capsys.readouterr()
        assert out == ""
        assert error.count("\n") == 1, error
        assert error.startswith("error: ")
        assert said in error, (words, error)
    assert sorted(tmp_path.rglob("*")) == before


def test_rare_prompts_are_refused_too(file, capsys):
    """A prediction that is not finite for some prompts only."""
    assert command.main([f"--predictor={file}:sometimes", *SIZE]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert "mine.py:sometimes: the predictor returns nan" in error.splitlines()[-1]


def test_a_file_that_fails_or_lacks_a_package(tmp_path, capsys):
    for text, said in {
        "import no_such_package": "imports no_such_package, which is not installed: pip install no_such_package",
        "1 / 0": "cannot be imported (ZeroDivisionError: division by zero)",
        "def f(:": "cannot be imported (SyntaxError",
    }.items():
        (tmp_path / "broken.py").write_text(text)
        assert command.main([f"--predictor={tmp_path}/broken.py:f"]) == 2
        assert said in capsys.readouterr().err


def test_a_file_that_is_imported_leaves_no_bytecode(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beside_it.py").write_text("number = 1")
    (tmp_path / "that_imports.py").write_text("from beside_it import number")
    for where in ("that_imports.py", "that_imports"):
        assert command.main([f"--predictor={where}:number"]) == 2
    assert "number is no function but int" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["beside_it.py", "that_imports.py"]
    assert sys.dont_write_bytecode is False


def test_modules_of_the_current_directory(tmp_path, monkeypatch, capsys, answered):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "module_of_this_test.py").write_text(FUNCTIONS)
    found = json.loads(identified(["--predictor=module_of_this_test:ridge", "--json", *SIZE], capsys).out)
    assert found["subject"] == "module_of_this_test:ridge"
    assert answered[0][0].__name__ == "ridge"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; nothing was written"),
        (ValueError("odd"), 1, "error: ValueError: odd; nothing was written; ICL_GD_TRACEBACK=1 shows the traceback"),
    ],
)
def test_other_ends_have_their_exit_codes(file, tmp_path, capsys, monkeypatch, error, code, said):
    def fails(*_, **__):
        raise error

    monkeypatch.delenv("ICL_GD_TRACEBACK", raising=False)
    monkeypatch.setattr(command, "identify", fails)
    assert command.main([f"--predictor={file}:ridge", *SIZE, f"--out={tmp_path}/out"]) == code
    out, printed = capsys.readouterr()
    assert out == ""
    assert printed.splitlines()[-1] == said
    assert not (tmp_path / "out").exists()


def test_help_names_every_flag(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["icl-gd", "identify", "--help"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    said = capsys.readouterr().out
    assert all(flag in said for flag in command.FLAGS)
    monkeypatch.setattr("sys.argv", ["icl-gd", "identfy"])
    with pytest.raises(SystemExit, match="2"):
        cli.main()
    assert "did you mean identify?" in capsys.readouterr().err
