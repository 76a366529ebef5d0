"""Pictures show the arrays they are given, in the colours of the house and without overlaps, or refuse them."""

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgba

from icl_gd import plots
from icl_gd.analysis.symmetries import STATEMENTS, Violation
from icl_gd.plots import inside, maps

LAYERS, HEADS, TOKENS, MEMBERS = 2, 3, 7, 4


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def grid(layers=LAYERS, heads=HEADS, width=plots.PAGE):
    figure, axes = plots.subplots(layers, heads, figsize=(width, 1.5 * layers + 0.5), squeeze=False)
    return figure, axes


def one(height=2.0, width=plots.COLUMN):
    return plots.subplots(figsize=(width, height))


def shown(ax):
    return np.asarray(ax.images[0].get_array())


def ticks(ax, which):
    return [text.get_text() for text in (ax.get_xticklabels() if which == "x" else ax.get_yticklabels())]


def overlaps(figure, texts):
    """Pairs of texts whose boxes overlap when the figure is drawn."""
    with plots.style():
        figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    return [(i, j) for i in range(len(boxes)) for j in range(i) if boxes[i].overlaps(boxes[j])]


# Names of tokens.


def test_tokens_are_named_by_example_with_the_query_last():
    assert plots.token_names(2) == ["1", "2", "q"]
    assert plots.token_names(2, True) == ["$x_{1}$", "$y_{1}$", "$x_{2}$", "$y_{2}$", "$x_q$"]


# Attention.

NAMES = plots.token_names(TOKENS // 2, True)


@pytest.mark.parametrize("own_scale", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_patterns_are_shown_by_layer_and_head(signed, own_scale):
    patterns = random(LAYERS, HEADS, TOKENS, TOKENS)
    patterns = patterns if signed else np.abs(patterns)
    figure, axes = grid()
    assert plots.attention_patterns(axes, patterns, NAMES, own_scale=own_scale) is axes
    assert len(figure.axes) == LAYERS * HEADS + (not own_scale)  # one colour bar
    for (layer, head), ax in np.ndenumerate(axes):
        np.testing.assert_array_equal(shown(ax), patterns[layer, head])
        assert ax.get_title().startswith(f"L{layer} H{head}")
        image, high = ax.images[0], np.abs(patterns[layer, head] if own_scale else patterns).max()
        assert image.get_clim() == pytest.approx((-high if signed else 0.0, high))
        assert image.cmap.name == ("PuOr_r" if signed else "PuOr_r from zero")
        assert (f"{high:.2g}" in ax.get_title()) == own_scale
        assert ticks(ax, "y") == (NAMES if head == 0 else [])
        assert ticks(ax, "x") == (NAMES if layer == LAYERS - 1 else [])


def test_members_are_averaged_or_one_is_shown():
    patterns = random(MEMBERS, LAYERS, HEADS, TOKENS, TOKENS)
    for member, expected in ((None, patterns.mean(0)), (1, patterns[1]), (-1, patterns[-1])):
        _, axes = grid()
        plots.attention_patterns(axes, patterns, NAMES, member=member)
        np.testing.assert_allclose(shown(axes[1, 2]), expected[1, 2], rtol=1e-12)


@pytest.mark.parametrize("width", [plots.COLUMN, plots.PAGE])
@pytest.mark.parametrize("own_scale", [False, True])
def test_layers_of_one_head_may_stand_side_by_side(own_scale, width):
    patterns, names = random(5, 1, 11, 11), plots.token_names(10)
    with plots.style():
        figure, axes = plots.subplots(1, 5, figsize=(width, width / 5 + 0.4), squeeze=False)
        plots.attention_patterns(axes.T, patterns, names, own_scale=own_scale)
    titles, labels = [ax.title for ax in axes[0]], [ax.xaxis.label for ax in axes[0]]
    assert overlaps(figure, titles) == overlaps(figure, labels) == []
    assert [title.get_text()[:5] for title in titles] == [f"L{layer} H0" for layer in range(5)]
    assert [bool(ticks(ax, "y")) for ax in axes[0]] == [True, False, False, False, False]
    assert all(ticks(ax, "x")[-1] == "q" for ax in axes[0])
    written = [label.get_text() for label in labels]
    assert written == (["key token"] * 5 if width == plots.PAGE else ["", "", "key token", "", ""])
    if not own_scale:  # the colour bar is as high as the panels
        heights = [ax.get_window_extent().height for ax in (axes[0, 0], figure.axes[-1])]
        assert heights[1] == pytest.approx(heights[0], rel=0.02)


def test_axes_outside_a_grid_are_named_on_both_sides():
    figure, _ = one()
    ax = figure.add_axes((0.1, 0.1, 0.8, 0.8))
    plots.attention_patterns([[ax]], random(1, 1, 3, 3), ["a", "b", "c"], own_scale=True)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("key token", "query token")
    assert ticks(ax, "x") == ticks(ax, "y") == ["a", "b", "c"]


@pytest.mark.parametrize("width", [plots.COLUMN, plots.PAGE])
@pytest.mark.parametrize(("n_context", "separate"), [(10, False), (10, True), (20, True), (40, False)])
def test_names_of_tokens_do_not_overlap(n_context, separate, width):
    names = plots.token_names(n_context, separate)
    with plots.style():
        figure, axes = grid(2, 2, width)
        plots.attention_patterns(axes, np.ones((2, 2, len(names), len(names))), names)
    for texts in (axes[1, 0].get_xticklabels(), axes[0, 0].get_yticklabels()):
        assert overlaps(figure, texts) == []
        assert texts[-1].get_text() == names[-1]
        assert len(texts) >= 4
    if separate and len(texts) < len(names):
        assert {text.get_text()[1] for text in texts} == {"x"}


@pytest.mark.parametrize(
    ("shape", "names", "more", "words"),
    [
        ((HEADS, TOKENS, TOKENS), NAMES, {}, r"patterns have shape \(3, 7, 7\)"),
        ((HEADS, LAYERS, TOKENS, TOKENS), NAMES, {}, r"axes \(2, 3\)"),
        ((LAYERS, HEADS, TOKENS, TOKENS), NAMES[:-1], {}, "one name for each"),
        ((LAYERS, HEADS, 1, TOKENS), NAMES, {}, "one name for each"),
        ((LAYERS, HEADS, TOKENS, TOKENS), NAMES, {"member": 0}, "member=0"),
        ((MEMBERS, LAYERS, HEADS, TOKENS, TOKENS), NAMES, {"member": MEMBERS}, f"member={MEMBERS}"),
    ],
)
def test_patterns_of_other_shapes_are_refused(shape, names, more, words):
    with pytest.raises(ValueError, match=words):
        plots.attention_patterns(grid()[1], np.ones(shape), names, **more)


def test_patterns_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        plots.attention_patterns(grid()[1], np.full((LAYERS, HEADS, TOKENS, TOKENS), np.nan), NAMES)


# Heat maps.

MAPS = {  # values, limits -> colour map, ends, which ends of the colour bar are pointed
    "positive": ([[0.1, 0.4], [0.0, 0.8]], None, "PuOr_r from zero", (0, 0.8), "neither"),
    "signed": ([[0.1, -0.4], [0.0, 0.2]], None, "PuOr_r", (-0.4, 0.4), "neither"),
    "shares": ([[0.1, 0.4], [0.0, 0.8]], (0, 1), "PuOr_r from zero", (0, 1), "neither"),
    "above": ([[0.1, 0.4], [0.0, 1.8]], (0, 1), "PuOr_r from zero", (0, 1), "max"),
    "below": ([[0.1, -0.4], [0.0, 0.8]], (0, 1), "PuOr_r from zero", (0, 1), "min"),
    "rounding": ([[0.1, -0.001], [0.0, 1.001]], (0, 1), "PuOr_r from zero", (0, 1), "neither"),
    "both": ([[2.0, -1.4], [0.0, 0.8]], (-1, 1), "PuOr_r", (-1, 1), "both"),
    "zero": ([[0.0, 0.0], [0.0, 0.0]], None, "PuOr_r from zero", (0, 1), "neither"),
}


@pytest.mark.parametrize("name", MAPS)
def test_a_map_shows_its_values_in_colours_and_numbers(name):
    values, limits, cmap, ends, extend = MAPS[name]
    figure, ax = one()
    assert plots.site_map(ax, values, ["$x_1$", "$x_q$"], label="effect", title="title", limits=limits) is ax
    np.testing.assert_array_equal(shown(ax), values)
    image = ax.images[0]
    assert (image.cmap.name, image.get_clim()) == (cmap, ends)
    assert (image.colorbar.extend, image.colorbar.ax.get_ylabel()) == (extend, "effect")
    assert len(figure.axes) == 2
    assert all(spine.get_visible() for spine in ax.spines.values())  # zero is white
    assert ticks(ax, "x") == ["$x_1$", "$x_q$"]
    assert ticks(ax, "y") == ["L0", "L1"]
    assert ax.get_title() == "title"
    assert [text.get_text() for text in ax.texts] == [maps.short(value) for row in values for value in row]
    for text, value in zip(ax.texts, np.ravel(values), strict=True):
        background = image.cmap(image.norm(value))[:3]
        assert abs(np.dot(background, [0.299, 0.587, 0.114]) - to_rgba(text.get_color())[0]) >= 0.5


def test_a_colour_means_the_same_on_both_scales():
    images = []
    for values in ([[0.3, 0.0]], [[0.3, -1.0]]):
        _, ax = one()
        plots.site_map(ax, values, ["a", "b"], label="effect", limits=(min(values[0][1], 0.0), 1.0))
        images.append(ax.images[0])
    for value in np.linspace(0.0, 1.0, 11):
        colours = [image.cmap(image.norm(value)) for image in images]
        np.testing.assert_allclose(*colours, atol=0.03)
    np.testing.assert_allclose(images[1].cmap(images[1].norm(0.0)), [1, 1, 1, 1], atol=0.04)


def test_the_label_of_a_colour_bar_is_broken_if_the_map_is_low():
    label = "share of the prediction that patching restores"
    for height in (0.9, 4.0):
        with plots.style():
            figure, ax = one(height)
            plots.site_map(ax, random(2, 3), ["a", "b", "c"], label=label)
            figure.draw_without_rendering()
        bar = ax.images[0].colorbar.ax
        assert bar.get_ylabel().replace("\n", " ") == label
        assert ("\n" in bar.get_ylabel()) == (height < 1)
        extent, whole = bar.yaxis.label.get_window_extent(), figure.bbox
        assert whole.x0 <= extent.x0 < extent.x1 <= whole.x1
        assert extent.y1 - extent.y0 <= whole.height


def test_numbers_are_short():
    numbers = {0.0: "0", -0.004: "0", 0.521: ".52", -0.03: "-.03", 1.0: "1.0", 0.999: "1.0", -1.44: "-1.4", 12.3: "12"}
    assert {number: maps.short(number) for number in numbers} == numbers
    assert maps.short(np.nan) == ""
    assert maps.short(9.96) == "10"


def test_numbers_are_written_only_where_they_fit():
    written = {}
    for columns in (11, 21, 81):
        for width in (plots.COLUMN, plots.PAGE):
            with plots.style():
                figure, ax = one(1.6, width)
                plots.site_map(ax, random(3, columns), [str(i) for i in range(columns)], label="effect")
            written[columns, width] = len(ax.texts)
            assert overlaps(figure, ax.texts) == []
            assert overlaps(figure, ax.get_xticklabels()) == []
    assert written[11, plots.COLUMN] == 33
    assert written[21, plots.COLUMN] == written[81, plots.PAGE] == 0
    assert written[21, plots.PAGE] == 63


def test_a_value_that_is_missing_is_grey():
    _, ax = one()
    plots.site_map(ax, [[np.nan, 1.0]], ["a", "b"], label="effect", rows=["all"])
    assert ax.images[0].cmap(np.ma.masked_invalid([np.nan]))[0] == pytest.approx(to_rgba("#cccccc"))
    assert [text.get_text() for text in ax.texts] == ["", "1.0"]
    assert ticks(ax, "y") == ["all"]


@pytest.mark.parametrize(
    ("values", "columns", "more", "words"),
    [
        ([[1.0, 2.0]], ["a"], {}, "one name for each"),
        ([[1.0, 2.0]], ["a", "b"], {"rows": ["L0", "L1"]}, "one name for each"),
        ([1.0, 2.0], ["a", "b"], {}, r"shape \(2,\); give \[layer column\]"),
        (0.5, [], {}, r"shape \(\); give \[layer column\]"),
        ([[1.0, np.inf]], ["a", "b"], {}, "not finite"),
        ([[1.0, 2.0]], ["a", "b"], {"limits": (-0.5, 1)}, r"limits=\(-0.5, 1\) must be"),
        ([[1.0, 2.0]], ["a", "b"], {"limits": (1, 0)}, "must be"),
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(values, columns, more, words):
    with pytest.raises(ValueError, match=words):
        plots.site_map(one()[1], values, columns, label="effect", **more)


# Shares of a prediction.


def attribution(**more):
    parts = {
        "embed": random(MEMBERS, seed=1),
        "pos_embed": np.zeros(MEMBERS),
        "heads": random(MEMBERS, LAYERS, HEADS, seed=2),
        "mlps": random(MEMBERS, LAYERS, seed=3),
        "constant": random(MEMBERS, seed=4),
        "clip": np.zeros((MEMBERS, LAYERS)),
    }
    return parts | more


def test_shares_are_bars_in_the_order_of_the_forward_pass_and_their_sum():
    parts = attribution(clip=random(MEMBERS, LAYERS, seed=5))
    _, ax = one()
    assert plots.shares(ax, dict(reversed(parts.items()))) is ax
    by_layer = [[*(f"L{i} H{j}" for j in range(HEADS)), f"L{i} MLP", f"L{i} clip"] for i in range(LAYERS)]
    assert ticks(ax, "y") == ["embedding", *by_layer[0], *by_layer[1], "constant", "sum"]
    columns = [parts["embed"]]
    for i in range(LAYERS):
        columns += [*parts["heads"][:, i].T, parts["mlps"][:, i], parts["clip"][:, i]]
    columns = np.array([*columns, parts["constant"], sum(columns) + parts["constant"]])
    bars = ax.patches
    np.testing.assert_allclose([bar.get_width() for bar in bars], columns.mean(1), rtol=1e-12)
    colours = dict(zip(ticks(ax, "y"), (bar.get_facecolor() for bar in bars), strict=True))
    assert colours["L0 H0"] == to_rgba(plots.ROLES["trained"][1])
    assert colours["embedding"] == to_rgba(plots.ROLES["embedding"][1])
    assert colours["sum"] == to_rgba("black")
    (whiskers,) = [each for each in ax.collections if isinstance(each, LineCollection)]
    ends = np.array([segment[:, 0] for segment in whiskers.get_segments()])
    np.testing.assert_allclose(ends, np.stack([columns.min(1), columns.max(1)], axis=1), rtol=1e-12)
    low, high = sorted(ax.get_ylim())
    assert low < -0.35
    assert high > len(columns) - 0.65
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first is at the top


def test_shares_that_are_zero_are_left_out_and_one_member_has_no_whiskers():
    parts = {name: values[:1] for name, values in attribution().items()}
    _, ax = one()
    plots.shares(ax, parts, label="share")
    assert not {"position", "L0 clip"} & set(ticks(ax, "y"))
    assert not ax.collections
    assert ax.get_xlabel() == "share"


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        (attribution(other=np.ones(MEMBERS)), "part 'other'; the parts are embed"),
        (attribution(heads=np.ones((MEMBERS, LAYERS))), r"heads has shape \(4, 2\); give \[member layer head\]"),
        (attribution(embed=1.0), r"embed has shape \(\)"),
        (attribution(embed=np.ones(MEMBERS + 1)), "with equal members"),
        (attribution(embed=np.full(MEMBERS, np.nan)), "not finite"),
        ({"embed": np.zeros(MEMBERS)}, "all shares are zero"),
    ],
)
def test_shares_that_cannot_be_drawn_are_refused(parts, words):
    with pytest.raises(ValueError, match=words):
        plots.shares(one()[1], parts)


# Curves over layers.


def band_of(ax, i):
    """Lower and upper edge `[2 x]` of a band."""
    (path,) = ax.collections[i].get_paths()
    vertices = path.vertices
    xs = np.unique(vertices[:, 0])
    edges = [(vertices[vertices[:, 0] == x, 1].min(), vertices[vertices[:, 0] == x, 1].max()) for x in xs]
    return np.array(edges).T


def test_a_lens_shows_mean_and_range_of_members_and_references():
    losses, steps = np.abs(random(MEMBERS, 4)) + 0.1, [0.9, 0.5, 0.3, 0.2]
    _, ax = one()
    assert plots.lens(ax, losses, {"least_squares": 0.05, "gd": steps}, label="loss", log=True) is ax
    trained, markers, level = ax.lines
    np.testing.assert_allclose(trained.get_ydata(), losses.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(trained.get_xdata(), range(4))
    np.testing.assert_allclose(band_of(ax, 0), [losses.min(0), losses.max(0)], rtol=1e-12)
    assert set(level.get_ydata()) == {0.05}
    np.testing.assert_array_equal(markers.get_ydata(), steps)
    assert (markers.get_linestyle(), markers.get_markerfacecolor()) == ("None", "none")
    labels = ax.get_legend_handles_labels()[1]
    assert labels == ["trained", "gradient descent", "least squares"]
    for drawn, role in ((trained, "trained"), (level, "least_squares"), (markers, "gd")):
        assert drawn.get_color() == plots.ROLES[role][1]
    assert (ax.get_yscale(), ax.get_ylabel(), ax.get_xlabel()) == ("log", "loss", "layers applied")
    assert ticks(ax, "x") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("losses", [[0.07, 0.4], [0.3, 0.35], [0.05, 3.0], [2e-3, 2e-2], [40.0, 900.0]])
def test_a_logarithmic_lens_has_several_plain_numbers(losses):
    with plots.style():
        figure, ax = one()
        plots.lens(ax, [losses], label="loss", log=True)
        figure.draw_without_rendering()
    low, high = ax.get_ylim()
    texts = [text for text in ax.get_yticklabels() if low <= float(text.get_text()) <= high]
    assert 3 <= len(texts) <= 8
    assert overlaps(figure, texts) == []
    assert not any(text.get_text() for text in ax.get_yticklabels(minor=True))


def test_a_logarithmic_lens_of_many_decades_has_powers_of_ten():
    with plots.style():
        figure, ax = one()
        plots.lens(ax, [[1e-6, 1.0]], label="loss", log=True)
        figure.draw_without_rendering()
    assert "10^{" in "".join(ticks(ax, "y"))


def test_a_reference_of_the_same_role_does_not_replace_the_model():
    _, ax = one()
    plots.lens(ax, [[0.3, 0.2]], {"trained": [0.5, 0.4]}, label="loss")
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.3, 0.2], [0.5, 0.4]]


def test_residuals_of_a_lens_may_have_names():
    _, ax = one()
    plots.lens(ax, random(1, 3), label="prediction", role="construction", names=["embedding", "L0", "L1"])
    assert ticks(ax, "x") == ["embedding", "L0", "L1"]
    assert ax.lines[0].get_color() == plots.ROLES["construction"][1]
    assert ax.get_yscale() == "linear"


def test_probes_show_layers_and_controls():
    r2 = {
        "embedding": random(MEMBERS, 1, seed=1) / 10,
        "shuffled": random(MEMBERS, 3, seed=2) / 10,
        "trained": np.abs(random(MEMBERS, 3, seed=3)) / 3,
        "untrained": random(MEMBERS, 3, seed=4) / 10,
    }
    _, ax = one()
    assert plots.probes(ax, r2) is ax
    labels = ["trained", "untrained", "shuffled targets", "embedding only"]
    assert ax.get_legend_handles_labels()[1] == labels  # however the mapping is ordered
    drawn = {line.get_label(): line for line in ax.lines if line.get_label() in labels}
    for role in ("trained", "untrained", "shuffled"):
        label, colour, dashes = plots.ROLES[role]
        np.testing.assert_allclose(drawn[label].get_ydata(), r2[role].mean(0), rtol=1e-12)
        np.testing.assert_array_equal(drawn[label].get_xdata(), [1, 2, 3])
        assert (drawn[label].get_color(), drawn[label].get_linestyle()) == (colour, dashes)
    assert set(drawn["embedding only"].get_ydata()) == {r2["embedding"].mean()}
    np.testing.assert_allclose(band_of(ax, 0), [r2["trained"].min(0), r2["trained"].max(0)], rtol=1e-12)
    (span,) = ax.patches
    np.testing.assert_allclose(
        [span.get_y(), span.get_y() + span.get_height()], [r2["embedding"].min(), r2["embedding"].max()]
    )
    assert ax.get_ylim()[1] == 1.05
    assert ax.get_ylim()[0] <= min(values.min() for values in r2.values())


def test_a_very_negative_r2_is_marked_at_the_edge():
    _, ax = one()
    plots.probes(ax, {"trained": [[0.9, 0.8, 0.9]], "shuffled": [[-0.1, -40.0, -0.2]]})
    assert ax.get_ylim() == (-0.25, 1.05)
    (marks,) = [line for line in ax.lines if line.get_marker() == "v" and len(line.get_xdata())]
    assert marks.get_xdata().tolist() == [2]
    assert marks.get_color() == plots.ROLES["shuffled"][1]


def test_probes_of_several_targets_stand_side_by_side():
    """Constrained layout gives up, with a warning, if an artist has no place."""
    r2 = {"trained": [[0.1, 0.8, 0.9]], "shuffled": [[0.0, -0.1, 0.0]], "embedding": [[0.0]]}
    with plots.style():
        figure, axes = plots.subplots(1, 3, figsize=(plots.PAGE, 2.2), sharey=True)
        for ax in axes:
            plots.probes(ax, r2)
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert not any(ax.xaxis.label.get_window_extent().overlaps(legend) for ax in axes)
    assert all(ax.get_window_extent().height > 0.5 * figure.bbox.height for ax in axes)


def test_deep_models_have_few_ticks():
    _, ax = one()
    plots.probes(ax, {"trained": np.ones((1, 40))})
    assert ticks(ax, "x") == [str(i) for i in range(1, 41, 4)]


CURVES = {
    "a curve without members": (lambda ax: plots.lens(ax, [0.1, 0.2], label="loss"), r"members has shape \(2,\)"),
    "a number": (lambda ax: plots.lens(ax, 0.1, label="loss"), r"members has shape \(\)"),
    "a reference of another depth": (
        lambda ax: plots.lens(ax, [[0.1, 0.2]], {"gd": [1.0, 2.0, 3.0]}, label="loss"),
        "reference gd has shape",
    ),
    "a loss that is not finite": (lambda ax: plots.lens(ax, [[0.1, np.inf]], label="loss"), "not finite"),
    "a logarithm of zero": (lambda ax: plots.lens(ax, [[0.1, 0.0]], label="loss", log=True), "set log=False"),
    "too few names": (lambda ax: plots.lens(ax, [[0.1, 0.2]], label="loss", names=["a"]), "1 names for 2 layers"),
    "controls of other layers": (
        lambda ax: plots.probes(ax, {"trained": np.ones((1, 3)), "shuffled": np.ones((1, 2))}),
        "shuffled has shape",
    ),
    "probes without members": (lambda ax: plots.probes(ax, {"trained": np.ones(3)}), "trained has shape"),
    "no probes": (lambda ax: plots.probes(ax, {}), "r2 is empty"),
}


@pytest.mark.parametrize("what", CURVES)
def test_curves_that_cannot_be_drawn_are_refused(what):
    draw, words = CURVES[what]
    with pytest.raises(ValueError, match=words):
        draw(one()[1])


def test_colours_of_parts_are_of_the_palette():
    palette = {colour for _, colour, _ in plots.ROLES.values()}
    assert {colour for _, colour in inside.PARTS.values()} <= palette


# Symmetries.


def broken(**values):
    """Violations, which rounding explains up to 1e-12."""
    return {name: Violation(value, 1e-13) for name, value in values.items()}


VIOLATIONS = {
    "mine": broken(odd_in_labels=0.0, order_invariant=2.5e-5, scale_invariant=9.0, interpolating=np.nan),
    "yours": broken(odd_in_labels=1e-13, order_invariant=1.1e-12, scale_invariant=400.0, interpolating=0.04),
}


@pytest.mark.parametrize("width", [plots.COLUMN, plots.PAGE])
def test_symmetries_are_a_table_of_sizes(width):
    figure, ax = one(1.5, width)
    with plots.style():
        more = {"statements": {}} if width == plots.COLUMN else {}
        assert plots.symmetry_map(ax, VIOLATIONS, **more) is ax
    assert ticks(ax, "x") == ["mine", "yours"]
    assert ticks(ax, "y") == ["odd in labels", "order invariant", "scale invariant", "interpolating"]
    texts = [text.get_text().replace("\n", " ") for text in ax.texts]
    assert texts[:8] == ["exact", "exact", "0.5 %", "0.0001 %", "300 %", "× 20", "", "20 %"]
    statements = [] if more else [STATEMENTS[name] for name in VIOLATIONS["mine"]]
    assert [text for text in texts[8:] if text] == statements
    assert overlaps(figure, ax.texts) == []
    image = ax.images[0]
    colours = image.cmap(image.norm(np.ma.masked_invalid(image.get_array())))
    brightness = np.round(colours[..., :3] @ [0.299, 0.587, 0.114], 6)
    assert brightness[0, 0] == brightness[0, 1] == brightness[1, 0] > brightness[3, 1] > brightness[2, 0]
    assert brightness[2, 0] == brightness[2, 1]
    assert tuple(colours[3, 0]) == to_rgba(maps.MISSING)
    inks = {text.get_text(): text.get_color() for text in ax.texts[:8]}
    assert (inks["exact"], inks["300 %"]) == ("black", "white")


@pytest.mark.parametrize("violations", [{}, {"mine": {}}, {**VIOLATIONS, "third": broken(odd_in_labels=0.0)}])
def test_predictors_with_other_symmetries_are_refused(violations):
    with pytest.raises(ValueError, match="the same symmetries for all"):
        plots.symmetry_map(one()[1], violations)


# Curves and maps of results.

CURVE = {"x": [4, 16, 64], "mean": [3.0, 2.0, 1.0], "low": [2.5, 1.0, 1.0], "high": [3.5, 2.5, 1.5]}


def test_a_level_has_the_colour_and_dashes_of_its_role():
    _, ax = one()
    assert plots.horizontal_line(ax, 0.5, "zero") is ax
    (line,) = ax.lines
    assert (line.get_label(), line.get_color(), line.get_linestyle()) == plots.ROLES["zero"]
    assert set(line.get_ydata()) == {0.5}
    assert plots.horizontal_line(ax, 0.4, "zero", "nothing").lines[1].get_label() == "nothing"


def test_a_metric_is_a_point_with_the_range_of_its_seeds():
    metric = {"mean": 2.0, "per_seed": [1.0, None, 3.5]}
    assert plots.seed_values(metric) == [1.0, 3.5]
    assert plots.curve_of_metric(metric) == {"mean": [2.0], "low": [1.0], "high": [3.5]}
    assert plots.seed_values({"per_seed": [None]}) == [np.inf]


def test_one_over_the_root_passes_through_the_middle():
    _, ax = one()
    plots.inverse_square_root(ax, CURVE, "examples")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [4.0, 2.0, 1.0])
    assert ax.lines[0].get_label() == "1 / square root of examples"


def test_groups_of_points_stand_around_their_names():
    _, ax = one()
    curves = {role: {**CURVE, "x": ["a", "b", "c"]} for role in ("trained", "gd")}
    plots.grouped_points(ax, curves)
    left, right = (np.asarray(container.lines[0].get_xdata()) for container in ax.containers)
    np.testing.assert_allclose((left + right) / 2, [0, 1, 2])
    assert np.all(left < right)
    assert ticks(ax, "x") == ["a", "b", "c"]


def test_lengths_beyond_training_are_shaded_to_the_edge():
    _, ax = one()
    ax.plot([0, 40], [0, 1])
    limits = ax.get_xlim()
    plots.shade_untrained_lengths(ax, 20)
    (span,) = ax.patches
    assert (span.get_x(), span.get_x() + span.get_width()) == pytest.approx((20, limits[1]))
    assert ax.get_xlim() == limits


@pytest.mark.parametrize("distance", [False, True])
def test_layers_and_steps_count_from_one_and_brighter_is_more_similar(distance):
    _, ax = one()
    plots.layer_step_map(ax, [[1.0, 0.2, 0.5], [0.1, 1.0, 0.4]], "title", (0.1, 1.0), distance)
    assert ticks(ax, "x") == ["1", "2", "3"]
    assert ticks(ax, "y") == ["1", "2"]
    assert [text.get_text() for text in ax.texts] == ["1", "0.2", "0.5", "0.1", "1", "0.4"]
    image = ax.images[0]
    brightness = [np.dot(image.cmap(image.norm(value))[:3], [0.299, 0.587, 0.114]) for value in (0.1, 0.5, 1.0)]
    assert sorted(brightness, reverse=distance) == brightness
