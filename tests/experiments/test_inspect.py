"""The page of `icl-gd inspect` refers to nothing, says what the model computes, and can be used with a keyboard."""

import json
import re
import tarfile
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from browser import CHROMIUM, browser  # beside this file
from whole import CONFIGS, ROOT, full_variants, loaded  # beside this file

from icl_gd import models, plots, tokens, zoo
from icl_gd.lab import cli
from icl_gd.lab.config import sweeps
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.evaluation.measured import CURVES, held_out_key
from icl_gd.lab.inspection import command, content, page, subject
from icl_gd.lab.inspection.effects import combinations_of, effects, units_of
from icl_gd.lab.inspection.look import Look, lens_names, look, share_names
from icl_gd.lab.inspection.subject import Place, find, load_subject
from icl_gd.migrations import CONFIGS as FORMATS
from icl_gd.migrations import newest_of
from icl_gd.models import Model, TransformerConfig, edits, gpt2_config, load_model
from icl_gd.tasks import LinearRegression, draw_prompts
from icl_gd.trees import nested

D, N, SHOWN = 3, 4, 2
LINEAR = TransformerConfig(D + 1, n_layers=2, n_heads=2, init_scale=0.5)
GPT2 = gpt2_config(D, 2 * N + 1, d_embed=4, n_layers=2, n_heads=2, d_read_out=1)
OTHERS = {
    "linear": (LINEAR, tokens.concatenated(D, 1)),
    "one": (TransformerConfig(D + 1, init_scale=1.0), tokens.concatenated(D, 1)),
    "gpt2": (GPT2, tokens.alternating(D, 1)),
    "clipped": (replace(LINEAR, clip=0.1, shared=True, attention="softmax"), tokens.concatenated(D, 1)),
    "query": (replace(LINEAR, attend_to_query=True, attention="relu"), tokens.concatenated(D, 1)),
    "two_outputs": (TransformerConfig(D + 2, n_heads=2, d_embed=6, input_mlp_width=5), tokens.concatenated(D, 2)),
}
WEIRD = """</script><script>alert("1 & 2")</script> 'η' \u2028 <!-- {title} /*data*/"""


@cache
def initial(config, seed):
    return jax.device_get(jax.jit(lambda key: models.init(config, key))(jax.random.key(seed)))


def of(config, layout, seed=0):
    """A model whose biases are not zero."""
    rng = np.random.default_rng(seed)

    def noisy(leaf):
        return jnp.asarray(np.asarray(leaf, float) + 0.1 * rng.normal(size=leaf.shape))

    return Model(config, jax.tree.map(noisy, initial(config, seed)), layout)


def task_of(layout, n=N):
    return LinearRegression(layout.d_input, layout.d_output, n, inputs="normal")


@pytest.fixture(scope="module")
def two_members(tmp_path_factory):
    """A directory with two members of two linear layers with two heads, and their page."""
    directory = tmp_path_factory.mktemp("two_members")
    members = [of(*OTHERS["linear"], seed) for seed in range(2)]
    jax.tree.map(lambda *leaves: jnp.stack(leaves), *members).save(directory)
    assert command.main([str(directory), f"--prompts={SHOWN}", f"--n_context={N}"]) == 0
    return directory


def last_line(capsys):
    """The last line of the output; the lines before it report progress."""
    *progress, last = capsys.readouterr().out.splitlines()
    assert any(re.fullmatch(r"model 1 of \d, .+: [\d,]+ edits on [\d,]+ prompts", line) for line in progress), progress
    return last


def data_of(path):
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(content)


class Tags(HTMLParser):
    """All tags of a page, with their attributes; balanced."""

    VOID = ("meta", "input", "link", "img", "br")

    def __init__(self, text):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- what is written ---


def test_the_page_refers_to_nothing_outside(two_members):
    text = (two_members / "inspect.html").read_text()
    assert len(text.encode()) < page.LIMIT
    for tag, attributes in Tags(text).tags:
        assert tag not in ("link", "img", "iframe", "object", "base")
        assert not {"src", "href", "action", "srcset", "style"} & attributes.keys(), (tag, attributes)
    assert set(re.findall(r"\w+://[^\"' ]*", text)) == {"http://www.w3.org/2000/svg"}  # a name of XML
    assert not re.search(r"url\(|@import|\bimport\b.*\bfrom\b|fetch\(|XMLHttpRequest|eval\(|innerHTML", text)
    assert "default-src 'none'" in text


def test_every_control_is_native_and_has_a_label(two_members):
    text = (two_members / "inspect.html").read_text()
    seen, within = 0, []
    for tag, attributes in Tags(text).tags:
        if tag in ("select", "input", "button"):
            seen += 1
            assert tag == "button" or re.search(
                rf'<label[^>]*>[^<]*(<output[^>]*></output>\s*)?<{tag}[^>]*id="{attributes["id"]}"', text
            )
        within.append(attributes.get("tabindex"))
    assert seen >= 10
    assert set(within) <= {None, "0"}


def test_text_cannot_leave_its_place(two_members):
    data = data_of(two_members / "inspect.html") | {"title": WEIRD}
    text = page.html(data)
    names = [tag for tag, _ in Tags(text).tags]
    assert names.count("script") == 2
    assert names.count("style") == 1
    (content,) = re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert json.loads(content) == data
    assert "\u2028" not in text.partition("<main>")[2]


def test_numbers_are_those_of_the_model(two_members):
    """Of every member and prompt: what `run` records, and the losses of its predictions."""
    data = data_of(two_members / "inspect.html")
    population = load_model(two_members)
    layout = population.layout
    prompts = draw_prompts(task_of(layout).sample, held_out_key(0, CURVES), data["n_losses"])
    members = [side for side in data["sides"] if side["kind"] == "member"]
    assert [side["name"] for side in members] == ["Member 0", "Member 1"]
    assert len(data["prompts"]) == SHOWN
    run = jax.jit(lambda model, *prompt: model.run(*prompt))
    predict = jax.jit(jax.vmap(lambda model, *prompt: model(*prompt), in_axes=(None, 0, 0, 0)))
    for i, side in enumerate(members):
        model = jax.tree.map(lambda leaf, i=i: leaf[i], population)
        for k in range(SHOWN):
            prompt, shown = [leaf[k] for leaf in prompts[:3]], side["prompts"][k]
            recorded = run(model, *prompt)
            near(shown["prediction"], recorded["prediction"])
            near(
                shown["lens"],
                jax.vmap(layout.read_out)(
                    jnp.stack([recorded["resid_pre", 0][-1], *recorded.stack("resid_post")[:, -1]])
                ),
            )
            for layer, head in product(range(2), range(2)):
                of_layer = shown["layers"][layer]
                near(of_layer["pattern"][head], recorded["attn.pattern", layer][head, :, :-1])
                near(of_layer["values"][head], recorded["attn.v", layer][:, head])
                assert of_layer["scores"] is None  # linear
                share = side["shares"].index(f"layer {layer}, head {head}")
                near(shown["shares"][share], layout.read_out(recorded["attn.result", layer][-1, head]))
                near(np.sum(of_layer["by_key"][head], axis=0), shown["shares"][share], atol=1e-3)
        predictions = predict(model, *prompts[:3])
        assert side["edits"]["zero"]["losses"][0] == side["loss"]
        near(side["loss"], squared(predictions, prompts))
        near(side["error"], standard_error(predictions, prompts), atol=0, rtol=0.06)
    for shown, x, y_query in zip(data["prompts"], prompts.x, prompts.y_query, strict=False):
        near(shown["x"], x)
        near(shown["y_query"], y_query)


def near(found, expected, atol=1e-5, rtol=6e-4):
    np.testing.assert_allclose(found, np.asarray(expected), rtol=rtol, atol=atol)


def squared(predictions, prompts):
    return 0.5 * np.mean(np.sum((np.asarray(predictions) - np.asarray(prompts.y_query)) ** 2, axis=-1))


def standard_error(predictions, prompts):
    values = 0.5 * np.sum((np.asarray(predictions) - np.asarray(prompts.y_query)) ** 2, axis=-1)
    return np.std(values) / np.sqrt(len(values))


def test_the_construction_is_its_learner(tmp_path):
    of(*OTHERS["one"]).save(tmp_path)
    assert command.main([str(tmp_path), f"--n_context={N}", "--members=all"]) == 0
    data = data_of(tmp_path / "inspect.html")
    (built,) = [side for side in data["sides"] if side["kind"] == "construction"]
    (step,) = [each for each in data["references"] if each["name"] == "One step of gradient descent"]
    near([shown["prediction"] for shown in built["prompts"]], step["predictions"])
    near(built["edits"]["zero"]["losses"][0], step["loss"])
    zero, *_, squares = data["references"]
    assert zero["loss"] > step["loss"] > squares["loss"]


def test_several_layers_have_two_constructions(two_members):
    data = data_of(two_members / "inspect.html")
    losses = {side["name"]: side["edits"]["zero"]["losses"][0] for side in data["sides"]}
    assert list(losses)[2:] == ["Construction: gradient descent", "Construction: GD++"]
    plain, plus = list(losses.values())[2:]
    assert plus < plain < data["references"][0]["loss"]


# --- the numbers, exactly ---


@pytest.mark.parametrize("name", OTHERS)
def test_shares_add_up_and_heads_divide_among_keys(name, x64):
    config, layout = OTHERS[name]
    model, task = of(config, layout), task_of(layout)
    prompts = draw_prompts(task.sample, jax.random.key(3), 3)
    found = jax.jit(jax.vmap(look, in_axes=(None, 0, 0, 0)))(model, *prompts[:3])
    np.testing.assert_allclose(found.shares.sum(1), found.prediction, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.lens[:, -1], found.prediction, rtol=1e-12, atol=1e-12)
    shares = share_names(config)
    assert found.shares.shape[1] == len(shares) == len(set(shares))
    assert found.lens.shape[1] == len(lens_names(config))
    for layer, head in product(range(config.n_layers), range(config.n_heads)):
        share = found.shares[:, shares.index(f"layer {layer}, head {head}")]
        np.testing.assert_allclose(found.by_key[:, layer, head].sum(1), share, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "one", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_effects_are_those_of_edited_models(name, x64, monkeypatch):
    monkeypatch.setattr("icl_gd.lab.inspection.effects.AT_ONCE", 4)
    config, layout = OTHERS[name]
    model, prompts = of(config, layout), draw_prompts(task_of(layout).sample, jax.random.key(3), 3)
    units = units_of(config)
    last = len(units) - 1
    edited = [(), (0,)] if not last else [(), (0,), (1,), (2,), (last,), (0, last)]
    found = effects(model, prompts, edited)
    recorded = jax.jit(jax.vmap(model.run))(*prompts[:3])
    for kind, (i, combination) in product(("zero", "mean"), enumerate(edited)):
        changed = model
        for site, layer, head in (units[j] for j in combination):
            name = f"blocks.{layer}.{site}"
            change = edits.zero(head=head) if kind == "zero" else edits.mean(recorded[name], head=head)
            changed = changed.edit({name: change})
        predictions = jax.jit(jax.vmap(changed.predictor))(*prompts[:3])
        np.testing.assert_allclose(found[kind].predictions[i], predictions, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(found[kind].losses[i], squared(predictions, prompts), rtol=1e-12)


def test_the_switches_are_heads_attention_and_mlps():
    one, several = units_of(OTHERS["one"][0]), units_of(LINEAR)
    assert [tuple(unit) for unit in one] == [("attn_out", 0, None)]  # a single head without bias is its attention
    assert [(unit.site, unit.head) for unit in several] == [
        ("attn.result", 0),
        ("attn.result", 1),
        ("attn_out", None),
    ] * 2
    assert [unit.site for unit in units_of(GPT2)[:4]] == ["attn.result", "attn.result", "attn_out", "mlp_out"]


@pytest.mark.parametrize(("n", "most", "count"), [(1, 1, 2), (6, 6, 64), (7, 2, 29), (25, 2, 326), (26, 1, 27)])
def test_few_switches_are_combined_in_all_ways(n, most, count):
    found = combinations_of(n)
    assert found[0] == ()
    assert len(found) == len(set(found)) == count
    assert max(map(len, found)) == most


@pytest.mark.parametrize("name", ["linear", "gpt2"])
def test_tokens_have_the_names_that_they_have_in_figures(name):
    layout = OTHERS[name][1]
    *examples, query = content._tokens(layout, N)
    in_figures = [re.sub("[${}_]", "", label) for label in plots.token_names(N, layout.has_separate_tokens)]
    assert [token["label"] for token in examples] == in_figures[:-1]
    assert [token["example"] for token in (*examples, query)] == [*np.repeat(range(N), len(examples) // N), N]


def test_the_task_is_described():
    said = {
        content._task_in_words(task) for task in (task_of(OTHERS["linear"][1]), *map(zoo.task, ("sine", "garg_linear")))
    }
    assert said == {
        "Linear regression with normal inputs: x has 3 dimensions, y has 1; each prompt has 4 examples",
        "Sine regression: x has 1 dimension, y has 1; each prompt has 10 examples",
        "Regression on functions of the class Linear with normal inputs: x has 5 dimensions, y has 1; "
        "each prompt has 10 examples",
    }
    noisy = LinearRegression(3, 1, 4, noise_std=0.25, inputs="normal")
    assert content._task_in_words(noisy).endswith("; labels have noise of standard deviation 0.25")


def test_rows_end_at_the_last_key():
    for name, lengths in {"linear": [N] * (N + 1), "query": [N + 1] * (N + 1), "gpt2": range(1, 2 * N + 2)}.items():
        config, t = OTHERS[name][0], len(lengths)
        square, row = np.ones((2, 2, t, t)), np.ones((2, 2, t, 1))
        found = content.look_data(Look(np.ones(1), np.ones((3, 1)), np.ones((5, 1)), square, square, row, row), config)
        for layer in found["layers"]:
            assert (layer["scores"] is None) == (name == "linear")
            for matrix in (*layer["pattern"], *(layer["scores"] or ())):
                assert [len(row) for row in matrix] == list(lengths)


def test_numbers_that_are_not_finite_are_none():
    assert content._rounded([np.nan, np.inf, -0.0, 3.0, 1.23456e-9, -123456.0]) == [None, None, 0, 3, 1.235e-9, -123500]


# --- where models lie, and what their task is ---


@pytest.mark.parametrize("name", CONFIGS)
def test_the_task_of_a_run_is_restored(name, tmp_path):
    """Of every population of every config, from what config.json holds."""
    for variant in full_variants(name):
        check_restored(loaded(name, variant), tmp_path)


def test_prompts_are_as_long_as_those_of_the_evaluation(tmp_path):
    experiment = loaded("garg_linear", "smoke")
    longer = experiment.eval_task.n_context + 2
    assert check_restored(experiment.change({"eval.n_context": longer}), tmp_path).n_context == longer


def check_restored(experiment, workdir):
    """Every population has the task that is restored from config.json; returns the last one."""
    config = json.loads(json.dumps(nested(experiment.flat())))
    content = {"experiment": "name", "variant": None, "format": newest_of(FORMATS), "config": config}
    task = None
    for fields, one in experiment.populations():
        task = subject.restored_task(Place(workdir / "checkpoints" / sweeps.label(fields), workdir, content))
        assert task == one.eval_task, fields
    return task


def unpacked(name, directory):
    with tarfile.open(ROOT / "tests" / "stored" / f"{name}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory


def test_a_run_of_an_earlier_version(tmp_path, capsys):
    """Its page lies beside its report; that of one population of a sweep has its name."""
    workdir = unpacked("swept_in_turn", tmp_path)
    assert command.main([str(workdir)]) == 2
    assert "holds a sweep; load one of" in capsys.readouterr().err
    point = sorted((workdir / "checkpoints").iterdir())[0]
    assert command.main([str(point), "--prompts=1"]) == 0
    (written,) = workdir.glob("*.html")
    assert written.name == f"inspect-{point.name}.html"
    data = data_of(written)
    leaf, _, value = point.name.partition(",")[0].partition("=")
    assert point.name in data["title"]
    assert leaf != "n_context" or len(data["prompts"][0]["x"]) == int(value)


def test_members_of_a_sweep_are_named(tmp_path):
    members = load_subject(find(str(unpacked("swept_together", tmp_path)))).members
    assert len(set(members)) > 1
    assert all(re.fullmatch(r"\w+ = \S+(, \w+ = \S+)*", each) for each in members)


def test_a_model_of_the_zoo_comes_with_its_task_and_construction(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main(["one_layer_0", "--prompts=1"]) == 0
    assert last_line(capsys).startswith("wrote inspect-one_layer_0.html (")
    data = data_of(tmp_path / "inspect-one_layer_0.html")
    trained, built = (side["edits"]["zero"]["losses"][0] for side in data["sides"])
    assert "uniform inputs" in data["task"]
    # Over 1,024 prompts; the card's is over 2^20.
    assert abs(trained / zoo.card("one_layer_0").loss.mean - 1) < 0.1
    assert 0.9 < built / trained < 1.02


def test_another_seed_has_other_prompts(two_members, tmp_path):
    output = tmp_path / "page.html"
    words = [str(two_members), "--prompts=1", f"--n_context={N}", "--members", "1"]
    assert command.main([*words, "--seed=1", f"--output={output}"]) == 0
    data, before = data_of(output), data_of(two_members / "inspect.html")
    assert data["prompts"][0] != before["prompts"][0]
    assert [side["name"] for side in data["sides"] if side["kind"] == "member"] == ["Member 1"]


# --- what is refused ---


def refused(words, capsys):
    assert command.main([str(word) for word in words]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.count("\n") == 1
    return error.removeprefix("error: ").strip()


def test_what_is_refused_is_said_in_one_line(two_members, tmp_path, capsys):
    before = sorted(two_members.iterdir())
    mine = tmp_path / "mine.html"
    mine.write_text("<!doctype html> my own")
    for words, said in {
        (): "the path is missing; give one workdir or model: icl-gd inspect MODEL_OR_WORKDIR",
        (two_members, tmp_path): "2 paths are given",
        (two_members, "--prompt=2"): "--prompt: unknown flag; did you mean --prompts?",
        (two_members, "--prompts"): "--prompts needs a value",
        (two_members, "--prompts=0"): "--prompts=0: must be a whole number from 1",
        (two_members, "--seed=x"): "--seed=x: must be a whole number",
        (two_members, "--members=2"): "--members=2: must be numbers from 0 to 1",
        (two_members, "--members=0,0"): "--members=0,0: a member is given twice",
        (two_members, "--output=gs://bucket/page"): "object stores are neither read nor written",
        (two_members, f"--output={mine}"): "exists and was not written by icl-gd inspect; give another --output=FILE",
        (two_members, f"--output={tmp_path}"): "is a directory; give a file",
        (two_members, f"--output={tmp_path}/none/page.html"): "does not exist; give another",
        (f"{two_members}s",): f"there is no such directory; did you mean {two_members.name}?",
        ("one_layer_00",): "did you mean one_layer_0?",
        (tmp_path,): "holds no checkpoints; give the workdir of a run",
    }.items():
        assert said in refused(words, capsys), words
    assert sorted(two_members.iterdir()) == before
    assert mine.read_text() == "<!doctype html> my own"


def test_a_prompt_fits_the_positions(tmp_path, capsys):
    of(*OTHERS["gpt2"]).save(tmp_path)
    said = refused([tmp_path, f"--n_context={N + 1}"], capsys)
    assert said == f"a prompt has {2 * N + 3} tokens, but the model has {2 * N + 1} positions; give --n_context={N}"
    assert load_subject(find(str(tmp_path))).task.n_context == N  # as many as there are positions for


def test_a_task_of_ones_own_is_refused(tmp_path, capsys):
    content = {"experiment": "mine", "format": newest_of(FORMATS), "config": {"reference": {"name": "learners"}}}
    workdir = unpacked("finished", tmp_path)
    (workdir / "config.json").write_text(json.dumps(content))
    assert "reference.name=learners, so its task may be your own" in refused([workdir], capsys)
    (workdir / "config.json").write_text("{")
    assert "cannot be read" in refused([workdir], capsys)


def test_a_page_that_is_too_large_is_refused_with_what_fits(two_members, tmp_path, capsys, monkeypatch):
    output = tmp_path / "page.html"
    words = [two_members, f"--n_context={N}", f"--output={output}"]
    monkeypatch.setattr(page, "LIMIT", 100_000)
    with monkeypatch.context() as patch:
        patch.setattr(content, "effects", None)  # it is refused before everything is computed
        said = refused([*words, "--prompts=1000"], capsys)
    assert "but at most 0.1 MB are written; 1000 prompts of 4 models would be shown: give --prompts=" in said
    assert not output.exists()
    fits = int(re.search(r"--prompts=(\d+)", said)[1])
    assert command.main([str(word) for word in [*words, f"--prompts={fits}"]]) == 0
    assert output.stat().st_size <= 100_000
    assert last_line(capsys).startswith("wrote")
    monkeypatch.setattr(page, "LIMIT", 1000)
    assert "give --members=0 --prompts=1" in refused([*words, "--prompts=1"], capsys)


def test_a_page_of_its_own_is_replaced(two_members, tmp_path, capsys):
    output = tmp_path / "page.html"
    words = [str(two_members), f"--n_context={N}", f"--output={output}"]
    for n in (1, 2):
        assert command.main([*words, f"--prompts={n}"]) == 0
        assert len(data_of(output)["prompts"]) == n
        size = output.stat().st_size / 1e6
        content = f"2 members, 2 constructions, {n} prompt{'s' * (n > 1)}, losses over 1,024 prompts"
        assert last_line(capsys) == f"wrote {output} ({size:.2g} MB): {content}"
    assert [each.name for each in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped; nothing was written"),
        (
            MemoryError("no memory"),
            1,
            "error: MemoryError: no memory; nothing was written; ICL_GD_TRACEBACK=1 shows the traceback",
        ),
    ],
)
def test_other_ends_have_their_exit_codes(two_members, tmp_path, capsys, monkeypatch, error, code, said):
    def fails(*_):
        raise error

    monkeypatch.delenv("ICL_GD_TRACEBACK", raising=False)
    monkeypatch.setattr(command, "page_data", fails)
    assert command.main([str(two_members), f"--output={tmp_path}/page.html"]) == code
    assert capsys.readouterr().err.strip() == said
    assert list(tmp_path.iterdir()) == []


def test_a_page_is_never_half_written(two_members, tmp_path, monkeypatch):
    """If the disk is full, the earlier page stays and nothing else is left."""
    output, data = tmp_path / "page.html", data_of(two_members / "inspect.html")
    page.write_page(data, output)
    before = output.read_bytes()

    def full(path, content):
        with path.open("wb") as part:
            part.write(content[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ConfigError, match=r"cannot be written \(No space left on device\); give another"):
        page.write_page(data | {"title": "later"}, output)
    assert output.read_bytes() == before
    assert list(tmp_path.iterdir()) == [output]


def test_help_names_every_flag(capsys, monkeypatch):
    assert command.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(flag in said for flag in command.FLAGS)
    monkeypatch.setattr("sys.argv", ["icl-gd", "inspect", "--help"])
    with pytest.raises(SystemExit, match="0"):
        cli.main()
    assert capsys.readouterr().out == said


# --- in a browser ---


@pytest.fixture(scope="module")
def tab():
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with browser() as opened:
        yield opened


def shown(value):
    """A number as the page writes it."""
    return float(value.replace("−", "-"))


def result(tab, side):
    """The mean losses before and after the edits of a model."""
    text = tab(f"document.querySelector('.editing[data-side=\"{side}\"] .result strong').textContent")
    return [shown(part) for part in text.split(" → ")]


def focus(tab, name, key="Tab"):
    """Presses the tab key until a control has the focus."""
    for _ in range(60):
        if tab("document.activeElement.id") == name:
            return
        tab.press(key)
    raise AssertionError(f"{name} is not reached by the tab key")


def test_the_page_is_used_with_a_keyboard(two_members, tab):
    """Member, prompt, layer and head are changed; switches are turned on and off, and the losses are those computed."""
    data = data_of(two_members / "inspect.html")
    tab.resize(1400)
    tab.open(two_members / "inspect.html")
    assert tab.requests == [(two_members / "inspect.html").as_uri()]
    first = tab("document.querySelector('.cell-value').textContent")
    assert (
        first
        == f"query to example 1: weight {as_shown(data['sides'][0]['prompts'][0]['layers'][0]['pattern'][0][N][0])}."
    )
    for name in ("member", "prompt", "layer", "head"):
        focus(tab, name)
        tab.press("ArrowDown")
        assert tab(f"document.getElementById('{name}').value") == "1", name
    headings = tab("[...document.querySelectorAll('#patterns h3')].map((each) => each.textContent)")
    assert headings == [
        "Member 1: layer 1, head 1 (linear)",
        "Construction: GD++: layer 1, head 0 (linear)",
    ]
    focus(tab, "query")
    tab.press("ArrowLeft")  # the last example
    focus(tab, "key")
    tab.press("ArrowRight")
    layer = data["sides"][1]["prompts"][1]["layers"][1]
    weight = as_shown(layer["pattern"][1][N - 1][1])
    assert tab("document.querySelector('.cell-value').textContent") == f"example {N} to example 2: weight {weight}."

    losses = data["sides"][1]["edits"]["zero"]["losses"]
    combinations = data["sides"][1]["combinations"]
    assert result(tab, 1) == [pytest.approx(losses[0], rel=1e-3)]
    focus(tab, "edit-1-1", "Shift+Tab")
    tab.press(" ")
    after = losses[combinations.index([1])]
    ratio = tab("document.querySelector('.editing[data-side=\"1\"] tbody tr:nth-child(2) .ratio').textContent")
    assert shown(ratio.removeprefix("× ")) == pytest.approx(after / losses[0], rel=1e-2)
    assert result(tab, 1) == pytest.approx([losses[0], after], rel=1e-3)
    assert tab("document.activeElement.id") == "edit-1-1"
    tab.press("Tab", " ")
    assert result(tab, 1)[1] == pytest.approx(losses[combinations.index([1, 2])], rel=1e-3)
    code = tab("document.querySelector('.editing[data-side=\"1\"] code').textContent")
    assert code == 'model.edit({"blocks.0.attn.result": edits.zero(head=1), "blocks.0.attn_out": edits.zero()})'
    focus(tab, "ablation", "Shift+Tab")
    tab.press("ArrowDown")
    means = data["sides"][1]["edits"]["mean"]["losses"]
    assert result(tab, 1) == pytest.approx([means[0], means[combinations.index([1, 2])]], rel=1e-3)
    focus(tab, "reset")
    tab.press("Enter")
    assert result(tab, 1) == [pytest.approx(means[0], rel=1e-3)]
    assert tab.errors == []


def as_shown(value):
    text = f"{value:.4g}"
    return text.replace("-", "−")


def test_what_was_chosen_is_in_the_address(two_members, tab):
    path = two_members / "inspect.html"
    tab.open(path)
    tab("document.getElementById('layer').focus()")
    tab.press("ArrowDown")
    address = tab("location.href")
    assert "layer=1" in address
    tab.send("Page.reload")
    tab("new Promise((done) => setTimeout(done, 300))")
    assert tab("document.getElementById('layer').value") == "1"


def test_a_click_chooses_a_cell_and_a_head(two_members, tab):
    tab.resize(1400)
    tab.open(two_members / "inspect.html")
    tab.click("#patterns canvas")
    names = tab("['query-name', 'key-name'].map((id) => document.getElementById(id).textContent)")
    assert names != ["query", "example 1"]
    tab.click("#thumbnails button:nth-child(4)")
    assert tab("['layer', 'head'].map((id) => document.getElementById(id).value)") == ["1", "1"]
    assert tab("document.activeElement.getAttribute('aria-pressed')") == "true"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["two_outputs", "gpt2"])
def test_a_model_without_a_construction_is_shown_alone(name, tab, tmp_path):
    """Its outputs are chosen; the shares, and the parts of a head, add up to what is shown."""
    model = of(*OTHERS[name])
    model.save(tmp_path)
    assert command.main([str(tmp_path), f"--n_context={N}", f"--prompts={SHOWN}"]) == 0
    (side,) = data_of(tmp_path / "inspect.html")["sides"]
    tab.resize(1400)
    tab.open(tmp_path / "inspect.html")
    output = 1 if name == "two_outputs" else 0
    assert tab("document.getElementById('output').parentElement.hidden") == (output == 0)
    if output:
        focus(tab, "output")
        tab.press("ArrowDown")
    assert shown(tab("document.querySelector('#predictions tbody tr:nth-child(2) td').textContent")) == pytest.approx(
        side["prompts"][0]["prediction"][output], rel=1e-3
    )
    total = tab("document.querySelector('#shares tr.total td').textContent")
    assert shown(total) == pytest.approx(side["prompts"][0]["prediction"][output], rel=2e-3)
    sums = tab("[...document.querySelectorAll('#tokens tr.total td.number')].map((each) => each.textContent)")
    assert shown(sums[1]) == pytest.approx(
        side["prompts"][0]["shares"][side["shares"].index("layer 0, head 0")][output], rel=1e-2
    )
    assert tab("document.querySelectorAll('#patterns figure').length") == 1
    assert tab.errors == []


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
def test_the_page_fits_windows_and_themes(two_members, tab, width, dark):
    """Nothing is wider than the window, every picture says what it shows, and text stands out from its background."""
    tab.resize(width, dark=dark)
    tab.open(two_members / "inspect.html")
    assert tab("document.documentElement.scrollWidth") == width
    spoken = tab("[...document.querySelectorAll('[role=img]')].map((each) => each.getAttribute('aria-label'))")
    assert len(spoken) == 5
    assert all(len(each) > 40 for each in spoken)
    back = tab("getComputedStyle(document.body).backgroundColor")
    for selector in ("body", ".quiet", ".first", ".second", "label", "td.number"):
        text = tab(f"getComputedStyle(document.querySelector('{selector}')).color")
        assert contrast(text, back) >= 4.5, (selector, text, back)
    for text, behind in tab(
        "[...document.querySelectorAll('.cell')].map((each) => [each.style.color, each.style.background])"
    ):
        assert contrast(text, behind) >= 4.5, (text, behind)
    assert tab.errors == []


def contrast(one, other):
    """The ratio of contrast of two colours, as WCAG 2 defines it."""
    lights = sorted(map(luminance, (one, other)), reverse=True)
    return (lights[0] + 0.05) / (lights[1] + 0.05)


def luminance(colour):
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))
