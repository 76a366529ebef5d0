"""The zoo: every card is true of its model; the script that writes them repeats itself and refuses what is wrong."""

import dataclasses
import json
import subprocess
import sys
import zipfile
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icl_gd
from experiments import zoo as script
from icl_gd import analysis, learners, models, paths, tasks, zoo
from icl_gd.analysis.risk import predictions
from icl_gd.lab import command
from icl_gd.lab.config.errors import ConfigError
from icl_gd.zoo import command as shown
from icl_gd.zoo import library
from icl_gd.zoo.cards import CLASSES, Card, decode_task, encode_task

ROOT = Path(icl_gd.__file__).parents[1]
NAMES = zoo.names()
TRAINED = [name for name, one in script.MODELS.items() if isinstance(one, script.Trained)]
BUILT = [name for name in NAMES if name not in TRAINED]
PROMPTS = {False: 8192, True: 1024}  # by whether the model is causal
KEY = 1_000_000


@cache
def card(name):
    return zoo.card(name)


@cache
def loaded(name):
    return zoo.load(name)


@cache
def prompts(name, prefixes=False):
    task = zoo.task(name)
    draw = task.sample_prefixes if prefixes else task.sample
    return tasks.draw_prompts(draw, jax.random.key(KEY), PROMPTS[loaded(name).config.causal])


def test_the_zoo_has_sixteen_trained_members_and_their_constructions():
    assert len(TRAINED) == 16
    assert set(NAMES) == set(script.MODELS)
    beside = {one.construction for name, one in script.MODELS.items() if name in TRAINED} - {None}
    assert beside == set(script.MODELS) - set(TRAINED)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_is_that_of_its_model(name):
    directory, one = library.DATA / name, card(name)
    sizes = [path.stat().st_size for path in directory.iterdir()]
    assert len(sizes) == 3
    assert sum(sizes) <= 1_000_000
    assert one.name == name
    assert one.sha256 == library.checksum(directory / "model.safetensors")
    assert (one.about, one.config) == (script.MODELS[name].about, script.MODELS[name].config)
    assert one.about.endswith(".")
    assert one.command == f"python -m experiments.run --config=configs/{one.config}.py" + (
        f":{one.variant}" if one.variant else ""
    )
    assert one.claims or name in BUILT  # some runs claim nothing about constructions
    assert all(isinstance(claim["holds"], bool) for claim in one.claims)
    assert (one.rates is None) == (name in TRAINED)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded(name))} == {jnp.dtype(jnp.float32)}
    assert (zoo.task(name).d_input, zoo.task(name).d_output) == (
        loaded(name).layout.d_input,
        loaded(name).layout.d_output,
    )
    assert Card.from_json(json.loads(json.dumps(one.to_json()))) == one
    assert one.sha256 in str(one)


def test_the_zoo_is_small():
    assert sum(path.stat().st_size for path in library.DATA.rglob("*") if path.is_file()) <= 6_000_000


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_of_a_card_is_that_of_its_model_on_fresh_prompts(name):
    drawn, one = prompts(name), card(name)
    losses = np.asarray(analysis.losses(loaded(name), drawn), np.float64)
    assert np.isfinite(losses).all()
    zero = 0.5 * np.square(np.asarray(drawn.y_query, np.float64)).sum(-1).mean()
    losses = losses[losses <= 100 * zero]
    assert len(losses) >= 0.99 * PROMPTS[loaded(name).config.causal]
    close(losses, one.loss)


@pytest.mark.parametrize("name", [name for name in NAMES if card(name).normalised_error is not None])
def test_the_error_of_a_card_is_that_of_its_model_on_fresh_prompts(name):
    task, drawn = zoo.task(name), prompts(name, prefixes=True)
    y_hat = jax.jit(jax.vmap(loaded(name).prefix))(drawn.x, drawn.y)
    errors = np.square(np.asarray(y_hat - drawn.y_query, np.float64)).sum(-1) / task.label_variance
    close(errors.mean(1), card(name).normalised_error)


def close(values, estimate):
    """The mean of values is an estimate, within four standard errors and the rounding of a card."""
    stderr = np.hypot(values.std() / len(values) ** 0.5, estimate.stderr)
    assert abs(values.mean() - estimate.mean) <= 4 * stderr + 1e-5 * estimate.mean
    ratio = estimate.stderr / (values.std() / estimate.prompts**0.5)
    assert 1 / 3 <= ratio <= 3  # losses of few prompts have a heavy tail


@pytest.mark.parametrize("name", BUILT)
def test_a_construction_is_the_learner_of_its_card(name, x64):
    """In float64, in which only the rates are rounded: rates of five steps magnify rounding ten thousand times."""
    few = jax.tree.map(lambda leaf: leaf[:64], prompts(name))
    model, drawn = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), (loaded(name), few))
    rates = card(name).rates
    if model.config.d_embed is not None:
        embed = models.features(model.config, model.params, model.layout.d_output)
        learner = learners.deep_gradient_descent(embed, rates["step_sizes"])
    elif "gammas" in rates:
        learner = learners.gd_plus_plus(**rates)
    else:
        learner = learners.gradient_descent(rates["step_sizes"])
    two_learners = model.predictor, learner
    y_hat, expected = map(np.asarray, jax.jit(lambda drawn: [predictions(one, drawn) for one in two_learners])(drawn))
    assert y_hat.dtype == np.float64
    np.testing.assert_allclose(y_hat, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "task",
    [
        tasks.LinearRegression(d_input=2, covariance=((1.0, 0.5), (0.5, 2.0))),
        tasks.SineRegression(n_context=3),
        tasks.FunctionRegression(tasks.DecisionTree(3, 2), noise_std=0.5),
        tasks.ElementwiseRegression(d_input=2),
    ],
    ids=lambda task: type(task).__name__,
)
def test_a_task_is_that_of_its_content(task):
    content = json.loads(json.dumps(encode_task(task)))
    assert decode_task(content) == task
    assert set(CLASSES) >= {type(task).__name__}
    with pytest.raises(ValueError, match="no task; give one of LinearRegression"):
        decode_task({**content, "type": "Regression"})
    with pytest.raises(ValueError, match="unexpected keyword argument 'd_inputs'"):
        decode_task({**content, "d_inputs": 2})


# --- loading ---


def test_a_model_is_loaded_by_name_or_from_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = icl_gd.load_model("one_layer_0")
    for source in ("mine", "./mine", tmp_path / "mine", Path("one_layer_1")):
        model.save(source)
        again = icl_gd.load_model(source)
        assert again.config == model.config
        assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again.params, model.params))
    with pytest.raises(ValueError, match=r"'one_layer_1' is a model of the zoo and a path here; .* './one_layer_1'"):
        icl_gd.load_model("one_layer_1")
    assert icl_gd.load_model("./one_layer_1").config == model.config


@pytest.mark.parametrize(
    ("load", "name", "error", "message"),
    [
        (icl_gd.load_model, "two_layer", FileNotFoundError, "'two_layer' is no directory here.*mean 'two_layers'"),
        (icl_gd.load_model, "./two_layers", FileNotFoundError, "two_layers has no config.json"),
        (icl_gd.load_model, Path("two_layers"), FileNotFoundError, "two_layers has no config.json"),
        (icl_gd.load_model, "gs://bucket", ValueError, "object stores"),
        (zoo.load, "two_layer", ValueError, "the zoo has no model 'two_layer'; did you mean 'two_layers'"),
        (zoo.load, "../zoo/data/two_layers", ValueError, "the zoo has no model"),
        (zoo.card, "", ValueError, "the zoo has no model ''"),
        (zoo.task, "sines", ValueError, "did you mean 'sine'"),
    ],
)
def test_an_unknown_name_is_refused(load, name, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load(name)


def test_a_damaged_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "DATA", tmp_path)
    files = {path.name: path.read_bytes() for path in (ROOT / "icl_gd/zoo/data/one_layer_0").iterdir()}
    assert script.write(tmp_path / "mine", files)
    assert zoo.names() == ("mine",)
    zoo.load("mine")
    weights = tmp_path / "mine" / "model.safetensors"
    weights.write_bytes(files["model.safetensors"][:-1] + b"\1")
    with pytest.raises(ValueError, match="is not the file of its card"):
        zoo.load("mine")
    content = json.loads(files["card.json"])
    for wrong in ({**content, "los": 1}, {key: content[key] for key in content if key != "loss"}):
        (tmp_path / "mine" / "card.json").write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"entries loss? of the card are missing or unknown"):
            zoo.card("mine")


def test_the_command_lists_models_and_prints_cards(capsys):
    assert shown.main() == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in listed] == [[name, f"{card(name).loss.mean:.4g}"] for name in NAMES]
    assert shown.main(["sine"]) == 0
    assert capsys.readouterr().out == f"{card('sine')}\n"
    assert shown.main(["--help"]) == 0
    assert "icl-gd zoo one_layer_0" in capsys.readouterr().out
    for words, message in ((["sin"], "did you mean 'sine'"), (["sine", "sine"], "takes one name")):
        assert shown.main(words) == 2
        assert message in capsys.readouterr().err


# --- writing ---


def test_the_rules_choose_members():
    losses, free = np.array([0.9, 0.8, 0.1, 0.2, 0.3]), np.array([False, False, True, True, True])
    rules = (script.median, script.best, script.worst, partial(script.first, 0), partial(script.first, 2))
    assert [rule(losses, free)[0] for rule in rules] == [3, 2, 0, 2, 4]
    assert script.median(losses, np.zeros(5, bool))[0] == 4
    assert "none of which is free" in script.median(losses, np.zeros(5, bool))[1]
    with pytest.raises(ConfigError, match="3 free members, but 4 are needed"):
        script.first(3, losses, free)


def test_a_model_that_is_too_large_is_refused(tmp_path):
    data = tmp_path / "data"
    script.write(data / "old", {"card.json": b"0" * 10**6})
    script.check_sizes({"old": {"card.json": b"0"}, **{f"{i}": {"a": b"0" * 10**6} for i in range(5)}}, data)
    with pytest.raises(script.Refused, match="all models have 6,000,001 bytes"):
        script.check_sizes({"new": {"a": b"0"}, **{f"{i}": {"a": b"0" * 10**6} for i in range(5)}}, data)
    with pytest.raises(script.Refused, match="new has 1,000,001 bytes"):
        script.check_sizes({"new": {"a": b"0" * 10**6, "b": b"0"}}, data)


def test_a_model_whose_writing_is_cut_off_is_not_in_the_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "DATA", tmp_path)
    files = {path.name: path.read_bytes() for path in (ROOT / "icl_gd/zoo/data/one_layer_0").iterdir()}
    files = {name: files[name] for name in sorted(files, reverse=True)}  # the card is the last, as the script has it
    assert script.write(tmp_path / "mine", files)
    assert not script.write(tmp_path / "mine", files)

    def full_disk(*paths):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(paths.os, "replace", full_disk)
        with pytest.raises(OSError, match="no space left"):
            script.write(tmp_path / "mine", {**files, "model.safetensors": b""})
    assert zoo.names() == ()
    script.write(tmp_path / "mine", files)
    assert zoo.names() == ("mine",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["two_layers"], "two_layers: there is no such workdir; run python -m experiments.run"),
        (["one_layer_0"], "one_layer holds no finished run; run python -m experiments.run"),
        (["sine"], "sine is not a run of configs/sine.py: "),
        ([], "one_layer holds no finished run"),
        (["sines"], "sines: the zoo has no such model; did you mean sine?"),
    ],
)
def test_what_cannot_be_written_is_refused_in_one_sentence(words, message, tmp_path, capsys):
    (tmp_path / "one_layer").mkdir()
    (tmp_path / "sine").mkdir()
    for name in ("results.json", "config.json"):
        (tmp_path / "sine" / name).write_text("{}")
    assert script.main([str(tmp_path), *words], tmp_path / "data") == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert message in said.err
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_the_script_repeats_itself_and_keeps_verdicts(tmp_path, capsys, monkeypatch):
    assert command.main(["run", "--config=one_layer:smoke", f"--workdir={tmp_path / 'one_layer-smoke'}"]) == 0
    chosen = {"one_layer_trapped": "mine", ONE: ONE} if (ONE := script.ONE_STEP) else {}
    models_of_test = {new: dataclasses.replace(script.MODELS[old], variant="smoke") for old, new in chosen.items()}
    monkeypatch.setattr(script, "MODELS", models_of_test)
    monkeypatch.setattr(script, "PROMPTS", {False: 4096})
    data, card_of_mine = tmp_path / "data", tmp_path / "data" / "mine" / "card.json"

    def written():
        capsys.readouterr()
        assert script.main([str(tmp_path)], data) == 0
        said = capsys.readouterr().out.splitlines()[len(models_of_test) :]
        files = [path for path in sorted(data.rglob("*")) if path.is_file()]
        assert len(files) == 3 * len(models_of_test)
        return [line.split()[0] for line in said], [(path.read_bytes(), path.stat().st_mtime_ns) for path in files]

    first, second = written(), written()
    assert (first[0], second) == (["wrote", "wrote"], (["unchanged:", "unchanged:"], first[1]))
    done = json.loads((tmp_path / "one_layer-smoke" / "results.json").read_text())
    losses, content = done["metrics"]["loss_trained"]["per_seed"], json.loads(card_of_mine.read_text())
    assert content["member"] == int(np.argmax(losses))
    assert (content["steps"], content["seed"]) == (20, content["member"])
    np.testing.assert_allclose(content["loss"]["mean"], max(losses), rtol=0.15)

    content["verdict"] = {"sentence": "None."}
    card_of_mine.write_text(json.dumps(content))
    written()
    assert json.loads(card_of_mine.read_text())["verdict"] == {"sentence": "None."}
    content["sha256"] = "0" * 64  # as if the weights had been others
    card_of_mine.write_text(json.dumps(content))
    written()
    assert json.loads(card_of_mine.read_text())["verdict"] is None

    # A member that is not the run's has another loss.
    monkeypatch.setattr(script, "SHARE", 0.0)
    monkeypatch.setattr(script, "STDERRS", 0.0)
    assert script.main([str(tmp_path), "mine"], data) == 1
    assert "mine: the loss is" in capsys.readouterr().err


@pytest.mark.slow
def test_a_wheel_contains_the_zoo(tmp_path):
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("icl_gd/zoo/data/")}
    files = ("card.json", "config.json", "model.safetensors")
    assert inside == {f"icl_gd/zoo/data/{name}/{file}" for name in NAMES for file in files}
