"""Runs experiments in the process of the tests, from command line to report, and checks the files that a run leaves."""

import ast
import base64
import contextlib
import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from unittest import mock

import jax

from icl_gd import programs
from icl_gd.lab import command, command_line
from icl_gd.lab.evaluation import pictures

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
OF_FUNCTIONS = {"normalised_error", "normalised_error_untrained"}
OF_OTHERS = {"loss_trained", "loss_untrained", "loss_gd", "loss_zero", "step_size_gd"}
# Arguments of runs that several tests use, in addition to a config's smoke variant.
SINE = (
    "--config.task.n_context=3",
    "--config.train.steps=4",
    "--config.train.batch_size=8",
    "--config.train.log_every=2",
    "--config.train.checkpoint_every=2",
    "--config.eval.prompts=32",
    "--config.eval.curve_prompts=16",
    "--config.model.d_embed=4",
    "--config.model.input_mlp_width=5",
    "--config.model.init_scale=1.0",
)
ONE_LAYER = (
    "--config.task.d_input=2",
    "--config.task.n_context=3",
    "--config.train.batch_size=16",
    "--config.train.log_every=5",
    "--config.eval.prompts=64",
    "--config.eval.curve_prompts=32",
    "--config.analyses=('alignment',)",
    "--config.model.init_scale=1.0",
    "--config.train.checkpoint_every=5",
)
RATES = 1e-2, 0.1
FUNCTIONS = (
    "--config.task.d_input=2",
    "--config.task.n_context=4",
    "--config.model.d_embed=8",
    "--config.model.n_layers=1",
    "--config.train.steps=4",
    "--config.train.batch_size=8",
    "--config.train.log_every=2",
    "--config.eval.prompts=64",
    "--config.eval.curve_prompts=16",
    "--config.eval.suite_values=None",
)
FAMILIES = (
    "--config.eval.suite=standard,orthogonal_query,labels_double",
    "--config.eval.baselines=least_squares,lasso,tree_4",
)
SETTINGS = ("jax_enable_x64", "jax_default_matmul_precision", "jax_disable_most_optimizations")


@contextlib.contextmanager
def kept_settings():
    """Restores the JAX settings that a run changes, because it shares the process with the tests."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def complete(name, workdir, *more):
    """Runs the smoke variant of a config, and raises exceptions where they occur. Returns the workdir."""
    words = ["run", f"--config={ROOT}/configs/{name}.py:smoke", f"--workdir={workdir}", *more]
    with kept_settings(), mock.patch.dict(os.environ, ICL_GD_TRACEBACK="1"):
        assert command.main(words) == 0
    return workdir


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


def check_what_it_leaves(workdir):
    """Checks the metrics of every seed up to the last step, both files of every figure, and a self-contained report."""
    done, config = read(workdir), json.loads((workdir / "config.json").read_text())["config"]
    assert done["claims"] == []
    of_reference = OF_FUNCTIONS if config["reference"]["name"] == "prefix_learners" else OF_OTHERS
    for metrics in (done["metrics"] and [done["metrics"]]) or [point["metrics"] for point in done["sweep"]]:
        assert {"seeds_trapped"} | of_reference <= set(metrics)
        for name, metric in metrics.items():
            assert set(metric) == {"mean", "std", "stderr", "per_seed"}
            most = 0 if name.endswith(("_untrapped", "_trapped")) and name != "seeds_trapped" else 1
            assert most <= len(metric["per_seed"]) <= config["seeds"], name
        for name in of_reference - {"step_size_gd"}:
            assert all(value is not None and value > 0.0 for value in metrics[name]["per_seed"]), name
        assert 0 <= metrics["seeds_trapped"]["mean"] <= config["seeds"]
        assert metrics["seeds_diverged"]["mean"] == 0
        trained = metrics["normalised_error" if of_reference is OF_FUNCTIONS else "loss_trained"]["per_seed"]
        assert len(set(trained)) == config["seeds"]  # the seeds differ
        if of_reference is OF_OTHERS:
            assert metrics["loss_gd"]["mean"] < metrics["loss_zero"]["mean"]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines) == config["train"]["steps"] == done["steps"]
    assert {line["seed"] for line in lines} == set(range(config["seeds"]))
    assert all(line["value"] is not None and math.isfinite(line["value"]) for line in lines)
    assert list(workdir.rglob("events.out.tfevents*"))

    stems = sorted(pictures.captions(done))
    assert stems
    found = sorted(path.name for path in (workdir / "figures").iterdir())
    assert found == sorted(f"{stem}.{ending}" for stem in stems for ending in ("pdf", "png"))
    assert all((workdir / "figures" / f"{stem}.pdf").read_bytes()[:5] == b"%PDF-" for stem in stems)
    page = Links((workdir / "report.html").read_text())
    shown = [base64.b64decode(link.removeprefix("data:image/png;base64,"), validate=True) for link in page.links]
    assert sorted(shown) == sorted((workdir / "figures" / f"{stem}.png").read_bytes() for stem in stems)
    assert not re.search(r"url\(|@import", page.text)


def check_redrawn(workdir, again):
    """Checks that repeating a finished run measures nothing, and redraws figures and report identically."""
    results, report = workdir / "results.json", workdir / "report.html"
    pngs = {path: path.read_bytes() for path in (workdir / "figures").glob("*.png")}
    before, page = results.read_bytes(), report.read_text()
    report.unlink()
    next(iter(pngs)).unlink()
    again()
    assert results.read_bytes() == before
    assert {path: path.read_bytes() for path in (workdir / "figures").glob("*.png")} == pngs
    assert report.read_text() == page


def check_what_is_claimed(name, done):
    """Checks that the smoke run measures all metrics and curves that claims of the full runs are about.

    Only those full runs are checked that have the model, distributions, baselines and sweep of the smoke run, and no
    further analyses.
    """
    sections = [done["metrics"], done["curves"], *(point["metrics"] for point in done["sweep"])]
    measured, smoke = set().union(*sections), loaded(name, "smoke")

    def families(experiment):
        return set((experiment.get("eval.suite") or ())[: experiment.eval.suite_values])

    def asked(experiment):
        return (
            experiment.model.name,
            experiment["model.attention"],
            families(experiment),
            set(experiment.get("eval.baselines") or ()),
            set(experiment.sweep),
        )

    for variant in full_variants(name):
        experiment = loaded(name, variant)
        if asked(experiment) == asked(smoke) and set(experiment.analysis_names) <= set(smoke.analysis_names):
            missing = {claim.measured for claim in experiment.claims} - measured
            assert not missing, (variant, missing)
    assert all(map(smoke.is_measured, measured)), [name for name in measured if not smoke.is_measured(name)]


def loaded(name, variant):
    return command_line.load(ROOT / "configs" / f"{name}.py", variant)


def full_variants(name):
    tree = ast.parse((ROOT / "configs" / f"{name}.py").read_text())
    named = {ast.unparse(node.targets[0]): node.value for node in tree.body if isinstance(node, ast.Assign)}
    variants = ast.literal_eval(named["VARIANTS"]) if "VARIANTS" in named else ()
    return ["", *(variant for variant in variants if variant != "smoke")]


def check_smoke(name, workdir, capsys):
    """Runs, checks and redraws a smoke variant. Drops its programs, because a process can hold only so many."""
    try:
        complete(name, workdir)
        check_what_it_leaves(workdir)
        check_what_is_claimed(name, read(workdir))
        capsys.readouterr()
        check_redrawn(workdir, lambda: complete(name, workdir))
        assert "holds a finished run; drawing" in capsys.readouterr().out
    finally:
        programs.clear_caches()


class Links(HTMLParser):
    """The links of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.links, self.text = [], text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
