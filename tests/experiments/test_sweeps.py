"""A sweep equals its single runs: order, records, resume, messages."""

import json
import math
import signal
from pathlib import Path

import numpy as np
import pytest
from whole import ONE_LAYER, RATES, check_what_it_leaves, read  # from this directory

import icl_gd
from icl_gd.lab import pipeline
from icl_gd.lab.command_line import parse
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.resources import memory_needed
from icl_gd.lab.evaluation import pictures
from icl_gd.lab.lifecycle import monitor
from icl_gd.lab.reporting import results
from icl_gd.schema import OneOf, kinds, rules
from icl_gd.training import Interrupted, population

CONFIGS = Path(__file__).parents[2] / "configs"
WORDS = ("run", f"--config={CONFIGS}/one_layer.py:smoke", *ONE_LAYER)
# A network with modified attention; each modification has one value.
MODIFIED = [f"model.{name}" for name in ("alpha", "beta", "share", "augment_keys", "augment_values")]
MODELS = ["run", f"--config={CONFIGS}/generalisation_gap.py:smoke", *(f"--config.{name}=0.5" for name in MODIFIED)]
# Arguments that a sweep over a field needs to be consistent.
BESIDE = {
    "task.rotation_seed": ("--config.task.eigenvalues=(1,2)",),
    "model.layer_norm": ("--config.model.shared=true",),
    "train.momentum": ("--config.train.optimizer=sgd",),
}


def asked(workdir, *words):
    workdir.mkdir(exist_ok=True)
    return parse([*WORDS, f"--workdir={workdir}", *words])


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def same(ours, theirs, **tolerance):
    assert list(ours) == list(theirs)
    for name in ours:
        for part in ours[name]:
            a, b = (np.asarray(metrics[name][part], float) for metrics in (ours, theirs))
            np.testing.assert_allclose(a, b, err_msg=name, **tolerance)


def test_a_population_of_combinations_is_its_runs(swept, tmp_path):
    done = read(swept)
    assert done["metrics"] == {}
    assert [point["fields"] for point in done["sweep"]] == [{"train.learning_rate": rate} for rate in RATES]
    for rate, point in zip(RATES, done["sweep"], strict=True):
        one = asked(tmp_path / str(rate), f"--config.train.learning_rate={rate}")
        alone = pipeline.measure(one.experiment, one.workdir, monitor.Stop())
        same(point["metrics"], alone["metrics"], rtol=1e-5, atol=1e-6)
    line = done["curves"]["loss_trained_by_learning_rate"]
    assert line["x"] == list(RATES)
    assert line["mean"] == [point["metrics"]["loss_trained"]["mean"] for point in done["sweep"]]
    assert line["mean"][0] != pytest.approx(line["mean"][1], rel=1e-2)
    assert {path.name for path in (swept / "figures").iterdir()} == {"01_sweep.png", "01_sweep.pdf"}
    assert icl_gd.load(swept).swept == tuple({"learning_rate": rate} for rate in RATES)


def test_a_sweep_goes_on_where_it_was_stopped(swept, tmp_path, capsys):
    def asks():
        return asked(tmp_path, f"--config.train.learning_rate={','.join(map(str, RATES))}")

    stop = monitor.Stop()
    stop.signal = signal.SIGTERM
    with pytest.raises(Interrupted):
        pipeline.carry_out(asks(), stop)
    pipeline.carry_out(asks(), monitor.Stop())
    assert "resuming training from step 5" in capsys.readouterr().out
    assert lines(tmp_path) == lines(swept)
    assert read(tmp_path)["sweep"] == read(swept)["sweep"]
    for rate in RATES:
        history = monitor.read_history(tmp_path, fields={"train.learning_rate": rate})["loss_trained"]
        assert {step: list(seeds) for step, seeds in history.items()} == {step: [0, 1] for step in (5, 10, 15, 20)}
    assert monitor.read_history(tmp_path) == {}


def test_what_a_run_leaves(swept):
    check_what_it_leaves(swept)


def test_sizes_and_rates_multiply(tmp_path, capsys):
    """Without training: there is one population per combination of sizes, and each has all values of the clip."""
    run = asked(tmp_path, "--config.train.clip=1,0.1", "--config.task.n_context=2,3", "--config.train.batch_size=(8,)")
    found = []

    def one(its, workdir, stop, label, seconds):
        found.append((label, *(its[name] for name in ("task.n_context", "train.batch_size", "train.clip"))))
        value = {"loss_trained": results.metric([its.task.n_context, 1.0]), "loss_gd": results.metric(1.0)}
        return {"sweep": [{"fields": fields, "metrics": value} for fields in its.combinations()]}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pipeline, "measure", one)
        pipeline.carry_out(run, monitor.Stop())
    assert found == [("n_context=2,batch_size=8", 2, 8, (1, 0.1)), ("n_context=3,batch_size=8", 3, 8, (1, 0.1))]
    said = capsys.readouterr().out
    assert "task.n_context, train.batch_size: 2 x 1 populations, one after another" in said
    assert "train.clip: 2 combinations, 2 seeds each: 4 members in one population" in said
    done = json.loads((tmp_path / "results.json").read_text())
    fields = {"task.n_context": 3, "train.batch_size": 8, "train.clip": 0.1}
    assert [point["fields"] for point in done["sweep"]][-1] == fields
    assert len(done["sweep"]) == 4
    assert (done["metrics"], done["curves"]) == ({}, {})
    name = "loss_trained[task.n_context=3,train.batch_size=8,train.clip=0.1]"
    assert results.lookup(done, name) == 2.0
    assert results.lookup(done, name, "max") == 3.0
    with pytest.raises(KeyError):
        results.lookup(done, "loss_trained[task.n_context=4]")


def test_a_claim_may_be_about_the_interval_of_a_mean():
    """The interval uses Student's t, which is 2.776 for four degrees of freedom."""
    seeds = [1.0, 2.0, 3.0, 4.0, 5.0]
    done = {"metrics": {"loss": {"mean": 3.0, "per_seed": seeds}, "one": {"mean": 3.0, "per_seed": [3.0]}}}
    reach = 2.776 * (2.5 / 5) ** 0.5
    assert results.lookup(done, "loss", "upper") == pytest.approx(3.0 + reach, rel=1e-3)
    assert results.lookup(done, "loss", "lower") == pytest.approx(3.0 - reach, rel=1e-3)
    assert math.isnan(results.lookup(done, "one", "upper"))


@pytest.mark.parametrize("changed", [False, True])
def test_combinations_stand_in_the_order_of_members(changed):
    together = [name for name, its in parse([*MODELS]).experiment.fields.items() if its.per_member]
    fields = [name for name in together if name not in ([] if changed else MODIFIED)]
    others = {"train.momentum", *(["train.weight_decay"] if changed else [])}  # fields that other settings exclude
    fields = [name for name in fields if name not in others]
    base = [*MODELS, "--config.train.weight_decay=0"] if changed else WORDS
    experiment = parse([*base, *(f"--config.{field}=0.1,0.2" for field in reversed(fields))]).experiment
    theirs = population.combinations(experiment.settings, experiment.network.per_member)
    ours = [
        {experiment.fields[name].path[-1]: value for name, value in point.items()}
        for point in experiment.combinations()
    ]
    assert [{name: value for name, value in point.items() if name in ours[0]} for point in theirs] == ours
    assert len(theirs) == 2 ** len(fields)
    single = parse([*WORDS]).experiment
    assert memory_needed(experiment) > memory_needed(single)
    assert (single.combinations(), sweeps.describe(single)) == ([{}], "")
    assert [fields for fields, _ in single.populations()] == [{}]


def two_values(name, its):
    """Two values that a field accepts."""
    words = [word for rule in rules(its.hint) if isinstance(rule, OneOf) for word in rule.words]
    within_one = name in MODIFIED or name in ("train.beta1", "train.beta2", "train.momentum")
    of_kind = {bool: (False, True), str: tuple(words[:2]) or ("runs/a", "runs/b")}
    number = (0.25, 0.5) if within_one else (1, 2)
    return next((values for kind, values in of_kind.items() if kind in kinds(its.hint)), number)


def test_every_field_of_one_value_is_swept_over_in_any_spelling(tmp_path):
    of_models = [*MODIFIED, "task.name", "model.style"]
    linear, modified = (parse([*words, "--config.analyses=()"]).experiment for words in (WORDS, MODELS))
    assert {"task.n_context", "train.steps", "model.n_heads", "train.learning_rate", "task.inputs"} < {
        *linear.sweepable
    }
    assert not {"train.log_every", "eval.prompts", "seeds", "model.attention"} & {*linear.sweepable}
    assert {*modified.sweepable} >= {*of_models}
    for name in {*linear.sweepable, *modified.sweepable}:
        words, experiment = (MODELS, modified) if name in of_models else (WORDS, linear)
        its = experiment.fields[name]
        values = two_values(name, its)
        bare = [",".join(map(str, values))] * (name != "train.start")  # a path may contain commas
        for spelt in (str(values), *bare):
            beside = ("--config.analyses=()", *BESIDE.get(name, ()))
            swept = parse([*words, *beside, f"--config.{name}={spelt}"]).experiment
            assert swept[name] == values, name
            assert (len(swept.combinations()), len(swept.populations())) == ((2, 1) if its.per_member else (1, 2)), name
            assert its.per_member or [one[name] for _, one in swept.populations()] == list(values)
            assert "/" not in sweeps.label(swept.populations()[0][0])  # the label is a directory name


def test_the_last_one_given_counts():
    context = f"--config={CONFIGS}/context_sweep.py"
    assert parse(["run", context, "--config.task.n_context=20"]).experiment["task.n_context"] == 20
    assert parse(["run", context, "--config.task.n_context=5,10"]).overridden == ("task.n_context",)
    words = ["--config.train.clip=(1,2)", "--config.train.clip=0.5"]
    assert parse([*WORDS, *words]).experiment["train.clip"] == 0.5
    assert parse([*WORDS, *reversed(words)]).experiment["train.clip"] == (1, 2)
    lists = ["--config.analyses=weights", "--config.analyses=alignment,weights"]
    assert parse([*WORDS, *lists]).experiment.analysis_names == ("alignment", "weights")
    assert parse([*WORDS, *reversed(lists)]).experiment.analysis_names == ("weights",)
    with pytest.raises(ConfigError, match=r"train.clip=a must be a number above 0, or None"):
        parse([*WORDS, "--config.train.clip=(1,2)", "--config.train.clip=a"])


@pytest.mark.parametrize(
    "swept",
    [
        {"task.inputs": ("uniform", "normal")},
        {"train.weight_decay": (0.0, 0.1)},
        {"train.clip": (0.1, 1.0), "task.noise_std": (0.0, 0.5)},
    ],
)
def test_a_figure_of_any_sweep(swept, tmp_path):
    names, points = list(swept), [[]]
    for values in swept.values():
        points = [[*point, value] for point in points for value in values]
    metrics = {"loss_trained": results.metric([0.3, 0.4]), "loss_gd": results.metric(0.2)}
    metrics |= {"loss_optimal": results.metric(0.1)} if "task.inputs" not in swept else {}
    sweep = [{"fields": dict(zip(names, point, strict=True)), "metrics": metrics} for point in points]
    (tmp_path / "figures").mkdir()
    for name in ("07_sweep.png", "07_mine.png"):  # a figure numbered by an older version, and a file of the user
        (tmp_path / "figures" / name).touch()
    pictures.draw({"curves": {}, "arrays": {}, "metrics": {}, "sweep": sweep}, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"01_sweep.png", "01_sweep.pdf", "07_mine.png"}


def test_figures_of_modified_attention_need_no_sweep_over_tasks(tmp_path):
    done = json.loads((CONFIGS.parent / "results" / "attention_variants" / "results.json").read_text(encoding="utf-8"))
    done["sweep"] = [point for point in done["sweep"] if point["fields"].pop("task.name") == "linear"]
    pictures.draw(done, tmp_path / "figures")
    assert {path.name for path in (tmp_path / "figures").glob("*.png")} == {"01_variants.png", "02_every_variant.png"}


def test_frozen_members_are_named_once(tmp_path, capsys):
    points = [{"train.learning_rate": rate} for rate in RATES]
    screen = monitor.Monitor(tmp_path, 10, 5, "n_context=3", points)
    for diverged_at in ([-1, -1, -1, -1], [-1, -1, -1, 7], [9, -1, -1, 7]):
        screen.warn(np.array(diverged_at))
    screen.write(10, {"training_loss": np.array([1.0, 2.0, 3.0, np.nan])})
    screen.close()
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        f"warning: seed {seed} of n_context=3,learning_rate={rate} diverged at step {step}; its weights stay as they "
        "were before that step"
        for seed, rate, step in ((6, 0.1, 7), (5, 0.01, 9))
    ]
    assert "training_loss 2" in out
    assert [(line["seed"], line["fields"]["train.learning_rate"], line["value"]) for line in lines(tmp_path)] == [
        (5, 0.01, 1.0),
        (6, 0.01, 2.0),
        (5, 0.1, 3.0),
        (6, 0.1, None),
    ]
