"""Whole runs in the tests' process, from command line to report, and what every one of them leaves."""

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
# The words of runs whose tests ask for them again, beside a config's smoke variant.
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
    """A run sets JAX for its process, which is the tests' own."""
    before = {name: jax.config.values[name] for name in SETTINGS}
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def complete(name, workdir, *more):
    """Runs a config's smoke variant; what fails is raised where it fails."""
    words = ["run", f"--config={ROOT}/configs/{name}.py:smoke", f"--workdir={workdir}", *more]
    with kept_settings(), mock.patch.dict(os.environ, ICL_GD_TRACEBACK="1"):
        assert command.main(words) == 0
    return workdir


def read(workdir):
    return json.loads((workdir / "results.json").read_text())


def check_what_it_leaves(workdir):
    """Metrics of every seed, watched to the last step; every figure twice, and in a page that stands alone."""
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
        assert len(set(trained)) == config["seeds"]  # each trained by itself
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
    """A finished run is not measured again; what is drawn of it is drawn anew, as it was."""
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
    """What the claims of a config's full runs speak of, smoke runs measure: metrics and curves, not their points.

    Of full runs that ask for no more than the smoke run does: the same kind of model, families, baselines and sweep.
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
        if asked(experiment) == asked(smoke) and set(experiment.asked) <= set(smoke.asked):
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
    """A smoke run, and its figures drawn again; its programs are forgotten, of which a process has room for some."""
    try:
        complete(name, workdir)
        check_what_it_leaves(workdir)
        check_what_is_claimed(name, read(workdir))
        capsys.readouterr()
        check_redrawn(workdir, lambda: complete(name, workdir))
        assert "holds a finished run; drawing" in capsys.readouterr().out
    finally:
        programs.forget()


class Links(HTMLParser):
    """All that a page refers to."""

    def __init__(self, text):
        super().__init__()
        self.links, self.text = [], text
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
