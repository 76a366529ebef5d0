"""Evaluation on prompts that are longer or shorter than those of training (`eval.n_context`)."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.legend import Legend
from whole import FUNCTIONS, complete, read  # from this directory

import icl_gd
from icl_gd import learners
from icl_gd.lab import GPT2, Experiment, PrefixLearners
from icl_gd.lab.command_line import parse
from icl_gd.lab.config.errors import ConfigError
from icl_gd.lab.config.parts import Eval
from icl_gd.lab.config.resources import memory_needed
from icl_gd.lab.evaluation import pictures
from icl_gd.lab.evaluation.analyses import predicted_functions
from icl_gd.lab.evaluation.measured import Evaluation
from icl_gd.lab.evaluation.references import prefix_learners
from icl_gd.training import Curriculum, Ramp, initialise

CONFIGS = Path(__file__).parents[2] / "configs"
LINEAR = f"--config={CONFIGS}/garg_linear.py:smoke"
FEW = (*FUNCTIONS, "--config.eval.suite=standard", "--config.eval.baselines=least_squares")  # 4 examples in training
OVER_PLACES = {
    picture.name: picture.draw
    for picture in (*prefix_learners.PICTURES, *predicted_functions.ANALYSIS.figures)
    if picture.name != "in_context_error_by_step"
}
COSINES = ("least_squares_trained", "least_squares_untrained", "function_trained", "function_least_squares")


def asked(*words):
    return parse(["run", LINEAR, *FEW, *words]).experiment


def test_training_and_evaluation_have_their_own_lengths():
    words = ("--config.train.active_points=(2,1,10)", "--config.task.pool=3")
    for n, longest in ((7, 7), (2, 4), (None, 4)):
        one = asked(*words, f"--config.eval.n_context={n}")
        assert one.eval_task.n_context == (n or 4)
        assert (one.train_task.n_context, one.training_source.n_context) == (4, 4)
        assert one.network.n_positions == 2 * longest + 1
        assert one.settings.curriculum == Curriculum(Ramp(2, 2), Ramp(2, 5, 1, 10))
        assert one.resolved()[0]["task"]["n_context"] == 4
        assert list(one.never_trained) == list(range(5, longest + 1))
    # A curriculum that starts at its end is replaced by (). The end is the length of training prompts.
    assert asked("--config.train.active_points=(5,0,10)", "--config.eval.n_context=7").train.active_points == ()
    with pytest.raises(ConfigError, match=r"task\.n_context \+ 1=5"):
        asked("--config.train.active_points=(6,1,10)", "--config.eval.n_context=7")
    swept = asked("--config.task.n_context=(4,9)", "--config.eval.n_context=7")
    assert [one.network.n_positions for _, one in swept.populations()] == [15, 19]
    assert [one.eval_task.n_context for _, one in swept.populations()] == [7, 7]


def test_memory_is_that_of_both_lengths():
    many = "--config.train.batch_size=100000"
    step, longer = (memory_needed(asked(many, *more)) for more in ((), ("--config.eval.n_context=8",)))
    assert step < longer < 1.01 * step  # training steps do not become longer
    few, measured = (memory_needed(asked(*more)) for more in ((), ("--config.eval.n_context=400",)))
    assert measured > 30 * few  # memory for attention on a few prompts at a time
    many = "--config.eval.prompts=10000000"
    few, measured = (memory_needed(asked(many, *more)) for more in ((), ("--config.eval.n_context=8",)))
    assert 1.8 < measured / few < 1.9  # prompts have 17 tokens instead of 9


@pytest.mark.parametrize(
    ("config", "value", "said"),
    [
        ("garg_linear", "0", ["eval.n_context=0", "at least 1, or None"]),
        ("garg_linear", "5,6", ["eval.n_context=(5, 6)", "takes one value"]),
        ("garg_linear", "100000", ["this run needs about", "GiB", "eval.n_context=100000"]),
        (
            "one_layer",
            "5",
            [
                "eval.n_context=5: reference.name=gradient_descent",
                "None",
                "analyses=shifts evaluates 0.5, 1, 2, 4 times task.n_context=10 examples",
            ],
        ),
        ("sine", "5", ["eval.n_context=5: reference.name=deep_features", "None", "icl_gd.load(workdir)"]),
        ("dual_model", "5", ["eval.n_context=5: reference.name=one_step", "None", "icl_gd.load(workdir)"]),
    ],
)
def test_what_is_refused_is_said(config, value, said):
    with pytest.raises(ConfigError) as caught:
        parse(["run", f"--config={CONFIGS}/{config}.py", f"--config.eval.n_context={value}"])
    message = str(caught.value)
    assert message.startswith(said[0])
    assert all(part in message for part in said), message


@dataclass(frozen=True)
class Fixed:
    """A task with a fixed prompt length, which is not a field."""

    name: ClassVar[str] = "fixed"
    n_context: ClassVar[int] = 4
    d_input: int = 2
    d_output: ClassVar[int] = 1

    def sample(self, key):
        raise NotImplementedError


class OfAny(PrefixLearners):
    tasks = (object,)


def test_a_task_of_ones_own_needs_the_field():
    with pytest.raises(ConfigError, match=r"eval.n_context=5: .*field n_context.* only None is accepted"):
        Experiment(task=Fixed(), model=GPT2(), reference=OfAny(), eval=Eval(n_context=5))


def test_what_is_never_trained_is_said_once_before_training():
    def prepare(*words):
        return PrefixLearners().prepare(SimpleNamespace(experiment=asked(*words)))

    with pytest.warns(UserWarning, match=r"n_context=7: .* after 5 to 7 examples are never trained, .*n_context=4;"):
        prepare("--config.eval.n_context=7")
    with pytest.warns(UserWarning, match="eval.n_context=5: .* after 5 examples are never trained"):
        prepare("--config.eval.n_context=5")
    prepare("--config.eval.n_context=3")  # no warning: the tests turn warnings into errors
    prepare()


@pytest.fixture(scope="module")
def found():
    """Records of two members that predict plus and minus least squares up to 4 examples (as in training).

    After more examples their predictions are off by 100.
    """

    def predictor_of(sign):
        def predict(x, y):
            off = jnp.where(jnp.arange(len(x)) > 4, 100.0, 0.0)
            return sign * learners.prefix_least_squares(x, y) + off[:, None]

        return predict

    signs = np.array([1.0, -1.0], np.float32)
    study = Evaluation(
        asked("--config.eval.n_context=7"),
        prompts=None,
        points=[{}],
        train=None,
        read_history=None,
        trained=SimpleNamespace(params=signs, diverged_at=np.full(2, -1), prefix_predictor=predictor_of),
        untrained=signs,
        reference=None,
        watch=None,
        history={},
    )
    return prefix_learners.evaluate(study)


def test_members_are_judged_by_what_they_were_trained_on(found):
    curves = {role: found.curves[f"normalised_error_standard_{role}"] for role in ("trained", "least_squares")}
    assert all(curve["x"] == list(range(8)) for curve in curves.values())
    assert min(curves["trained"]["mean"][5:]) > 100
    assert found.is_free.tolist() == [True, False]
    assert min(found.metrics()["normalised_error"]["per_seed"]) > 100  # a mean over all measured lengths


def test_figures_over_places_show_where_training_ended(found):
    """Figures and captions mark the lengths beyond training, if there are any, using results.json alone."""
    of = "normalised_error_{}_{}".format
    also = {of("labels_half", role): found.curves[of("standard", role)] for role in ("trained", "least_squares")}
    also |= {f"sensitivity_cosine_{name}": found.curves[of("standard", "trained")] for name in COSINES}
    along = {"x": [0, 1], "examples": [7], "function": [0, 1], "least_squares": [[0, 1]], "trained": [[0, 1]]}
    arrays = {**found.arrays, "other_families": ["labels_half"], "along_the_function": along}
    done = json.loads(json.dumps({"curves": found.curves | also, "arrays": arrays, "metrics": found.metrics()}))
    for is_longer in (True, False):
        captions = {stem[3:]: caption for stem, caption in pictures.captions(done).items()}
        for name, draw in OVER_PLACES.items():
            figure = draw(done)
            ax = figure.axes[-1]
            shaded = [patch for patch in ax.patches if patch.get_label() == "longer than in training"]
            lines = [line for line in ax.lines if list(line.get_xdata()) == [4, 4]]
            assert len(shaded) == len(lines) == is_longer, name
            for patch in shaded:
                box = patch.get_extents().transformed(ax.transData.inverted())
                np.testing.assert_allclose((box.x0, box.x1), (4, ax.get_xlim()[1]))
            legends = [text.get_text() for its in figure.findobj(Legend) for text in its.get_texts()]
            assert ("longer than in training" in legends) == is_longer, name
            assert ("Training prompts have 4 examples" in captions[name]) == is_longer, name
            plt.close(figure)
        done["arrays"].pop("trained_n_context", None)


@pytest.mark.slow
def test_a_run_on_longer_prompts_trains_as_one_without_them(tmp_path, capsys):
    """Shared weights are equal bit for bit. Position vectors beyond the training length keep their initial values."""
    beside = (*FEW, "--config.analyses=()")
    plain = complete("garg_linear", tmp_path / "plain", *beside)
    capsys.readouterr()
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as an error, the warning would end the run
        longer = complete("garg_linear", tmp_path / "longer", *beside, "--config.eval.n_context=7")
    said = capsys.readouterr()
    assert (said.out + said.err).count("after 5 to 7 examples are never trained, because task.n_context=4") == 1
    ours, theirs = (icl_gd.load(workdir).params for workdir in (longer, plain))
    positions = np.asarray(ours.pop("positions"))
    np.testing.assert_array_equal(positions[:, :9], theirs.pop("positions"))
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    experiment = asked(*beside, "--config.eval.n_context=7")
    start = initialise(experiment.network, experiment.settings, experiment.seed, experiment.seeds).member.params
    np.testing.assert_array_equal(positions[:, 9:], np.asarray(start["positions"])[:, 9:])
    assert not np.array_equal(positions[:, :9], np.asarray(start["positions"])[:, :9])

    done, before = read(longer), read(plain)
    assert set(done["arrays"]) - set(before["arrays"]) == {"trained_n_context"}
    assert set(done["curves"]) == set(before["curves"])
    assert done["curves"]["normalised_error_standard_trained"]["x"] == list(range(8))
    assert "predictions after more examples (shaded) were never trained" in (longer / "report.html").read_text()
    stored = [json.loads((workdir / "config.json").read_text())["config"]["eval"] for workdir in (longer, plain)]
    assert [its["n_context"] for its in stored] == [7, None]

    asked(*beside, f"--workdir={plain}")  # the same settings again are accepted
    with pytest.raises(ConfigError, match=r"eval.n_context \(stored None, requested 7\)"):
        asked(*beside, "--config.eval.n_context=7", f"--workdir={plain}")
    config = json.loads((plain / "config.json").read_text())
    del config["config"]["eval"]["n_context"]  # as written by a version without this field
    (plain / "config.json").write_text(json.dumps(config))
    asked(*beside, f"--workdir={plain}")
