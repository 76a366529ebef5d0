"""Tests of the README: its code and commands run, and its tables match the results."""

import re
from pathlib import Path

import numpy as np
import pytest

from experiments import publish
from icl_gd.lab import command_line

ROOT = Path(__file__).parents[2]
PAGES = "README.md", "docs/guide.md", "CONTRIBUTING.md", "docs/architecture.md", "docs/results.md"
README = (ROOT / "README.md").read_text(encoding="utf-8")


def fenced(page):
    """The code blocks of a page, as (language, text)."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def run(page, directory, monkeypatch):
    """Runs the Python blocks of a page in order. Returns their namespace."""
    monkeypatch.chdir(directory)
    namespace: dict = {"__name__": "page"}
    for language, block in fenced(page):
        if language == "python":
            exec(compile(block, page, "exec"), namespace)
    return namespace


def test_the_code_of_the_readme_runs(capsys, tmp_path, monkeypatch):
    names = run("README.md", tmp_path, monkeypatch)
    np.testing.assert_allclose(names["same"], (1.0, 0.0, 0.0), atol=1e-5)
    assert "Interval(mean=" in capsys.readouterr().out
    assert len([language for language, _ in fenced("README.md") if language == "python"]) == 7


@pytest.mark.slow
def test_the_code_of_the_guide_runs(tmp_path, monkeypatch):
    names = run("docs/guide.md", tmp_path, monkeypatch)
    assert [its["step"] for its in names["over_training"].swept] == [0, 10, 20, 30, 40, 50]
    assert names["losses"].shape == (12,)


def test_the_readme_gives_results_in_ten_lines():
    block = README.partition(publish.BEGIN)[2].partition(publish.END)[0]
    assert len(block.strip().splitlines()) <= 10


@pytest.mark.parametrize("variant", ["", "smoke"])
def test_the_config_is_one_that_a_run_accepts(variant, tmp_path):
    (block,) = (block for _, block in fenced("README.md") if "def get_config" in block)
    (tmp_path / "mine.py").write_text(block)
    config = f"--config={tmp_path}/mine.py" + f":{variant}" * bool(variant)
    experiment = command_line.parse(["run", config, f"--workdir={tmp_path}/run"]).experiment
    assert experiment["task.n_context"] == 20
    assert len(experiment.claims) == (0 if variant else 1)


def test_each_command_stands_alone_in_its_block():
    assert [text for language, text in fenced("README.md") if not language] == [
        "python -m pip install -e . && python -m experiments.run --config=configs/one_layer.py\n",
        "python -m pip install -e '.[test]' && python -m pytest\n",
    ]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (ROOT / page).parent.joinpath(link).exists(), link


def test_tables_are_those_of_the_committed_results():
    assert publish.stale() == []


def test_committed_results_answer_the_claims_of_their_configs():
    for name, results in publish.committed().items():
        file, variant = results["experiment"], f":{results['variant']}" if results["variant"] else ""
        experiment = command_line.load(ROOT / "configs" / f"{file}.py", variant.removeprefix(":"))
        assert name == file + variant.replace(":", "-")
        stated = [(claim.id, claim.statement, claim.target) for claim in experiment.claims]
        assert [(claim["id"], claim["statement"], claim["target"]) for claim in results["claims"]] == stated, name


def test_committed_claims_are_judged_by_their_own_numbers():
    for name, results in publish.committed().items():
        for claim in results["claims"]:
            value, target, tolerance = (claim[key] for key in ("value", "target", "tolerance"))
            holds = (
                value is not None
                and {
                    "within": abs(value - target) <= tolerance,
                    "at_least": value >= target - tolerance,
                    "at_most": value <= target + tolerance,
                }[claim["relation"]]
            )
            assert claim["holds"] is holds, (name, claim["id"])
            assert holds or claim["note"], f"{name}: {claim['id']} does not hold and does not say why"
