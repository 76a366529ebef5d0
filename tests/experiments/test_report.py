"""The report is one self-contained page that shows the results; README and docs/results.md show the same results."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from experiments import publish
from icl_gd import paths
from icl_gd.lab import pipeline
from icl_gd.lab.reporting import report, results
from icl_gd.lab.reporting.answer import answer, claims_in_words

WEIRD = """<script>alert("1 & 2")</script> 'η' {title} | end\n<!-- results:end -->"""
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (975).to_bytes(4, "big")


def claim(**changed):
    row = {
        "id": "VO.F2.loss",
        "statement": "as good as one step",
        "source": "VO Fig. 2",
        "relation": "within",
        "target": 0.2062,
        "tolerance": 0.002,
        "value": 0.20631,
        "holds": True,
        "note": "",
    }
    return row | changed


def finished(**changed):
    rows = [claim(), claim(id="fails", relation="at_most", tolerance=0.0, value=None, holds=False, note=WEIRD)]
    metric, caught = results.metric([1.0, 3.0]), results.metric(1)
    done = {
        "experiment": "one_layer",
        "variant": None,
        "wall_seconds": 71.2,
        "device": "cpu",
        "git": None,
        "versions": {"jax": "0.10.2"},
        "curves": {},
        "arrays": {},
        "claims": rows,
        "metrics": {"loss_trained": metric, "seeds_trapped": caught},
        "sweep": [{"fields": {"task.n_context": 20}, "metrics": {"loss_gd": metric}}],
    }
    return done | changed


SETTINGS = {
    "task": {"name": "linear", "eigenvalues": [1.0, 2.0]},
    "reference": {"name": "gradient_descent"},
    "seeds": 10,
    "claims": ("never listed as a field",),
    "train": {"steps": 5000, "note": WEIRD},
}


class Page(HTMLParser):
    """Parses a page: checks that tags are balanced, and collects tags, attributes and the texts of table rows."""

    VOID = ("meta", "img", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.attributes, self.tags = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "tr" in self.open:
            self.rows[-1][-1] += data


def write(workdir, done, captions):
    (workdir / "figures").mkdir(exist_ok=True)
    for stem in ("02_b", "10_c", "01_a", ".03_partial"):
        (workdir / "figures" / f"{stem}.png").write_bytes(PNG + stem.encode())
    return report.write_report(workdir, done, SETTINGS, captions)


def test_the_page_shows_everything_and_needs_nothing(tmp_path):
    path = write(tmp_path, finished(), {"01_a": WEIRD, "02_b": "two"})
    assert path == tmp_path / "report.html"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["figures", "report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)

    failed, held = (row for row in page.rows if row[0] in ("VO.F2.loss", "fails"))
    assert held == ["VO.F2.loss", "as good as one step", "VO Fig. 2", "= 0.2062 ± 0.002", "0.20631", "✓ holds", ""]
    assert failed[3:] == ["≤ 0.2062", "–", "✗ fails", WEIRD]
    assert ["loss_trained", "2 ± 1", "1.4142", "2"] in page.rows
    assert ["loss_gd (task.n_context = 20)", "2 ± 1", "1.4142", "2"] in page.rows
    start = page.rows.index(["field", "value"]) + 1
    assert page.rows[start : start + 6] == [
        ["task.name", "linear"],
        ["task.eigenvalues", "[1.0, 2.0]"],
        ["reference.name", "gradient_descent"],
        ["seeds", "10"],
        ["train.steps", "5000"],
        ["train.note", WEIRD],
    ]
    wall_time = ["wall time", "71.2 s in the last process"]
    for row in (wall_time, ["revision", "None"], ["device", "cpu"], ["jax", "0.10.2"]):
        assert row in page.rows
    assert report.wall_time({"wall_seconds": 712.3, "resumed_at": 50}) == "712 s in the last process, from step 50"
    spent = {"training": 600.2, "rest": 112.1, "processes": 3, "partial": False}
    done = {"wall_seconds": 712.3, "resumed_at": 50, "seconds": spent}
    assert report.wall_time(done) == "712 s in 3 processes, 600 s of them training"
    assert report.wall_time(done | {"seconds": spent | {"partial": True}}) == "712 s in the last process, from step 50"
    assert "1 combination was trained (task.n_context); 1 of 2 claims hold; fails fails." in text
    assert "10 seeds (trapped: 1 of 2), 5000 training steps" in text
    assert "never listed" not in text

    assert not {"script", "link", "iframe"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href", "srcset", "action")]
    assert len(sources) == 3
    assert page.attributes.count(("width", "487")) == 3
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"url\(|@import|https?:", text)
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", text, re.DOTALL)
    assert captions[1:] == ["two", "10_c"]
    assert "&lt;script&gt;" in captions[0]


def population(**values):
    """Results of a population of two seeds; each argument is a metric with one value per seed."""
    metrics = {name: results.metric(per_seed) for name, per_seed in values.items()}
    return {"metrics": metrics, "sweep": [], "arrays": {"n_layers": 1}, "claims": []}


def test_the_answer_says_what_was_learned():
    trapped = {"loss_trained": [0.2, 0.2], "seeds_trapped": 0}
    near = population(**trapped, sensitivity_cosine_gd=[0.9994, 0.9999], loss_ratio_gd=[1.0012, 0.999])
    assert answer(near) == (
        "2 of 2 seeds learned 1 step of gradient descent: loss within 0.2 %, sensitivity cosine at least 0.9994."
    )
    far = population(**trapped, sensitivity_cosine_gd=[0.9, 1.0], loss_ratio_gd=[1.0, 1.0])
    assert answer(far).startswith(
        "2 of 2 seeds are free; the closest algorithm is 1 step of gradient descent (loss ratio 1,"
    )
    beyond = population(**trapped, sensitivity_cosine_gd=[1.0, 1.0], loss_ratio_gd=[1.0, 1.06])
    assert "the closest algorithm is" in answer(beyond)
    both = population(
        **trapped,
        sensitivity_cosine_gd=[0.9, 0.9],
        loss_ratio_gd=[1.0, 1.0],
        sensitivity_cosine_gd_plus_plus=[0.995, 0.996],
        loss_ratio_gd_plus_plus=[1.0, 1.0],
        sensitivity_cosine_gd_untrained=[1.0, 1.0],
    )
    assert "GD++" in answer(both)
    assert answer(population(loss_trained=[0.2, 0.3], seeds_trapped=2)) == "All 2 seeds are trapped: mean loss 0.25."
    prefixes = population(
        normalised_error=[0.2, 0.4],
        seeds_trapped=0,
        normalised_error_least_squares=0.1,
        excess_over_least_squares=[0.1, 0.3],
    )
    assert answer(prefixes) == ("2 of 2 seeds learned the task: mean normalised error 0.3 (least squares: 0.1).")
    swept = {
        "metrics": {},
        "sweep": [{"fields": {"train.clip": 1.0}, "metrics": {}}] * 3,
        "claims": [claim(holds=True)],
    }
    assert answer(swept) == "3 combinations were trained (train.clip); the claim holds."


def test_claims_in_words():
    rows = [claim(id=f"C{i}", holds=i > 4) for i in range(7)]
    assert claims_in_words(rows) == "2 of 7 claims hold; C0, C1, C2 and 2 others fail"
    assert claims_in_words(rows[4:]) == "2 of 3 claims hold; C4 fails"
    assert claims_in_words(rows[5:]) == "all 2 claims hold"


def test_every_question_has_its_figure_numbers_and_claims(tmp_path):
    """The figure of the answer comes first. Figures and claims that belong to no section come last."""
    done = finished(claims=[claim(metric="loss_trained"), claim(id="other", metric="elsewhere", holds=False)])
    sections = [report.Section("Training", "Is it trained?", ("b",), lambda name: name.startswith("loss"))]
    (tmp_path / "figures").mkdir()
    for stem in ("01_a", "02_b", "03_alignment"):
        (tmp_path / "figures" / f"{stem}.png").write_bytes(PNG + stem.encode())
    text = report.write_report(tmp_path, done, SETTINGS, {}, sections).read_text()
    order = [
        text.index(word)
        for word in (
            'alt="03_alignment"',
            "<h2>Training",
            "Is it trained?",
            'alt="02_b"',
            "VO.F2.loss",
            "<h2>Other results",
            'alt="01_a"',
            ">other<",
            "<details>",
        )
    ]
    assert order == sorted(order)
    assert text.count("<img") == 3


def test_the_terminal_shows_failing_claims_and_the_answer():
    done = finished()
    lines = pipeline.summary(done).splitlines()
    assert [line.split()[0] for line in lines] == ["FAILS", "1"]
    assert lines[-1] == answer(done)
    assert [line.split()[0] for line in pipeline.summary(done, verbose=True).splitlines()] == ["FAILS", "holds", "1"]


def test_tolerance_is_shown_where_it_decides():
    assert report.target(claim(relation="at_least", tolerance=0.0)) == "≥ 0.2062"
    assert report.target(claim(relation="at_least", tolerance=0.01)) == "≥ 0.2062 ± 0.01"


def test_trapped_seeds_are_counted_over_a_sweep():
    point = {"loss_trained": results.metric([1.0] * 5), "seeds_trapped": results.metric(2)}
    assert report.trapped(finished(metrics={}, sweep=[{"fields": {}, "metrics": point}] * 2)) == "4 of 10"
    assert report.trapped(finished(metrics={}, sweep=[])) == "–"


def test_a_failed_write_leaves_the_last_report(tmp_path, monkeypatch):
    path = write(tmp_path, finished(), {})
    before = path.read_bytes()

    def fail(source, destination):
        raise OSError("no space left")

    monkeypatch.setattr(paths.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        write(tmp_path, finished(claims=[]), {})
    assert path.read_bytes() == before


@pytest.fixture
def repository(tmp_path):
    """A directory with a README with markers, docs, and no results."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(f"before\n{publish.BEGIN}\n{publish.END}\nafter\n", encoding="utf-8")
    return tmp_path


def commit(repository, name, text):
    (repository / "results" / name).mkdir(parents=True)
    (repository / "results" / name / "results.json").write_text(text, encoding="utf-8")


def test_without_results_the_tables_say_so(repository):
    assert publish.main([], repository) == 0
    assert (repository / "README.md").read_text().splitlines() == [
        "before",
        publish.BEGIN,
        publish.NONE,
        publish.END,
        "after",
    ]
    assert publish.NONE in (repository / "docs" / "results.md").read_text()
    assert publish.main(["--check"], repository) == 0


SOURCE = '''"""One layer, many seeds (von Oswald et al. 2212.07677).

Variants: `few` has few seeds (two; no
more); `trapped` has many; `smoke`."""

from icl_gd.lab import Experiment, GradientDescent, Network, Regression, Train, claim


def get_config(variant=""):
    stated = claim("VO.F2.loss", "in other words", metric="loss_trained", source="Fig. 2", within=(0.2062, 0.002))
    return Experiment(task=Regression(), model=Network(), train=Train(), reference=GradientDescent(), claims=(stated,))
'''


def test_tables_follow_the_results(repository, capsys):
    (repository / "configs").mkdir()
    (repository / "configs" / "one_layer.py").write_text(SOURCE)
    commit(repository, "one_layer", json.dumps(finished(precision="float32")))
    commit(repository, "one_layer-trapped", json.dumps(finished(claims=[])))
    assert publish.main(["--check"], repository) == 1
    assert capsys.readouterr().err == "stale: README.md, docs/results.md; run python -m experiments.publish\n"
    assert publish.main([], repository) == 0
    assert "wrote results/one_layer/results.json\n" in capsys.readouterr().out
    assert publish.main(["--check"], repository) == 0

    readme, docs = ((repository / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
    assert readme.startswith("before\n")
    assert readme.endswith("\nafter\n")
    assert readme.count(publish.END) == 1
    assert "| von Oswald et al. ([2212.07677](https://arxiv.org/abs/2212.07677)) | 2 | 2 | 1 |" in readme
    assert "| one_layer | One layer, many seeds (von Oswald et al. 2212.07677). | 1 of 2 | fails | 1 of 2 |" in docs
    assert "| one_layer-trapped | `trapped` has many | 0 of 0 | none | 1 of 2 |" in docs
    assert "| VO.F2.loss | in other words | Fig. 2 | = 0.2062 ± 0.002 | 0.20631 |  | yes |  |" in docs
    assert "Trapped seeds: 1 of 2." in docs
    assert "## No full run yet" not in docs
    assert "with other random seeds" not in readme
    assert "## one_layer-trapped\n" in docs
    for text, columns in ((readme, {4}), (docs, {5, 8})):
        bars = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("|")}
        assert bars == {1 + number for number in columns}
    (repository / "configs" / "two_layers.py").write_text('VARIANTS = ("heads", "smoke")\n')
    assert publish.main([], repository) == 0
    assert (
        (repository / "docs" / "results.md")
        .read_text()
        .endswith("## No full run yet\n\n`two_layers`, `two_layers:heads`\n")
    )
    shutil.rmtree(repository / "results")
    assert publish.main([], repository) == 0
    assert publish.NONE in (repository / "README.md").read_text()


def test_a_claim_holds_if_it_does_at_both_seeds(repository):
    """Other claims fail at the second seed, at the first, or at both; the last one had another target at the second."""
    ids = ("holds", "by_luck", "by_chance", "fails", "restated")
    at_most = {"relation": "at_most", "target": 1.0, "tolerance": 0.0}
    rows = [claim(id=name, **at_most, value=value) for name, value in zip(ids, (0.5, 0.5, 2.0, 2.0, 0.5), strict=True)]
    there = [{**row, "value": value} for row, value in zip(rows, (0.6, 3.0, 0.7, None, 3.0), strict=True)]
    there[-1]["target"] = 2.0
    commit(repository, "one_layer", json.dumps(finished(claims=rows)))
    commit(repository, "sine", json.dumps(finished(claims=[])))
    again = {"seed": 5000, "git": "abc", "device": "gpu", "precision": "float32", "wall_seconds": 12.0, "claims": there}
    (repository / "results" / "one_layer" / publish.AGAIN).write_text(json.dumps(again))
    assert publish.main([], repository) == 0
    readme, docs = ((repository / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md"))
    repeated = "1 of 2 experiments was run a second time, with other random seeds. A claim of such an experiment"
    assert repeated in readme
    assert "| 2 of 5 | by_luck, by_chance, fails | 1 of 2 |" in docs
    assert "With seeds from 5000 on: 12.0 s in the last process on gpu, float32, revision abc." in docs
    found = {cells[0]: cells[4:7] for line in docs.splitlines() if len(cells := line.strip("| ").split(" | ")) > 6}
    assert {name: found[name] for name in ids} == {
        "holds": ["0.5", "0.6", "yes"],
        "by_luck": ["0.5", "**3**", "**at one seed**"],
        "by_chance": ["2", "0.7", "**at one seed**"],
        "fails": ["2", "**–**", "**no**"],
        "restated": ["0.5", "", "yes"],
    }
    (repository / "results" / "one_layer" / publish.AGAIN).write_text("{")
    assert publish.main([], repository) == 1


def test_what_claims_cannot_read_is_one_line(repository, capsys):
    assert publish.main(["--chek"], repository) == 2
    commit(repository, "broken", "{")
    assert publish.main([], repository) == 1
    (repository / "README.md").write_text("no markers")
    shutil.rmtree(repository / "results")
    assert publish.main([], repository) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [word in line for word, line in zip(("--chek", "broken", "markers"), lines, strict=True)] == [True] * 3
