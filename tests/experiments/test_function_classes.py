"""Runs on function classes record the errors of the model and of the chosen learners at every prompt length."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from whole import FAMILIES, FUNCTIONS, check_what_it_leaves, read  # from this directory

import icl_gd
from icl_gd import learners, plots
from icl_gd.lab import command, pipeline
from icl_gd.lab.command_line import parse
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.evaluation.measured import EVALUATION, Evaluation, held_out_key
from icl_gd.lab.evaluation.references import prefix_learners
from icl_gd.lab.lifecycle import monitor
from icl_gd.tasks import EVAL_SUITE
from icl_gd.training import Curriculum, Ramp

DRAWN = {picture.name: picture.draw for picture in prefix_learners.PICTURES}
CONFIGS = Path(__file__).parents[2] / "configs"
LINEAR, TREE = f"--config={CONFIGS}/garg_linear.py", f"--config={CONFIGS}/garg_decision_tree.py"


def test_it_records_every_family_and_learner(functions):
    done = read(functions)
    roles = ["trained", "least_squares", "tree_4", *(f"lasso_{alpha:g}" for alpha in prefix_learners.ALPHAS)]
    for family in ("standard", "orthogonal_query", "labels_double"):
        for role in roles:
            curve = done["curves"][f"normalised_error_{family}_{role}"]
            assert curve["x"] == [0, 1, 2, 3, 4]
            known = 2 if family == "orthogonal_query" else 5
            for low, mean, high in zip(*(curve[key][:known] for key in ("low", "mean", "high")), strict=True):
                assert low <= mean <= high
            assert curve["mean"][known:] == [None] * (5 - known)
    assert "normalised_error_standard_untrained" in done["curves"]
    exact = done["curves"]["normalised_error_standard_least_squares"]["mean"]
    np.testing.assert_allclose(exact[2:], 0.0, atol=1e-12)
    np.testing.assert_allclose(exact[:2], [1.0, 0.5], atol=0.4)
    apart = done["curves"]["normalised_error_orthogonal_query_least_squares"]["mean"]
    np.testing.assert_allclose(apart[1], 1.0, atol=0.4)

    def mean_error(role):
        return np.array(done["curves"][f"normalised_error_standard_{role}"]["mean"])

    trained = np.array(done["arrays"]["normalised_error_by_member"])  # [member n]
    lassos = np.min([mean_error(f"lasso_{alpha:g}") for alpha in prefix_learners.ALPHAS], axis=0)
    for name, beside in (("least_squares", exact), ("tree_4", mean_error("tree_4")), ("best_lasso", lassos)):
        excess = done["metrics"][f"excess_over_{name}"]["per_seed"]
        np.testing.assert_allclose(excess, (trained - beside).mean(1), rtol=1e-6)
    for name in ("normalised_error", "normalised_error_untrained", "excess_over_least_squares_around"):
        assert len(done["metrics"][name]["per_seed"]) == 2
    stems = sorted(path.stem for path in (functions / "figures").glob("*.png"))
    assert [stem[3:] for stem in stems] == [
        *("in_context_error", "prompt_families", "predicted_functions", "in_context_error_by_step")
    ]
    cosine = np.array(done["curves"]["sensitivity_cosine_function_least_squares"]["mean"][1:], float)
    np.testing.assert_allclose(cosine[1:], 1.0, atol=1e-9)  # for d = 2, two examples determine the function
    assert 0.4 < cosine[0] < 0.85  # one example determines a projection, with mean cosine 2/pi
    line = done["arrays"]["along_the_function"]
    assert line["examples"] == [1, 2, 4]
    np.testing.assert_allclose(line["least_squares"][1:], [line["function"]] * 2, atol=1e-9)
    assert np.shape(line["trained"]) == np.shape(line["least_squares"])
    assert "normalised_error_by_step" in done["curves"]
    means = {role: done["metrics"][f"normalised_error_{role}"]["mean"] for role in roles[1:]}
    _, labels = DRAWN["in_context_error_by_step"](done).axes[0].get_legend_handles_labels()
    assert labels[2] == plots.ROLES[min(means, key=means.__getitem__)][0]  # label of the best learner


def test_a_learner_without_a_colour_of_its_own_is_drawn_too(functions):
    done = read(functions)
    done["arrays"]["learners"].append("my_learner")
    for family in ("standard", "labels_double"):
        of = f"normalised_error_{family}_{{}}".format
        done["curves"][of("my_learner")] = done["curves"][of("least_squares")]
    for name in ("in_context_error", "prompt_families"):
        figure = DRAWN[name](done)
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        labels += [label for ax in figure.axes for label in ax.get_legend_handles_labels()[1]]
        assert "my learner" in labels, name
        plt.close(figure)


@pytest.mark.slow
def test_a_point_of_a_sweep_is_a_run_of_its_own(tmp_path):
    """A sweep over widths (one population each) and learning rates (within a population) equals single runs."""

    def of(name, *asked):
        (tmp_path / name).mkdir()
        words = (f"{LINEAR}:smoke", *FUNCTIONS, "--config.eval.suite=standard", *asked)
        words = (*words, "--config.eval.baselines=tree_4")  # the learner is the same in the sweep and in the single run
        pipeline.carry_out(parse(["run", *words, f"--workdir={tmp_path / name}"]), monitor.Stop())
        return read(tmp_path / name)

    swept = of("all", "--config.model.d_embed=(4, 8)", "--config.train.learning_rate=(1e-3, 1e-2)")
    alone = of("one", "--config.model.d_embed=8", "--config.train.learning_rate=1e-2")
    assert [tuple(point["fields"].values()) for point in swept["sweep"]] == [(4, 1e-3), (4, 1e-2), (8, 1e-3), (8, 1e-2)]
    for name, expected in alone["metrics"].items():
        np.testing.assert_allclose(swept["sweep"][-1]["metrics"][name]["per_seed"], expected["per_seed"], rtol=1e-4)
    assert [path.stem for path in (tmp_path / "all" / "figures").glob("*.png")] == ["01_sweep"]


def test_classes_of_fewer_examples_than_inputs():
    """On signs, the error of models and learners is the share of wrong signs. Here one model is the best learner
    (least squares), and the other predicts the opposite."""
    words = (
        "--config.task.name=signs",
        "--config.task.d_input=5",
        "--config.task.n_context=3",
        "--config.eval.suite=('standard','labels_double')",
        *FAMILIES[1:],
    )
    experiment = parse(["run", f"{LINEAR}:smoke", *FUNCTIONS, *words]).experiment

    def predictor_of(sign):
        return lambda x, y: sign * learners.prefix_least_squares(x, y)

    signs = np.array([1.0, -1.0], np.float32)
    trained = SimpleNamespace(params=signs, diverged_at=np.full(2, -1), prefix_predictor=predictor_of)
    study = Evaluation(
        experiment,
        prompts=None,
        points=[{}],
        train=None,
        read_history=None,
        trained=trained,
        untrained=signs[::-1],
        reference=None,
        watch=None,
        history={},
    )
    found = prefix_learners.evaluate(study)
    for family in ("standard", "labels_double"):
        for role in ("trained", "least_squares", "tree_4", "lasso_0.1"):
            curve = np.array(found.curves[f"normalised_error_{family}_{role}"]["mean"])
            # The error is twice the share of wrong signs among 64 prompts. Opposite models have a mean error of 1.
            np.testing.assert_allclose(32 * curve, np.round(32 * curve), atol=1e-4, err_msg=f"{family} {role}")
            if role == "trained":
                np.testing.assert_allclose(curve, 1.0, rtol=1e-6)
            else:
                assert curve[0] == 1.0
                assert curve[3] < 1.0
        ending = "" if family == "standard" else f"_{family}"
        by_member = np.array(found.arrays[f"normalised_error_by_member{ending}"])
        exact = found.curves[f"normalised_error_{family}_least_squares"]["mean"]
        np.testing.assert_allclose(by_member, [exact, 2 - np.array(exact)], rtol=1e-6)
    metrics = found.metrics()
    assert "excess_over_least_squares_below" in metrics
    assert "excess_over_least_squares_around" not in metrics


@pytest.mark.slow
def test_always_zero_has_error_one_whatever_inputs_weights_noise_and_scale_are():
    words = (
        "--config.task.name=affine",
        "--config.task.inputs=exponential",
        "--config.task.weights=laplace",
        "--config.task.noise=student",
        "--config.task.noise_std=0.5",
        "--config.task.input_scale=3",
        "--config.eval.prompts=2000",
        "--config.eval.suite=standard,inputs_third,noisy",
    )
    experiment = parse(["run", f"{LINEAR}:smoke", *FUNCTIONS, *words]).experiment
    law = experiment.eval_task
    assert (law.inputs, law.weights, law.noise, law.functions.d_input) == ("exponential", "laplace", "student", 2)
    assert law.label_variance == 9 * 2 + 1
    params = np.ones(2, np.float32)
    trained = SimpleNamespace(
        params=params, diverged_at=np.full(2, -1), prefix_predictor=lambda scale: lambda x, y: 0 * scale * y
    )
    study = Evaluation(
        experiment,
        prompts=None,
        points=[{}],
        train=None,
        read_history=None,
        trained=trained,
        untrained=params,
        reference=None,
        watch=None,
        history={},
    )
    found = prefix_learners.evaluate(study)
    for family in ("standard", "inputs_third", "noisy"):
        np.testing.assert_allclose(found.curves[f"normalised_error_{family}_trained"]["mean"], 1.0, atol=0.2)


def test_its_members_are_loaded_as_predictors_of_prefixes(functions):
    trained = icl_gd.load(functions)

    @jax.jit
    def predict(x, y):
        return trained.prefix_predictor(trained.member(1))(x, y), trained.predictors[0](x[:3], y[:3], x[3])

    of_prefixes, of_query = predict(jnp.zeros((5, 2)), jnp.zeros((5, 1)))
    assert of_prefixes.shape == (5, 1)
    assert of_query.shape == (1,)


def test_errors_are_those_of_the_members_over_the_variance_of_labels(functions):
    """Recomputes the errors from the loaded weights, one prompt at a time."""
    experiment = parse(["run", f"{LINEAR}:smoke", *FUNCTIONS, *FAMILIES]).experiment
    task, trained = EVAL_SUITE["labels_double"](experiment.eval_task), icl_gd.load(functions)

    @jax.jit
    def measure(key_eval):
        key = jax.random.fold_in(key_eval, sorted(EVAL_SUITE).index("labels_double"))
        predict = trained.predictor(trained.member(0))

        def errors(one):
            x, y, x_query, y_query, _ = task.sample_prefixes(one)
            return jnp.stack([(predict(x[:k], y[:k], x_query[k]) - y_query[k])[0] ** 2 for k in (0, 3)])

        return jax.lax.map(errors, jax.random.split(key, 64))

    errors = measure(held_out_key(experiment.seed, EVALUATION))
    by_member = np.array(read(functions)["arrays"]["normalised_error_by_member_labels_double"])
    np.testing.assert_allclose(by_member[0][[0, 3]], np.mean(errors, axis=0) / (4 * 2), rtol=1e-4)


def test_what_a_run_leaves(functions):
    check_what_it_leaves(functions)


def test_a_config_says_what_is_built():
    words = ("--config.task.function_pool=7", "--config.model.dtype=bfloat16")
    small = parse(["run", f"{TREE}:small", *words]).experiment
    model, task = small.network, small.training_source
    assert (model.d_embed, model.n_layers, model.n_heads, model.d_head) == (128, 6, 4, 32)
    assert (model.block_mlp_width, model.n_positions, model.dtype, model.causal) == (512, 201, "bfloat16", True)
    assert (task.functions.size, task.functions.functions.depth, task.n_context) == (7, 4, 100)
    assert small.settings.curriculum == Curriculum(Ramp(5, 20, 1, 2000), Ramp(26, 101, 5, 2000))
    toy = parse(["run", f"{LINEAR}:toy", "--config.train.active_points=(3,1,100)", "--config.task.pool=9"]).experiment
    assert toy.settings.curriculum == Curriculum(Ramp(5, 5), Ramp(3, 11, 1, 100))
    assert toy.training_source.size == 9


def test_a_library_that_is_missing_is_named(monkeypatch, capsys):
    import importlib.util

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["run", f"{TREE}:smoke"]) == 2
    error = capsys.readouterr().err
    assert "eval.baselines=tree_4: needs sklearn: pip install 'icl-gd[baselines]'" in error


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([LINEAR, "--config.task.covariance=1"], ["task.covariance: unknown field"]),
        ([LINEAR, "--config.task.corrupted_labels=1"], ["task.corrupted_labels: not a", "but of task=Regression(...)"]),
        ([LINEAR, "--config.task.inputs=spher"], ["task.inputs=spher", "one of normal, uniform", "mean sphere?"]),
        ([LINEAR, "--config.task.weights=sparse"], ["task.weights=sparse", "one of normal, laplace, mixture, student"]),
        ([TREE, "--config.task.name=signs", "--config.task.noise=laplace"], ["task.noise='laplace'", "leave it out"]),
        ([LINEAR, "--config.task.depth=3"], ["task.depth: not a field", "but of task.name=decision_tree"]),
        ([LINEAR, "--config.task.name=sine"], ["task.name=sine", "relu_network"]),
        ([LINEAR, "--config.task.name=spars"], ["task.name=spars", "one of linear, sparse", "did you mean sparse?"]),
        ([LINEAR, "--config.task.name=sparse", "--config.task.non_zeros=21"], ["task.non_zeros=21", "d_input=20"]),
        ([LINEAR, "--config.task.d_output=2"], ["task.d_output: not a field", "but of task=Regression(...)"]),
        ([LINEAR, "--config.model.layout=interleaved"], ["model.layout: not a field", "but of model.style=von_oswald"]),
        ([f"{LINEAR}:toy", "--config.model.style=von_oswald"], ["model.style=von_oswald", "needs gpt2"]),
        ([LINEAR, "--config.model.n_heads=3"], ["model.d_embed=256", "model.n_heads=3"]),
        ([LINEAR, "--config.model.dtype=float16"], ["model.dtype=float16", "did you mean bfloat16?"]),
        ([LINEAR, "--config.model.d_embed=(64, 30)"], ["model.d_embed=30", "model.n_heads=8"]),
        (
            [f"--config={CONFIGS}/sine.py", "--config.train.learning_rate=(1e-3,1e-4)"],
            ["train.learning_rate=(0.001, 0.0001)", "takes one value with reference.name=deep_features"],
        ),
        ([LINEAR, "--config.train.active_inputs=(5,1)"], ["train.active_inputs=(5, 1)", "a tuple of 3", "or ()"]),
        ([LINEAR, "--config.train.active_inputs=(21,1,2)"], ["train.active_inputs=(21, 1, 2)", "task.d_input=20"]),
        ([LINEAR, "--config.train.active_points=(42,1,2)"], ["train.active_points=(42, 1, 2)", "n_context + 1=41"]),
        ([LINEAR, "--config.eval.suite=('north',)"], ["eval.suite=", "north", "one of standard"]),
        ([LINEAR, "--config.eval.suite=()"], ["eval.suite=()", "baselines"]),
        ([LINEAR, "--config.eval.baselines=('tre',)"], ["eval.baselines=", "tre", "did you mean tree?"]),
        ([LINEAR, "--config.eval.baselines=tree,tre"], ["eval.baselines=", "tre", "did you mean tree?"]),
        ([LINEAR, "--config.eval.baselines=tree,tree"], ["eval.baselines=tree", "once"]),
        ([LINEAR, "--config.task.family=skewd"], ["task.family=skewd", "did you mean skewed?"]),
        ([LINEAR, "--config.task.family=orthogonal_query"], ["task.family=orthogonal_query", "one of standard"]),
        ([LINEAR, "--config.task.name=signs"], ["eval.suite=noisy", "task.name=signs"]),
        ([TREE, "--config.task.name=signs", "--config.task.noise_std=1"], ["task.noise_std=1", "signs"]),
        ([LINEAR, "--config.task.pool=3", "--config.task.function_pool=3"], ["task.function_pool=3", "one of the two"]),
        ([LINEAR, "--config.train.batch_size=10000000"], ["this run needs", "GiB", "train.batch_size=10000000"]),
        ([LINEAR, "--config.reference.steps=2"], ["reference.steps: unknown field"]),
        ([f"--config={CONFIGS}/one_layer.py", "--config.model.style=gpt2"], ["model.style=gpt2", "needs von_oswald"]),
    ],
)
def test_bad_input_is_named_with_what_would_do(words, said):
    with pytest.raises(ConfigError) as caught:
        parse(["run", *words])
    message = str(caught.value)
    assert message.removeprefix("--config.").startswith(said[0]), message
    for part in said:
        assert part in message, message
