"""Configs and names of other codebases are translated to ours, as docs/coming_from.md lists them."""

import os
import re
from pathlib import Path

import absl.logging
import jax
import numpy as np
import pytest
from absl import flags

import icl_gd
from icl_gd import interop
from icl_gd.lab import command, foreign
from icl_gd.lab.command_line import CONFIGS, help_of, load, parse
from icl_gd.lab.config.errors import ConfigError

PAGE = (Path(__file__).parents[2] / "docs" / "coming_from.md").read_text(encoding="utf-8")
SECTIONS = {text.partition("\n")[0]: text for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]}
ROWS = [
    (title, *(re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")[:2]), line.count("|") == 4)
    for title, text in SECTIONS.items()
    for line in text.splitlines()
    if line.startswith("| ") and "`" in line
]
# Config files as Garg et al. write them: a base, a model, and a task that inherits both.
YAML = {
    "base.yaml": """
inherit: [models/tiny.yaml, wandb.yaml]
model: {n_dims: 5, n_positions: 11}
training:
    {data: gaussian, task_kwargs: {}, batch_size: 64, learning_rate: 1e-4, save_every_steps: 500,
     keep_every_steps: 100000, train_steps: 5001}
""",
    "models/tiny.yaml": "model: {family: gpt2, n_embd: 64, n_layer: 3, n_head: 2}",
    "wandb.yaml": "wandb: {project: in-context-training, entity: your-entity, notes: , log_every_steps: 100}",
    "toy.yaml": """
inherit:
    - base.yaml
training:
    task: linear_regression
    curriculum:
        dims: {start: 5, end: 5, inc: 1, interval: 2000}
        points: {start: 3, end: 11, inc: 2, interval: 500}
out_dir: ../models/linear_regression
wandb: {name: linear_regression_toy}
""",
}
VON_OSWALD = {  # the settings in the notebook of von Oswald et al. for five separate layers
    **{"seed": 3, "local_usage": True, "deq": False, "gd_deq": False, "att_only_trans": True, "use_bias": False},
    **{"training_steps": 50_000, "training_steps_gd": 30_000, "use_softmax": False, "num_layers": 5, "num_heads": 1},
    **{"grad_clip_value": 10, "lr": 5e-4, "wd": 0.0, "init_scale": 0.002 / 5, "bs": 2048, "clip": 10, "cycle_data": 0},
    **{"dataset_size": 10, "input_size": 10, "key_size": 11, "train_gd_whitening": True, "num_seeds": 2},
}
SEPARATE = {  # their settings for separate tokens for x and y
    **{"classic_token_const": True, "first_layer_sm": True, "deq": False, "num_layers": 2, "grad_clip_value": 10},
    **{"init_scale": 0.02 / 2, "bs": 2048, "pos_enc": True, "pos_enc_size": 10, "concat_pos_enc": True, "key_size": 20},
}
WAVES = {  # their settings for sine waves
    **{"non_linear_reg_task": True, "training_steps": 20_000, "input_size": 39, "key_size": 40, "grad_clip_value": 100},
    **{"bs": 2048, "gd_lr": 3e-4, "input_range": 10, "input_mlp": True, "input_mlp_out_dim": 40, "in_proj": True},
    **{"emb_size": 40, "widening_factor": 4, "train_gd_whitening": False},
}
RAVENTOS = {
    "dtype": "float32",
    "work_dir": "",
    "task": {
        **{"name": "noisy_linear_regression", "n_tasks": 1024, "n_dims": 8, "n_points": 16, "batch_size": 256},
        **{"data_seed": 101, "data_scale": 1.0, "task_scale": 2.0, "noise_scale": 0.5},
    },
    "model": {"name": "transformer", "n_points": 16, "n_layer": 8, "n_embd": 128, "n_head": 2, "seed": 100},
    "training": {"optimizer": "adam", "lr": 1e-3, "schedule": "triangle", "warmup_steps": 500, "total_steps": 1000},
    "eval": {"n_samples": 4096, "every": 100},
}
OF_CODE = "class Config(dict):\n    to_dict = dict.copy\n"  # stands in for ml_collections.ConfigDict


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    """Replaces the run, so that wrongly accepted input fails the test instead of training."""
    monkeypatch.setattr(command, "_execute", lambda asked: 0)


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """Writes the config files of Garg et al. to the current directory. Returns their directory."""
    monkeypatch.chdir(tmp_path)
    for name, text in YAML.items():
        (tmp_path / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "conf" / name).write_text(text)
    return tmp_path / "conf"


def python(path, values, how="def get_config():\n    return Config({!r})\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(OF_CODE + how.format(values))
    return f"--config={path}"


def are(experiment, **wanted):
    found = {name: experiment[name.replace("__", ".")] for name in wanted}
    assert found == wanted


# --- Garg et al. ---


def test_a_yaml_config_is_read_with_what_it_inherits(conf, capsys):
    found = parse(["run", "--config=conf/toy.yaml"])
    are(
        found.experiment,
        **{"task__name": "linear", "task__d_input": 5, "task__n_context": 10, "task__pool": None},
        **{"model__d_embed": 64, "model__n_layers": 3, "model__n_heads": 2, "train__steps": 5001},
        **{"train__learning_rate": 1e-4, "train__batch_size": 64, "train__checkpoint_every": 500},
        **{"train__active_inputs": (), "train__active_points": (3, 2, 500), "train__beta2": 0.999, "train__clip": None},
        **{"analyses": ("predicted_functions",)},
    )
    assert (found.name, found.workdir, found.overridden) == ("toy", Path("runs/toy"), ())
    said = capsys.readouterr().out
    assert "note: --config=conf/toy.yaml is read as a config of Garg et al.: the built-in config garg_linear" in said
    assert "training.keep_every_steps, out_dir" in said
    assert "wandb.name are ignored" in said


def test_the_command_line_changes_what_a_yaml_config_says(conf):
    found = parse(["run", "--config=conf/toy.yaml", "--config.train.steps=7", "--config.model.n_heads=4"])
    are(found.experiment, train__steps=7, model__n_heads=4, model__d_embed=64)
    assert found.overridden == ("model.n_heads", "train.steps")


def test_its_variant_smoke_is_small(conf):
    found = parse(["run", "--config=conf/toy.yaml:smoke"])
    are(found.experiment, train__steps=20, model__n_layers=2, model__d_embed=64, task__d_input=5, eval__prompts=128)
    assert found.workdir == Path("runs/toy-smoke")


@pytest.mark.parametrize(
    ("task", "kwargs", "wanted"),
    [
        ("linear_regression", "{scale: 0.5}", {"task.name": "linear", "task.weight_scale": 0.5}),
        ("noisy_linear_regression", "{scale: 2.0, noise_std: 3e0}", {"task.weight_scale": 2.0, "task.noise_std": 1.5}),
        ("sparse_linear_regression", "{sparsity: 2}", {"task.name": "sparse", "task.non_zeros": 2}),
        ("linear_classification", "{}", {"task.name": "signs"}),
        ("quadratic_regression", "{}", {"task.name": "quadratic"}),
        ("relu_2nn_regression", "{hidden_layer_size: 7}", {"task.name": "relu_network", "task.hidden": 7}),
        ("decision_tree", "{depth: 3}", {"task.name": "decision_tree", "task.depth": 3}),
    ],
)
def test_every_task_of_theirs_is_here(task, kwargs, wanted, conf):
    (conf / "mine.yaml").write_text(f"inherit: toy.yaml\ntraining: {{task: {task}, task_kwargs: {kwargs}}}")
    experiment = load(conf / "mine.yaml")
    assert {name: experiment[name] for name in wanted} == wanted
    assert experiment["task.n_context"] == 10


def test_finite_training_sets_of_theirs_are_pools(conf):
    (conf / "mine.yaml").write_text("inherit: toy.yaml\ntraining: {num_tasks: 64}")
    assert load(conf / "mine.yaml")["task.function_pool"] == 64
    (conf / "mine.yaml").write_text("inherit: toy.yaml\ntraining: {num_training_examples: 1000}")
    assert load(conf / "mine.yaml")["task.pool"] == 1000


BAD_YAML = {
    "model: {n_positions: 7}": ["model.n_positions=7 contradicts training.curriculum.points.end=11"],
    "model: {n_dims: 6}": ["training.curriculum.dims.end=5 contradicts model.n_dims=6"],
    "model: {family: lstm}": ["model.family=lstm has no counterpart", "remove model.family"],
    "model: {n_head: 3}": ["model.d_embed=64", "model.n_heads=3"],
    "model: {n_head: many}": ["model.n_heads=many", "whole number"],
    "training: {task: cubic}": ["training.task=cubic has no counterpart", "give --config.task.name"],
    "training: {task_kwargs: {sparsity: 3}}": ["training.task_kwargs.sparsity=3 has no counterpart"],
    "training: {dropout: 0.1, seed: 3}": ["training.dropout=0.1, training.seed=3 have no counterpart"],
    "training: {curriculum: {points: {end: eleven}}}": ["a value that must be a number is not"],
    "training: {curriculum: {points: {inc: 0}}}": ["train.active_points=(3, 0, 500)", "never ends"],
    "training: {num_tasks: 3, num_training_examples: 100}": ["function_pool=3", "one of the two"],
    "inherit: mine.yaml": ["inherits from itself"],
    "inherit: [toy.yaml, nowhere.yaml]": ["nowhere.yaml cannot be read", "relative"],
    "- 3": ["mine.yaml holds list"],
    "a: [": ["mine.yaml is not YAML"],
    "a: 3": ["the settings a belong to no known config", "Garg et al., von Oswald et al., icl-task-diversity"],
    "": ["mine.yaml holds NoneType"],
    "model: {n_dims: 5}": ["lacks training.task; add it"],
}


@pytest.mark.parametrize("text", BAD_YAML)
def test_what_cannot_be_read_is_said_in_one_line(text, conf, capsys):
    whole = "inherit" in text or not text.startswith(("model", "training")) or "n_dims: 5" in text
    (conf / "mine.yaml").write_text(text if whole else f"inherit: toy.yaml\n{text}")
    before = sorted(os.walk(conf.parent))
    assert command.main(["run", "--config=conf/mine.yaml"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert all(part in err for part in BAD_YAML[text]), err
    assert sorted(os.walk(conf.parent)) == before


def test_a_tag_in_a_yaml_file_executes_nothing(conf):
    (conf / "mine.yaml").write_text(
        "inherit: toy.yaml\nmodel: !munch.Munch {n_embd: 32}\nout_dir: !!python/object/apply:os.mkdir [executed]\n"
    )
    assert load(conf / "mine.yaml")["model.d_embed"] == 32
    assert not (conf.parent / "executed").exists()


# --- ConfigDicts ---


def test_a_config_of_von_oswald_et_al_is_read(tmp_path, capsys):
    experiment = parse(["run", python(tmp_path / "config.py", VON_OSWALD, "config = Config({!r})\n")]).experiment
    are(
        experiment,
        **{"seed": 3, "seeds": 2, "task__n_context": 10, "task__d_input": 10, "task__pool": None},
        **{"model__n_layers": 5, "model__shared": False, "model__clip": 10.0, "model__d_head": None},
        **{"model__init_scale": 0.002, "model__attention": "linear", "train__steps": 50_000},
        **{"train__clip": 10.0, "train__learning_rate": 5e-4, "train__beta2": 0.98},
        **{"reference__learner": "gd_plus_plus_published", "reference__published_steps": 30_000},
    )
    assert experiment.claims == ()
    assert "local_usage is ignored" in capsys.readouterr().out


def test_analyses_that_cannot_be_asked_are_left_out(tmp_path, capsys):
    config = python(tmp_path / "config.py", {"lr": 1e-3, "num_heads": 2, "use_softmax": True, "cycle_data": 3})
    experiment = parse(["run", config]).experiment
    are(experiment, model__attention="softmax", model__n_heads=2, task__pool=3 * 512, analyses=("alignment", "shifts"))
    assert "analyses weights, interpolation are left out" in capsys.readouterr().out


def test_their_other_notebooks_are_the_configs_that_ship(tmp_path):
    """The other two notebooks equal our configs, except for seeds, batch size, evaluation, intervals and claims."""
    free = ("seeds", "eval.prompts", "train.checkpoint_every", "train.log_every", "train.batch_size", "claims")
    for values, name, variant in ((SEPARATE, "token_copying", ""), (WAVES, "sine", "faithful")):
        found = load(Path(python(tmp_path / "config.py", values).removeprefix("--config=")))
        ships = load(CONFIGS / f"{name}.py", variant)
        differ = {field for field in ships.fields if field not in free and found[field] != ships[field]}
        assert differ <= {"model.shared", "reference.published_steps"}, name


def test_a_config_of_raventos_et_al_is_read(tmp_path):
    config = python(tmp_path / "example.py", RAVENTOS)
    experiment = parse(["run", config]).experiment
    are(
        experiment,
        **{"task__function_pool": 1024, "task__d_input": 8, "task__n_context": 15, "task__weight_scale": 2.0},
        **{"task__noise_std": 0.25, "train__batch_size": 256, "train__warmup": 500, "train__steps": 1000},
        **{"train__schedule": "linear", "model__n_layers": 8, "model__d_embed": 128, "eval__prompts": 4096},
        **{"train__active_points": (), "precision": "float32"},
    )
    RAVENTOS_WRONG = {**RAVENTOS, "model": {**RAVENTOS["model"], "n_points": 12}}
    with pytest.raises(ConfigError, match=r"model.n_points=12 contradicts task.n_points=16"):
        parse(["run", python(tmp_path / "wrong.py", RAVENTOS_WRONG), "--config.train.schedule=cosine"])


def test_a_real_config_dict_is_read(tmp_path):
    pytest.importorskip("ml_collections")
    (tmp_path / "mine.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'num_layers': 1, 'lr': 2e-3, 'bs': 16})\n"
    )
    are(load(tmp_path / "mine.py"), train__learning_rate=2e-3, train__batch_size=16)


def test_numbers_of_numpy_are_numbers():
    assert foreign.flat({"a": {"b": np.float64(2.0)}, "c": [1, 2]}) == {"a.b": 2.0, "c": (1, 2)}


# --- names on the command line ---

ONE = f"--config={CONFIGS}/one_layer.py"
GARG = f"--config={CONFIGS}/garg_linear.py"
HINTS = [
    (ONE, "--config.lr=1", "--config.lr: unknown field; did you mean train.learning_rate?"),
    (ONE, "--config.model.num_layers=2", "did you mean model.n_layers?"),
    (ONE, "--lr=1", "--lr: unknown flag; did you mean --config.train.learning_rate?"),
    (ONE, "--dataset_size=1", "did you mean --config.task.n_context?"),
    (ONE, "--n_dims=1", "did you mean --config.task.d_input?"),
    (ONE, "--n_points=1", "did you mean --config.task.n_context?"),
    (ONE, "--use_softmax", "did you mean --config.model.attention=softmax?"),
    (GARG, "--n_embd=1", "did you mean --config.model.d_embed?"),
    (GARG, "--config.model.n_head=1", "did you mean model.n_heads?"),
    (ONE, "--bs=1", "did you mean --config.train.batch_size?"),
    (ONE, "--config.training.warmup_steps=1", "did you mean train.warmup?"),
    (ONE, "--n_layer=1", "did you mean --config.model.n_layers?"),
    (ONE, "--num_heads=1", "did you mean --config.model.n_heads?"),
    (ONE, "--max_steps=1", "did you mean --config.train.steps?"),
    (ONE, "--train_steps=1", "did you mean --config.train.steps?"),
    (ONE, "--save_every_steps=1", "did you mean --config.train.checkpoint_every?"),
    (ONE, "--training.batch_size=1", "did you mean --config.train.batch_size?"),
    (ONE, "--resume", "--resume: unknown flag; the same command again resumes"),
    (ONE, "--config.resume=True", "the same command again resumes"),
    (ONE, "--test_run", "--config=FILE:smoke"),
    (ONE, "--out_dir=x", "--workdir=DIR"),
    (ONE, "--wandb.project=x", "--config.train.wandb=PROJECT"),
    (ONE, "--config.model.use_attn_result=True", "model.run records activations and model.edit changes them"),
    (
        ONE,
        "--config.sparsity=3",
        "--config.sparsity: unknown field; accepted: ",
    ),  # one_layer has no sparse task
]


@pytest.mark.parametrize(("config", "word", "expected"), HINTS, ids=lambda value: value[-40:])
def test_names_of_theirs_lead_to_ours(config, word, expected):
    with pytest.raises(ConfigError) as error:
        parse(["run", config, word])
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


# --- flags of absl ---


def test_a_flagfile_holds_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("inner").write_text("--config.seeds=2\n--config.train.steps=9\n")
    Path("flags").write_text(f"# what runs\n\n// too\n{ONE}\n--flagfile=inner\n--noconfig.train.share_batches\n")
    found = parse(["run", "--flagfile=flags", "--config.train.steps=8"])
    are(found.experiment, seeds=2, train__steps=8, train__share_batches=False)
    assert parse(["run", "--flagfile", "flags"]).experiment["train.steps"] == 9
    assert "Fields of one_layer.py" in help_of(["run", "--flagfile=flags"])
    Path("flags").write_text(f"{ONE}\n--flagfile=nowhere\n")
    with pytest.raises(ConfigError, match=r"--flagfile: .*No such file or directory: 'nowhere'; give a text file"):
        parse(["run", "--flagfile=flags"])


@pytest.fixture
def _logging_as_it_was():
    names = {flags.FLAGS[name].name for name in flags.FLAGS}
    before = {name: (flags.FLAGS[name].value, flags.FLAGS[name].present) for name in names}
    yield
    for name, (value, present) in before.items():
        if flags.FLAGS[name].value != value:
            flags.FLAGS[name].value = value
        flags.FLAGS[name].present = present


@pytest.mark.usefixtures("_logging_as_it_was")
def test_flags_of_logging_are_those_of_absl(tmp_path):
    words = ["--logtostderr", "--noalsologtostderr", "--stderrthreshold=error", f"--log_dir={tmp_path}"]
    parse(["run", ONE, *words, "--v=1"])
    assert absl.logging.get_verbosity() == 1
    parse(["run", ONE, "--verbosity", "-2"])
    assert absl.logging.get_verbosity() == -2
    assert (flags.FLAGS["logtostderr"].value, flags.FLAGS["stderrthreshold"].value) == (True, "error")
    for bad in ("--stderrthreshold=loud", "--verbosity=loud"):
        with pytest.raises(ConfigError, match="loud"):
            parse(["run", ONE, bad])


# --- numbers ---


def test_a_whole_number_may_be_written_as_a_float():
    words = ["--config.train.steps=5e5", "--config.train.batch_size=(64.0,1.28e2)", "--config.seeds=2."]
    experiment = parse(["run", ONE, *words]).experiment
    are(experiment, train__steps=500_000, train__batch_size=(64, 128), seeds=2)
    assert all(type(value) is int for value in (experiment["train.steps"], *experiment["train.batch_size"]))
    are(parse(["run", GARG, "--config.train.active_inputs=5,1,2e3"]).experiment, train__active_inputs=(5, 1, 2000))
    for bad in ("1.5", "5e-1", "1e400", "e5"):
        with pytest.raises(ConfigError, match="whole number"):
            parse(["run", ONE, f"--config.train.steps={bad}"])


def test_a_thousands_separator_is_no_sweep():
    one_number = r"train.steps=500,001: write 500001 for one number, or '\(500, 1\)' for a sweep"
    with pytest.raises(ConfigError, match=one_number):
        parse(["run", ONE, "--config.train.steps=500,001"])
    with pytest.raises(ConfigError, match=r"task.pool=1,048,576: write 1048576 for one number, or"):
        parse(["run", ONE, "--config.task.pool=1,048,576"])
    are(parse(["run", ONE, "--config.train.steps=(500,100)"]).experiment, train__steps=(500, 100))
    are(parse(["run", ONE, "--config.task.n_context=5,10"]).experiment, task__n_context=(5, 10))
    are(parse(["run", ONE, "--config.train.clip=100,200"]).experiment, train__clip=(100, 200))
    are(parse(["run", GARG, "--config.train.active_points=11,100,200"]).experiment, train__active_points=(11, 100, 200))


def test_a_curriculum_that_starts_at_its_end_needs_no_increase():
    level = ["--config.train.active_inputs=20,0,10000", "--config.train.active_points=(41,0,1)"]
    are(parse(["run", GARG, *level]).experiment, train__active_inputs=(), train__active_points=())
    for word in ("active_inputs=10,0,10000", "active_points=40,0,10000"):
        with pytest.raises(ConfigError, match=r"with an increase of 0 it never ends at task\..*=(20|41)"):
            parse(["run", GARG, f"--config.train.{word}"])
    with pytest.raises(ConfigError, match=r"never ends at task\.d_input=5"):
        parse(["run", GARG, level[0], "--config.task.d_input=(20,5)"])


# --- the page ---


def test_every_name_of_a_codebase_is_on_the_page():
    for codebase in foreign.CODEBASES:
        tables = [codebase.table]
        tables += [its.kwargs for its in foreign.GARG_TASKS.values()] if codebase.table is foreign.GARG else []
        tables += [foreign.SINE] if codebase.table is foreign.VON_OSWALD else []
        rows = {name: row.hint or row.field for table in tables for name, row in table.items() if row.field}
        listed = {
            name: here
            for title, there, (here,), is_field in ROWS
            if is_field and title == codebase.title
            for name in there
        }
        assert listed == rows, codebase.title


@pytest.mark.parametrize(
    ("there", "here"), [(name, here) for _, there, (here,), is_field in ROWS if is_field for name in there]
)
def test_fields_of_the_page_are_fields(there, here):
    field = here.partition("=")[0]
    names = ("one_layer", "two_layers", "sine", "garg_linear", "garg_sparse", "garg_relu_network", "garg_decision_tree")
    assert any(field in load_once(name).fields for name in names)
    assert foreign.equivalent_fields()[there] == here
    of_theirs = {row.field for its in foreign.CODEBASES for row in its.table.values()}
    assert there not in of_theirs or there == here  # every name of another codebase has one meaning


def load_once(name, cache={}):  # noqa: B006
    return cache.setdefault(name, load(CONFIGS / f"{name}.py")) if name not in cache else cache[name]


def test_calls_of_the_page_run(conf, monkeypatch):
    python(conf.parent / "src" / "config.py", VON_OSWALD, "config = Config({!r})\n")
    python(conf.parent / "icl" / "configs" / "example.py", RAVENTOS)
    (setup,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    namespace: dict = {}
    exec(compile(setup, "docs/coming_from.md", "exec"), namespace)
    config, params = namespace["config"], namespace["params"]
    namespace["theirs"] = interop.to_von_oswald(config, params)
    model = icl_gd.Model(config, params, icl_gd.tokens.concatenated(4, 1))
    model.save("runs/my_model")
    monkeypatch.setattr(interop, "from_garg", lambda path: model)  # test_pretrained.py tests from_garg
    calls = [here for _, _, here, is_field in ROWS if not is_field]
    assert len(calls) > 15
    for (here,) in calls:
        if here.startswith("--config"):
            assert parse(["run", *here.split()]).experiment
        else:
            found: list = []

            def call(here=here, found=found):
                found.append(eval(here, namespace))

            # Tracing checks every shape, and compiles nothing.
            call() if here.startswith("interop") else jax.eval_shape(call)
            assert found[0] is not None, here
