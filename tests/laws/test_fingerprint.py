"""Measured filters are those of the learners, fitted ones have their numbers, and pictures show both."""

from functools import partial

import numpy as np
import pytest

from icl_gd import plots
from icl_gd.identification import Verdict, subject
from icl_gd.identification import fingerprint as module
from icl_gd.identification.fingerprint import filter_of, fingerprint
from icl_gd.tasks import LinearRegression

D, N, PENALTY = 3, 7, 1.5
TASK = LinearRegression(D, 2, N, inputs="normal", noise_std=0.5)
STRETCH = np.diag([2.0, 0.5, 0.5])  # trace d


def filtered(h, x, y, x_query, a=None):
    """The learner with the filter h of eigenvalues of S, with inputs in the coordinates of a preconditioner."""
    root = np.eye(D) if a is None else np.sqrt(a)
    z, z_query = x @ root, root @ x_query
    values, vectors = np.linalg.eigh(z.T @ z / N)
    return y.T @ z / N @ (vectors * (h(values) / values)) @ vectors.T @ z_query


@pytest.fixture(autouse=True)
def _few_prompts(monkeypatch):
    """A NumPy predictor is called for one prompt at a time."""
    monkeypatch.setattr(subject, "PROMPTS", 48)


STEPS, GAMMA, SCALE = [0.2, 0.1], 0.1, 0.05
FILTERS = {
    "ols": ({}, np.ones_like),
    "ridge": ({"penalty": PENALTY}, lambda v: v / (v + PENALTY / N)),
    "averaging": ({}, lambda v: v),
    "gd": ({"n_steps": 2, "step_sizes": STEPS}, lambda v: 1 - (1 - 0.2 * v) * (1 - 0.1 * v)),
    "gd_plus_plus": (
        {"n_steps": 2, "step_sizes": STEPS, "gammas": [GAMMA, 0.0]},
        lambda v: v * (0.2 + 0.1 * (1 - 0.2 * v) * (1 - GAMMA * v) ** 2),
    ),
    "momentum": (
        {"n_steps": 3, "step_sizes": [0.1] * 3, "momentum": 0.5},
        lambda v: v * _momentum(v),
    ),
    "newton": ({"n_steps": 2, "scale": SCALE}, lambda v: 1 - (1 - SCALE * v**2) ** 4),
}


def _momentum(v):
    p = velocity = 0.0
    for _ in range(3):
        velocity = 0.5 * velocity + 0.1 * (1 - v * p)
        p = p + velocity
    return p


@pytest.mark.parametrize("verdict", FILTERS)
def test_the_filter_of_a_verdict_is_that_of_its_numbers(verdict):
    parameters, h = FILTERS[verdict]
    p = filter_of(verdict, parameters, N)
    values = np.linspace(0.05, 3, 20)
    np.testing.assert_allclose(values * p(np.zeros(0), values)[0], h(values), rtol=1e-12)


def test_other_algorithms_have_no_filter():
    for verdict, parameters in {
        "none": {}, "zero": {}, "lasso": {"alpha": 1.0}, "nearest_neighbours": {"neighbours": 2},
        "newton": {"n_steps": 1, "scale": "1 / trace(S^2)"},
    }.items():  # fmt: skip
        assert filter_of(verdict, parameters, N) is None


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_a_constant_filter_is_measured_exactly(share, monkeypatch):
    """At every scale, and without an algorithm: a share of least squares, whose p is not constant."""
    monkeypatch.setattr(module, "SHOWN", ())
    seen = fingerprint(partial(filtered, lambda v: share * np.ones_like(v)), TASK)
    assert [scale.t for scale in seen.scales] == [1.0, 0.5, 0.25, 2.0]
    for scale in seen.scales:
        np.testing.assert_allclose(scale.values, share, rtol=1e-10)
        assert scale.deviations.max() < 1e-10
        assert np.all(np.diff(scale.eigenvalues) > 0)
    np.testing.assert_allclose(seen.scales[1].eigenvalues, seen.scales[0].eigenvalues / 4, rtol=1e-9)
    assert seen.symmetric
    assert not seen.hypotheses


def test_a_filter_that_varies_is_measured_within_its_bins(monkeypatch):
    monkeypatch.setattr(module, "SHOWN", ("ridge", "ols", "gd"))
    h = FILTERS["ridge"][1]
    verdict = Verdict("ridge", {"penalty": PENALTY})
    seen = fingerprint(partial(filtered, h), TASK, verdict, bins=12)
    for scale in seen.scales:
        np.testing.assert_allclose(scale.values, h(scale.eigenvalues), atol=0.08)
        low, high = scale.interval
        assert np.mean((low <= h(scale.eigenvalues)) & (h(scale.eigenvalues) <= high)) > 0.6
    assert [*seen.hypotheses] == ["ridge", "ols", "gd"]  # the verdict first, then in the order of SHOWN
    ridge = seen.hypotheses["ridge"]
    assert not ridge.is_excluded
    assert ridge.misfits.max() < 1e-20
    assert seen.hypotheses["ols"].is_excluded
    assert seen.hypotheses["gd"].is_excluded
    np.testing.assert_allclose(ridge.values(np.array([0.5])), h(0.5), rtol=1e-12)


def test_families_are_fitted_with_the_fewest_steps(monkeypatch):
    monkeypatch.setattr(module, "SHOWN", ("gd", "newton"))
    seen = fingerprint(partial(filtered, lambda v: 1 - (1 - 0.3 * v) ** 3), TASK)
    gd = seen.hypotheses["gd"]
    assert gd.name == "gradient descent, 3 steps"
    np.testing.assert_allclose(gd.parameters["step_sizes"], 0.3, rtol=1e-8)
    assert not gd.is_excluded
    assert seen.hypotheses["newton"].is_excluded


def test_curves_are_those_of_the_measurement(monkeypatch):
    monkeypatch.setattr(module, "SHOWN", ("gd", "ols"))
    seen = fingerprint(partial(filtered, FILTERS["ridge"][1]), TASK, Verdict("ridge", {"penalty": PENALTY}))
    by_factor = {scale.label: scale for scale in seen.scales}
    assert [*seen.measured] == [f"measured, inputs × {t}" for t in ("0.25", "0.5")] + [
        "measured",
        "measured, inputs × 2",
    ]
    assert seen.usual == ["measured", "measured, inputs × 0.5", "measured, inputs × 0.25"]
    for label, curve in seen.measured.items():
        np.testing.assert_array_equal([curve["low"], curve["high"]], by_factor[label].interval)
        np.testing.assert_array_equal(
            [curve["x"], curve["mean"]], [by_factor[label].eigenvalues, by_factor[label].values]
        )
    assert [*seen.fitted] == [*seen.exclusions] == ["ridge", "gd", "ols"]
    ridge = seen.fitted["ridge"]
    assert ridge["x"][0] < min(curve["x"].min() for curve in seen.measured.values())
    assert ridge["x"][-1] > max(curve["x"].max() for curve in seen.measured.values())
    np.testing.assert_allclose(ridge["mean"], FILTERS["ridge"][1](ridge["x"]), rtol=1e-10)
    for family, curve in seen.exclusions.items():
        hypothesis = seen.hypotheses[family]
        assert np.all(np.diff(curve["x"]) > 0)
        assert curve["mean"].max() == pytest.approx((hypothesis.misfits / hypothesis.limits).max())
        assert curve["mean"][curve["x"] == 1] == hypothesis.misfits[0] / hypothesis.limits[0]
        assert curve["label"] == seen.fitted[family]["label"] == hypothesis.name
        assert (curve["mean"].max() > 1) == hypothesis.is_excluded == (family != "ridge")


def test_a_preconditioner_is_undone(monkeypatch):
    monkeypatch.setattr(module, "SHOWN", ())
    predict = partial(filtered, lambda v: 0.2 * v, a=STRETCH)
    verdict = Verdict("preconditioned_gd", {"n_steps": 1, "step_sizes": [0.2], "preconditioner": STRETCH.tolist()})
    seen = fingerprint(predict, TASK, verdict)
    assert seen.is_whitened
    assert seen.symmetric
    assert seen.hypotheses["preconditioned_gd"].misfits.max() < 1e-20
    assert not fingerprint(predict, TASK).symmetric
    verdict.parameters["preconditioner"][0][1] = 1.0  # not symmetric
    assert not fingerprint(predict, TASK, verdict).is_whitened


# Pictures.

CURVE = {"x": [0.1, 1.0, 10.0], "mean": [0.2, 0.9, 5.0], "low": [0.1, 0.8, 4.0], "high": [0.4, 1.0, 6.0]}
USUAL = {"x": [0.1, 1.0], "mean": [-0.2, 1.2], "low": [-0.3, 1.0], "high": [0.0, 1.4]}
FITTED = {"ridge": {"x": [0.1, 1.0], "mean": [0.1, 0.6]}, "gd": {"x": [0.1, 1.0], "mean": [0.2, 0.9], "label": "mine"}}


def test_filters_are_drawn_as_points_and_lines():
    _, ax = plots.subplots(figsize=(plots.COLUMN, 2.5))
    with plots.style():
        assert plots.spectral_filters(ax, {"one": USUAL, "two": CURVE}, FITTED, answer="gd", framed=["one"]) is ax
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["ridge regression", "mine", "one", "two"]
    ridge, gd = (line for line in ax.lines if line.get_label() in ("ridge regression", "mine"))
    assert gd.get_linewidth() > ridge.get_linewidth()
    assert ridge.get_ydata().tolist() == [0.1, 0.6]
    bars = [np.array([each[:, 1] for each in one[2][0].get_segments()]) for one in ax.containers]
    np.testing.assert_allclose(bars[0], [[-0.3, 0.0], [1.0, 1.4]])
    np.testing.assert_allclose(bars[1], [[0.1, 0.4], [0.8, 1.0]])  # the third is outside of the frame
    (beyond,) = (line for line in ax.lines if line.get_marker() == "^" and len(line.get_xdata()))
    assert beyond.get_xdata().tolist() == [10.0]
    low, high = ax.get_ylim()
    assert (low, high) == pytest.approx((-0.34, 1.34))
    assert ax.get_xscale() == "log"


def test_misfits_are_drawn_by_scale():
    _, ax = plots.subplots(figsize=(plots.COLUMN, 2.5))
    misfits = {
        "gd": {"x": [0.25, 1.0, 2.0**1.5], "mean": [-0.3, 0.5, 40.0]},
        "ols": {"x": [0.5], "mean": [7.0], "label": "mine"},
    }
    with plots.style():
        assert plots.misfits_by_scale(ax, misfits, answer="gd") is ax
    gd, ols = ax.lines
    assert gd.get_ydata().tolist() == [0.1, 0.5, 40.0]
    assert ols.get_ydata().tolist() == [7.0]
    assert gd.get_linewidth() > ols.get_linewidth()
    assert ax.get_legend_handles_labels()[1] == ["gradient descent", "mine", "not excluded"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.25", "0.5", "1", "2"]
    (accepted,) = ax.patches
    assert accepted.get_y() + accepted.get_height() == 1.0
    assert ax.get_ylim()[0] == accepted.get_y() < 0.1
    with pytest.raises(ValueError, match="gd has values that are not finite"):
        plots.misfits_by_scale(ax, {"gd": {"x": [1.0], "mean": [np.nan]}})


@pytest.mark.parametrize(
    ("measured", "fitted", "message"),
    [
        ({}, {}, "measured is empty"),
        ({"one": {**USUAL, "mean": [1.0]}}, {}, "one has parts of shapes"),
        ({"one": {**USUAL, "low": [0.0, np.nan]}}, {}, "one has values that are not finite"),
        ({"one": {**USUAL, "x": [0.0, 1.0]}}, {}, "eigenvalues that are not positive"),
        ({"one": USUAL}, {"gd": {"x": [1.0], "mean": [np.inf]}}, "gd has values that are not finite"),
    ],
)
def test_what_cannot_be_drawn_is_refused(measured, fitted, message):
    _, ax = plots.subplots(figsize=(plots.COLUMN, 2.0))
    with pytest.raises(ValueError, match=message):
        plots.spectral_filters(ax, measured, fitted)
