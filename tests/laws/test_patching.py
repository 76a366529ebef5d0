"""Patching: an activation of another run has the effect that the definition says, and none where it cannot have one.

`forced` below is the slow definition of everything: one run in which every entry of every site can be forced to a
number by `Model.edit`.
"""

import functools
import re
from dataclasses import replace
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import analysis, models, tokens
from icl_gd.analysis import corruptions, patching
from icl_gd.models import Modification, TransformerConfig, edits, sites
from icl_gd.models.activations import Activations
from icl_gd.types import Prompt

pytestmark = pytest.mark.slow  # compiles many programs

D, M, N = 2, 2, 2
PLAIN = TransformerConfig(D + M, 2, 2, init_scale=1.0)
MODIFICATION = Modification(0.4, 0.9, 0.5, augment_keys=1.0, augment_values=0.5)
GPT2 = replace(
    models.gpt2_config(D, 2 * N + 1, d_embed=6, n_layers=2, n_heads=2, d_read_out=M), init_scale=0.5, block_mlp_width=5
)
CONFIGS = {
    "linear": PLAIN,
    "edited": PLAIN,  # the model has edits of its own, below
    "narrow": replace(PLAIN, attention=("mixed", "softmax"), d_head=2, d_embed=5, biases=True),
    "clip": replace(PLAIN, attention="relu", clip=0.6, shared=True, sum_normalised=True, attend_to_query=True),
    "layer_norm": replace(PLAIN, attention="softmax", layer_norm=True, block_mlp_width=5, input_mlp_width=3),
    "modified": replace(PLAIN, attention="softmax", attend_to_query=True, modification=MODIFICATION, d_read_out=M),
    "gpt2": GPT2,
    "causal_modified": replace(GPT2, modification=MODIFICATION),
}
KINDS = {  # the patched sites of each config; together they are all sites
    "linear": ("embed", "attn.k", "attn.z"),
    "edited": ("attn.v", "attn.z"),
    "narrow": ("attn.q", "attn.v", "attn.scores"),
    "clip": ("resid_pre", "attn.k", "attn.pattern", "resid_post"),
    "layer_norm": ("ln1.scale", "ln1.normalized", "ln2.normalized", "mlp.post", "resid_mid"),
    "modified": ("attn.scores", "attn.result"),
    "gpt2": (
        *("pos_embed", "attn.q", "attn.pattern", "attn.z", "attn_out", "ln2.scale", "mlp.pre", "mlp_out"),
        *("ln_final.scale", "ln_final.normalized", "prediction"),
    ),
    "causal_modified": ("attn.k", "attn_out"),
}
# Senders and receivers of path patching: inside and outside heads and MLPs, on frozen sites and not, one head and all.
PATHS = {
    "linear": ("attn.z", ("blocks.1.attn.q", ("blocks.1.attn.v", 1))),
    "edited": ("resid_pre", ("attn.z", "blocks.1.attn.k", "blocks.1.resid_pre")),
    "narrow": ("attn.k", (("blocks.1.attn.z", 0), ("blocks.1.attn.z", 1), "blocks.0.attn.z")),
    "clip": ("attn.q", "prediction"),
    "layer_norm": ("mlp.pre", ("blocks.1.ln1.normalized", "mlp_out")),
    "modified": ("attn.v", ("blocks.1.attn.scores", 1)),
    "gpt2": ("attn.result", ("mlp_out", "ln_final.normalized")),
    "causal_modified": ("ln1.normalized", ("mlp.post", ("attn.v", 0))),
}
BASE, SOURCE = 1, 2


@functools.cache
def model_of(name, seed=0):
    """A model none of whose parameters is zero."""
    config, rng = CONFIGS[name], np.random.default_rng(seed)

    def draw(path, leaf):
        own = path[-1].key
        if not leaf.shape:
            return jnp.asarray(getattr(config.modification, own))
        if leaf.ndim == 1 or leaf.shape[:-1] == (config.n_heads,):
            return jnp.asarray((own == "scale") + 0.3 * rng.normal(size=leaf.shape))
        return jnp.asarray(rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5)

    layout = tokens.alternating(D, M) if config.causal else tokens.concatenated(D, M)
    with jax.enable_x64(True):
        model = models.Model(config, jax.tree_util.tree_map_with_path(draw, models.shapes(config)), layout)
        if name == "edited":
            return model.edit({"attn.z": edits.scale(0.7), "blocks.0.attn.v": edits.add(0.3)})
        return model


def problem_of(seed):
    rng = np.random.default_rng(seed)
    with jax.enable_x64(True):
        return tuple(jnp.asarray(rng.normal(size=shape)) for shape in ((N, D), (N, M), (D,)))


def sizes(name):
    """The shape of every site."""
    return models.sites.shapes(CONFIGS[name], 2 * N + 1 if CONFIGS[name].causal else N + 1, M)


# ---- The definition ----

CHUNK = 32  # runs of one call


@jax.jit
def forced_chunk(model, problem, new, masks):
    def one(new, masks):
        changes = {site: functools.partial(jnp.where, masks[site], new[site]) for site in masks}
        return dict(model.edit(changes).run(*problem))

    return jax.vmap(one)(new, masks)


def forced(name, new, masks, problem=BASE):
    """All sites of runs in which site s is new[s] where masks[s] is true; every array has a leading axis of runs."""
    count = len(next(iter(masks.values())))
    padded = -(-count // CHUNK) * CHUNK
    new, masks = jax.tree.map(lambda leaf: np.resize(leaf, (padded, *leaf.shape[1:])), (new, masks))
    with jax.enable_x64(True):
        chunks = []
        for start in range(0, padded, CHUNK):
            rows = slice(start, start + CHUNK)
            some = ({site: values[site][rows] for site in values} for values in (new, masks))
            chunks.append(forced_chunk(model_of(name), problem_of(problem), *some))
    return {site: np.concatenate([chunk[site] for chunk in chunks])[:count] for site in chunks[0]}


def repeated(values, count):
    return {site: np.broadcast_to(value, (count, *value.shape)) for site, value in values.items()}


@functools.cache
def run_of(name, problem):
    """All sites of a run, by the definition with nothing forced."""
    nothing = {site: np.zeros((1, *shape)) for site, shape in sizes(name).items()}
    return {
        site: value[0]
        for site, value in forced(name, nothing, jax.tree.map(np.isnan, nothing), problem=problem).items()
    }


def grid_of(name, kind):
    """The places of a kind of site, written out: names of sites, positions and heads."""
    config, shapes = CONFIGS[name], sizes(name)
    names = sites.expand(config, kind)
    positions, heads = range(shapes["embed"][0]), range(config.n_heads)
    has_positions = kind != "prediction"
    has_heads = kind in ("attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern", "attn.z", "attn.result")
    return names, positions if has_positions else [None], heads if has_heads else [None]


def mask_of(name, site, position, head):
    """Where a site is forced. Scores and patterns are [head query key], other sites of heads [t head d_head]."""
    mask = np.zeros(sizes(name)[site], bool)
    axes = (head, position) if site.endswith(("scores", "pattern")) else (position, head)
    mask[tuple(slice(None) if index is None else index for index in axes)[: mask.ndim]] = True
    return mask


def masks_of(name, places):
    """The masks of runs, in each of which some places `(site, position, head)` are forced; None selects all."""
    masks = {site: np.zeros((len(places), *shape), bool) for site, shape in sizes(name).items()}
    for i, several in enumerate(places):
        for site, position, head in several:
            masks[site][i] |= mask_of(name, site, position, head)
    return masks


def axes_of(name, kind):
    """The axes that a result has for a kind of site."""
    names, positions, heads = grid_of(name, kind)
    layers = [len(names)] if names[0].startswith("blocks") else []
    return (*layers, *(len(axis) for axis in (positions, heads) if axis[0] is not None))


@functools.cache
def definition(name):
    """Patched predictions, and slopes towards the source by central differences, for every place of every kind."""
    places = {kind: list(product(*grid_of(name, kind))) for kind in KINDS[name]}
    masks = masks_of(name, [[place] for each in places.values() for place in each])
    count, step = len(next(iter(masks.values()))), 2e-5
    before, after = run_of(name, BASE), run_of(name, SOURCE)

    def moved(step):
        return repeated({site: before[site] + step * (after[site] - before[site]) for site in before}, count)

    patched = forced(name, repeated(after, count), masks)["prediction"]
    near, far = (
        (np.subtract(*(forced(name, moved(sign * size), masks)["prediction"] for sign in (1, -1))) / (2 * size))
        for size in (step, 2 * step)
    )
    slopes = (4 * near - far) / 3  # of fourth order in the step
    found, start = {}, 0
    for kind, each in places.items():
        rows, shape = slice(start, start + len(each)), (*axes_of(name, kind), M)
        found[kind] = patched[rows].reshape(shape), slopes[rows].reshape(shape)
        start += len(each)
    return found


# ---- Patching ----


@functools.cache
def results(name):
    """Both kinds of patching at every place: one program a config."""

    @jax.jit
    def run(model, base, source):
        found = {}
        for kind in KINDS[name]:
            patched = analysis.patch(model, base, source, kind, batch=7)
            found[kind] = patched, analysis.attribute_patch(model, base, source, kind)
        return found

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, run(model_of(name), problem_of(BASE), problem_of(SOURCE)))


EACH = [(name, kind) for name, kinds in KINDS.items() for kind in kinds]
each = pytest.mark.parametrize(("name", "kind"), EACH)
each_config = pytest.mark.parametrize("name", CONFIGS)


def assert_equal(found, expected, atol=1e-12):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=atol, atol=atol)


def test_every_site_is_patched_in_a_config():
    assert {kind for _, kind in EACH} == set(sites.SITES)


@each
def test_a_patch_is_an_edit_with_the_value_of_the_other_run(name, kind):
    assert_equal(results(name)[kind][0], definition(name)[kind][0])


@each
def test_attribution_is_the_slope_of_the_prediction_towards_the_source(name, kind):
    effects = results(name)[kind][1] - run_of(name, BASE)["prediction"]
    assert_equal(effects, definition(name)[kind][1], atol=1e-8)


@pytest.mark.parametrize("name", ["narrow", "clip", "modified", "gpt2"])
def test_patching_a_run_with_itself_changes_no_bit(name, x64):
    """Evaluated operation by operation: a compiled batch is rounded differently from a single run."""
    model, base = model_of(name), problem_of(BASE)
    with jax.disable_jit():
        expected = model.run(*base, "prediction")["prediction"]
        same = analysis.patch(model, base, base, KINDS[name][1], positions=(0, -1), heads=(1,), batch=1)
    np.testing.assert_array_equal(same, np.broadcast_to(expected, same.shape))


@each_config
def test_patching_everything_gives_the_prediction_of_the_source(name, x64):
    """The residual before the first layer is everything that later layers see."""
    base, source = (run_of(name, problem)["prediction"] for problem in (BASE, SOURCE))
    assert np.abs(source - base).max() > 1e-2
    arguments = model_of(name), problem_of(BASE), problem_of(SOURCE), "resid_pre"
    assert_equal(analysis.patch(*arguments, positions="all", layers=(0,))[0], source)


def test_patching_the_prediction_gives_that_of_the_source():
    for patched in results("gpt2")["prediction"]:
        assert_equal(patched, run_of("gpt2", SOURCE)["prediction"])


@pytest.mark.parametrize(("name", "kind"), [("narrow", "attn.scores"), ("gpt2", "mlp.pre")])
def test_selections_are_rows_of_the_whole_and_all_patches_at_once(name, kind, x64):
    has_heads = grid_of(name, kind)[2][0] is not None
    head = {"heads": (1,)} if has_heads else {}

    @jax.jit
    def run(model, base, source):
        arguments = model, base, source, kind
        rows = {"layers": (1, 0, 1), "positions": (-1, 0), **head}
        some = {"layers": (-1,), "positions": "all", **head}
        whole = {"layers": "all", "positions": "all", "heads": "all"}
        of_layers = {"layers": "all", "positions": (1,), **head}
        return [
            [function(*arguments, **selection) for function in (analysis.patch, analysis.attribute_patch)]
            for selection in (rows, some, whole, of_layers)
        ]

    rows, some, whole, of_layers = run(model_of(name), problem_of(BASE), problem_of(SOURCE))
    chosen = np.ix_((1, 0, 1), (-1, 0), *((1,),) * has_heads)
    base, the_head = run_of(name, BASE)["prediction"], 1 if has_heads else None
    for i, result in enumerate(results(name)[kind]):
        assert_equal(rows[i], result[chosen])
    names = grid_of(name, kind)[0]
    places = [[(names[1], None, the_head)], [(one, None, None) for one in names], [(one, 1, the_head) for one in names]]
    expected = forced(name, repeated(run_of(name, SOURCE), 3), masks_of(name, places))["prediction"]
    assert_equal(some[0].ravel(), expected[0])
    assert_equal(whole[0], expected[1])
    assert_equal(of_layers[0].ravel(), expected[2])
    # First-order effects add up.
    effects = results(name)[kind][1] - base
    effects = effects if has_heads else effects[:, :, None]
    assert_equal(some[1].ravel() - base, effects[1, :, -1].sum(0))
    assert_equal(whole[1] - base, effects.sum((0, 1, 2)))
    assert_equal(of_layers[1].ravel() - base, effects[:, 1, -1].sum(0))


# ---- Where the structure says that a patch has no effect ----

INPUTS_OF_ATTENTION = ("resid_pre", "ln1.scale", "ln1.normalized", "attn.k", "attn.v")


def has_no_effect(name, kind, layer, position):
    """Whether the prediction cannot depend on a site at one position, or the site is the same in both runs.

    The layer is None for a site outside the layers.
    """
    config = CONFIGS[name]
    last = 2 * N if config.causal else N
    if kind == "pos_embed":
        return True  # learned positions do not depend on the prompt
    if position is None:
        return False
    # The prediction is read from the query token, so in the last layer only keys and values of other tokens count.
    is_last = layer == config.n_layers - 1 or kind.startswith("ln_final")
    if is_last and position != last and kind not in INPUTS_OF_ATTENTION:
        # The ranks of negative samples use the scores of all tokens.
        return config.modification.negative_weight is None or kind not in ("attn.q", "attn.scores")
    # Without attend_to_query, the query token is no key.
    if kind in ("attn.k", "attn.v") and position == last and not (config.causal or config.attend_to_query):
        return True
    # The first token of a causal model attends to itself only: the softmax of one score is one.
    is_first = config.causal and position == 0 and config.modification.negative_weight is None
    return is_first and kind in ("attn.q", "attn.scores", "attn.pattern")


@each
def test_patches_have_no_effect_where_the_structure_says_so(name, kind):
    effects = np.abs(results(name)[kind][0] - run_of(name, BASE)["prediction"]).max(-1)
    names, positions, heads = grid_of(name, kind)
    found = effects.reshape(len(names), len(positions), len(heads))
    for i, position in product(range(len(names)), range(len(positions))):
        layer = sites.split(names[i])[1]
        if has_no_effect(name, kind, layer, positions[position]):
            assert found[i, position].max() <= 1e-13, (layer, position)
        elif name not in ("clip", "modified", "causal_modified"):  # a ReLU, a clip or a rank may hide an effect
            assert found[i, position].max() >= 1e-6, (layer, position)


# ---- Paths ----


def received_by_definition(name, sender, place, receiver):
    """The masks of the first run for one receiver: the sender is forced, and all other outputs are frozen."""
    site, _, head = place
    layer = sites.split(site)[1]
    order = [one.name for one in sites.BLOCK]
    own = []
    if layer is not None and order.index("resid_pre") < order.index(sender) < order.index("attn.z"):
        own = [(f"blocks.{layer}.attn.z", None, head)]
    if layer is not None and order.index("resid_mid") < order.index(sender) < order.index("mlp_out"):
        own = [(f"blocks.{layer}.mlp_out", None, None)]
    outputs = [(one, None, None) for one in sizes(name) if one.endswith(("attn.z", "mlp_out")) and one != receiver]
    frozen, free, sent = (masks_of(name, [each]) for each in (outputs, own, [place]))
    return {one: (frozen[one] & ~free[one], sent[one]) for one in frozen}


def paths_by_definition(name):
    """Path patching, with one run for every sender and receiving site, and one more for every sender."""
    sender, receivers = PATHS[name]
    heads_of = {}
    for receiver in [receivers] if isinstance(receivers, str) or isinstance(receivers[1], int) else receivers:
        site, head = (receiver, None) if isinstance(receiver, str) else receiver
        for one in sites.expand(CONFIGS[name], site):
            heads_of.setdefault(one, []).append(head)
    base, source = run_of(name, BASE), run_of(name, SOURCE)
    places = list(product(*grid_of(name, sender)))
    new, masks = ({site: [] for site in base} for _ in range(2))
    for place, receiver in product(places, heads_of):
        for site, (frozen, sent) in received_by_definition(name, sender, place, receiver).items():
            new[site].append(np.where(sent[0], source[site], base[site]))
            masks[site].append((frozen | sent)[0])
    runs = forced(name, *({site: np.stack(values) for site, values in each.items()} for each in (new, masks)))
    values = repeated(base, len(places))
    for i, receiver in enumerate(heads_of):
        values[receiver] = runs[receiver][i :: len(heads_of)]
    receiving = masks_of(
        name, [[(site, None, head) for site, heads in heads_of.items() for head in heads]] * len(places)
    )
    return forced(name, values, receiving)["prediction"].reshape(*axes_of(name, sender), M)


@each_config
def test_path_patching_is_its_slow_definition(name, x64):
    @jax.jit
    def run(model, base, source):
        return analysis.path_patch(model, base, source, *PATHS[name], batch=7)

    found, base = run(model_of(name), problem_of(BASE), problem_of(SOURCE)), run_of(name, BASE)["prediction"]
    assert_equal(found, paths_by_definition(name))
    assert np.abs(np.asarray(found) - base).max() > 1e-3


def test_the_direct_effect_of_a_linear_head_is_what_it_writes_to_the_query(x64):
    """The read-out is minus the y slot of the query, to which head h adds P_h z_h."""
    model = model_of("linear")
    found = analysis.path_patch(model, problem_of(BASE), problem_of(SOURCE), "attn.z", "prediction")
    base, source = run_of("linear", BASE), run_of("linear", SOURCE)
    expected = np.broadcast_to(base["prediction"], found.shape).copy()
    for layer, head in product(range(2), range(2)):
        site, p = f"blocks.{layer}.attn.z", np.asarray(model.params[f"block_{layer}"]["attention"]["P"][head])
        expected[layer, -1, head] -= (p @ (source[site] - base[site])[-1, head])[D:]
    assert_equal(found, expected)


def test_a_path_does_not_pass_through_other_heads(x64):
    """Patching a head of the first layer also changes the second layer; its direct effect does not contain this."""
    arguments = model_of("linear"), problem_of(BASE), problem_of(SOURCE), "attn.z"
    whole, direct = analysis.patch(*arguments), analysis.path_patch(*arguments, "prediction")
    assert np.abs(whole - direct)[0].min() > 1e-4
    assert_equal(whole[1], direct[1])  # nothing comes after the last layer


# ---- Populations, gradients ----


def test_vmap_over_members_and_prompts_is_a_loop(x64):
    name = "narrow"

    def run(model, base, source):
        return {
            "patch": analysis.patch(model, base, source, "attn.v", batch=5),
            "attribution": analysis.attribute_patch(model, base, source, "attn.v", heads="all"),
            "path": analysis.path_patch(model, base, source, "attn.v", "blocks.1.attn.z", positions=(-1, 0)),
            "heads": analysis.ablate_heads(model, *base),
        }

    members = [model_of(name, seed) for seed in range(2)]
    prompts = [(problem_of(seed), problem_of(seed + 10)) for seed in range(2)]
    stacked, (bases, sources) = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *each) for each in (members, prompts))
    over_prompts = jax.vmap(run, in_axes=(None, 0, 0))
    found, single = jax.jit(jax.vmap(over_prompts, in_axes=(0, None, None)))(stacked, bases, sources), jax.jit(run)
    for (i, member), (j, prompt) in product(enumerate(members), enumerate(prompts)):
        for what, expected in single(member, *prompt).items():
            assert_equal(found[what][i, j], expected)
    assert np.ptp(found["patch"], axis=0).max() > 1e-3


def test_members_that_differ_in_initial_values_only_share_one_program(x64):
    count = patching._patch._cache_size()
    for scale in (0.1, 0.2):
        model = replace(model_of("linear"), config=replace(PLAIN, init_scale=scale))
        analysis.patch(model, problem_of(BASE), problem_of(SOURCE), "attn.q", positions=(0,), heads=(1,))
    assert patching._patch._cache_size() == count + 1


def test_gradients_through_patched_runs_are_slopes(x64):
    name = "layer_norm"

    def loss(variables):
        model, base, source = variables
        patched = analysis.patch(model, base, source, "attn.v", positions=(0, -1), heads=(1,), batch=3)
        paths = analysis.path_patch(model, base, source, "attn.z", "blocks.1.attn.k", positions="all", layers=(0,))
        return jnp.sum(patched**2) + jnp.sum(jnp.sin(paths))

    @jax.jit
    def run(variables, direction):
        def moved(step):
            return loss(jax.tree.map(lambda value, change: value + step * change, variables, direction))

        gradient = jax.tree.leaves(jax.grad(loss)(variables))
        total = sum(jnp.vdot(*pair) for pair in zip(gradient, jax.tree.leaves(direction), strict=True))
        up, down = jax.vmap(moved)(jnp.array([2e-6, -2e-6]))
        return total, (up - down) / 4e-6

    variables, rng = (model_of(name), problem_of(BASE), problem_of(SOURCE)), np.random.default_rng(5)
    direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=jnp.shape(leaf))), variables)
    gradient, slope = run(variables, direction)
    assert abs(slope) > 1e-2
    np.testing.assert_allclose(gradient, slope, rtol=1e-7)


# ---- Heads, effects, correlations ----


@pytest.mark.parametrize(("name", "what"), [("edited", "zero"), ("narrow", "another prompt"), ("gpt2", "rows")])
def test_head_ablation_is_a_table_of_edits(name, what, x64):
    config, names, values = CONFIGS[name], sites.expand(CONFIGS[name], "attn.z"), None
    if what == "another prompt":
        values = np.stack([run_of(name, SOURCE)[site] for site in names])
    if what == "rows":  # broadcast over tokens and widths
        values = np.random.default_rng(0).normal(size=(len(names), 1, config.n_heads, 1))
    replaced = {site: np.zeros(shape) for site, shape in sizes(name).items()}
    if values is not None:
        replaced |= {site: np.broadcast_to(values[i], sizes(name)[site]) for i, site in enumerate(names)}
    places = [[(site, None, head)] for site, head in product(names, range(config.n_heads))]
    expected = forced(name, repeated(replaced, len(places)), masks_of(name, places))["prediction"]
    values = None if values is None else jnp.asarray(values)
    found = analysis.ablate_heads(model_of(name), *problem_of(BASE), values=values, batch=3)
    assert_equal(found, expected.reshape(len(names), config.n_heads, M))


def test_the_normalised_effect_is_zero_for_the_base_and_one_for_the_source(x64):
    base, source = (run_of("linear", problem)["prediction"] for problem in (BASE, SOURCE))
    patched, y_query = results("linear")["attn.z"][0], np.array([0.3, -0.4])

    def error(y_hat):
        return jnp.sum((y_hat - y_query) ** 2)

    found = analysis.normalised_effect(error, jnp.asarray(patched), jnp.asarray(base), jnp.asarray(source))
    before, after = (np.sum((y_hat - y_query) ** 2) for y_hat in (base, source))
    assert_equal(found, (np.sum((patched - y_query) ** 2, axis=-1) - before) / (after - before))
    ends = analysis.normalised_effect(error, jnp.stack([base, source]), jnp.asarray(base), jnp.asarray(source))
    assert_equal(ends, np.array([0.0, 1.0]))


def test_the_correlation_of_effects_is_that_of_numpy(x64):
    exact, approximate = results("gpt2")["attn.z"]
    found = analysis.correlation(jnp.asarray(approximate), jnp.asarray(exact))
    assert_equal(found, np.corrcoef(approximate.ravel(), exact.ravel())[0, 1])
    assert 0.1 < found < 0.9999
    assert_equal(analysis.correlation(jnp.asarray(exact), jnp.asarray(-3 * exact + 1)), np.array(-1.0))


# ---- Refusals ----

OTHER = tuple(np.ones(shape) for shape in ((N + 1, D), (N + 1, M), (D,)))
ONES = tuple(np.ones(shape) for shape in ((N, D), (N, M), (D,)))
REFUSED = {  # a function of patch(kind, **selections), by the sentence
    "site 'attn.zz' does not exist; did you mean 'attn.z'?": lambda patch: patch("attn.zz"),
    "needs an MLP in every block (block_mlp_width), which this model does not have": lambda patch: patch("mlp.pre"),
    "'blocks.1.attn.q' is not a kind of site; give 'attn.q' and layers=(1,)": lambda patch: patch("blocks.1.attn.q"),
    "'blocks.*.attn.q' is not a kind of site; give 'attn.q'": lambda patch: patch("blocks.*.attn.q"),
    "site 'resid_pre' has no heads; give heads=\"each\", not (0,)": lambda patch: patch("resid_pre", heads=(0,)),
    "site 'embed' has no layers": lambda patch: patch("embed", layers=(0,)),
    "site 'prediction' has no positions": lambda patch: patch("prediction", positions=(0,)),
    "positions=(3,) for site 'attn.q'; give some of 0 to 2": lambda patch: patch("attn.q", positions=(3,)),
    "positions=(-4,) for site": lambda patch: patch("attn.q", positions=(-4,)),
    "layers=(0, 2) for site 'attn.q'; give some of 0 to 1": lambda patch: patch("attn.q", layers=(0, 2)),
    "heads=(2,) for site 'attn.q'; give some of 0 to 1": lambda patch: patch("attn.q", heads=(2,)),
    "heads=() for site": lambda patch: patch("attn.q", heads=()),
    "the source's value of 'blocks.0.attn.q' has shape (2, 3, 2, 4), that of the base run (3, 2, 4)": lambda patch: (
        patch("attn.q", source=Activations({f"blocks.{layer}.attn.q": jnp.ones((2, 3, 2, 4)) for layer in range(2)}))
    ),
    "the source's value of 'embed' has shape (2, 4)": lambda patch: patch(
        "embed", source=Activations({"embed": jnp.ones((2, 4))})
    ),
    "the source problem has shapes x, y, x_query = ((3, 2), (3, 2), (2,))": lambda patch: patch("attn.q", source=OTHER),
    "x has shape": lambda patch: patch("attn.q", base=tuple(part[None] for part in ONES)),
}


def functions():
    """The three functions of `patch(kind, ...)`, which check their arguments alike."""

    def bound(function, *receivers):
        def patch(kind, base=ONES, source=ONES, **selections):
            return function(model_of("linear"), base, source, kind, *receivers, **selections)

        return patch

    return {
        "patch": bound(analysis.patch),
        "attribute_patch": bound(analysis.attribute_patch),
        "path_patch": bound(analysis.path_patch, "prediction"),
    }


@pytest.mark.parametrize("function", functions())
@pytest.mark.parametrize("sentence", REFUSED)
def test_places_that_do_not_exist_are_refused(function, sentence, x64):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        REFUSED[sentence](functions()[function])


def unchecked(function):
    """A function without the type checks of the tests, which would come first."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


@pytest.mark.parametrize("selection", ["query", 0, (0.5,), ("attn",)])
def test_selections_are_all_each_or_indices(selection, x64):
    with pytest.raises(ValueError, match=r'positions=.*; give "each", "all" or a tuple of indices'):
        unchecked(analysis.patch)(model_of("linear"), ONES, ONES, "attn.q", positions=selection)
    found = unchecked(analysis.patch)(model_of("linear"), ONES, ONES, "attn.q", positions=np.array([0, 2]), heads="all")
    assert found.shape == (2, 2, M)


@pytest.mark.parametrize(
    ("receivers", "sentence"),
    [
        ("blocks.2.attn.q", "site 'blocks.2.attn.q' does not exist in layer 2; give layers 0 or 1"),
        ("attn.qq", "did you mean 'attn.q'?"),
        (("blocks.1.attn.q", 2), "edit of attn.q: head=2 is out of range; give -2 to 1"),
        (("resid_post", 0), "edit of resid_post: this site has no head axis; remove head=(0,)"),
        ("blocks.1.attn_out", "receiver 'blocks.1.attn_out' follows from the outputs of heads"),
        (("attn.result", 1), "give 'blocks.0.attn.z'"),
        ((), "there are no receivers; give at least one site"),
        ((("attn.q", 0, 1),), 'give a site or a pair such as ("blocks.1.attn.q", 0) of site and head'),
    ],
)
def test_receivers_that_do_not_exist_are_refused(receivers, sentence, x64):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        unchecked(analysis.path_patch)(model_of("linear"), ONES, ONES, "attn.z", receivers)


def test_other_arguments_that_cannot_be_right_are_refused(x64):
    with pytest.raises(ValueError, match="batch=0 must be"):
        analysis.patch(model_of("linear"), ONES, ONES, "attn.q", batch=0)
    with pytest.raises(KeyError, match=r"'blocks.0.attn.k' was not recorded; the nearest of 1 recorded"):
        analysis.patch(model_of("linear"), ONES, Activations({"blocks.0.attn.q": jnp.ones(())}), "attn.k")
    with pytest.raises(ValueError, match=r"values have shape \(3, 2\); give \[layer t head d_head\] with 2 layers"):
        analysis.ablate_heads(model_of("linear"), *problem_of(BASE), values=jnp.ones((3, 2)))
    with pytest.raises(ValueError, match=r"value of 'blocks.0.attn.z' has shape \(3, 3, 4\)"):
        analysis.ablate_heads(model_of("linear"), *problem_of(BASE), values=jnp.ones((2, 3, 3, 4)))


# ---- Corruptions ----

SAMPLES, WIDTHS, INDEX = 4, (3, 2), 2


def prompt_of(seed, n=SAMPLES, labels=corruptions.linear_labels):
    """A prompt of a linear function, with noise in its labels."""
    rng, (d, m) = np.random.default_rng(seed), WIDTHS
    x, w, x_query = (jnp.asarray(rng.normal(size=shape)) for shape in ((n, d), (m, d), (d,)))
    y = labels(w, x) + 0.1 * rng.normal(size=(n, m))
    return Prompt(x, y, x_query, labels(w, x_query[None])[0], w)


def changed(before, after):
    """The fields that a corruption changes; "y[2]" if the rows of y and x that change are a part of them."""
    names = set()
    for field, old, new in zip(Prompt._fields, before, after, strict=True):
        assert old.shape == new.shape
        rows = np.flatnonzero((np.asarray(old) != np.asarray(new)).reshape(len(old), -1).any(1)).tolist()
        is_part = field in "xy" and 0 < len(rows) < len(old)
        names |= {f"{field}[{row}]" for row in rows} if is_part else {field} if rows else set()
    return names


CHANGES = {  # what each corruption changes, and nothing else
    "another_function": {"y", "y_query", "w"},
    "all_labels": {"y"},
    "one_label": {"y[0]"},
    "one_input": {"x[0]"},
    "one_example": {"x[0]", "y[0]"},
    "another_query": {"x_query", "y_query"},
    "permuted_examples": {"x", "y"},
}


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_a_corruption_changes_what_it_says_and_nothing_else(name, x64):
    prompt, other, corrupt = prompt_of(0), prompt_of(1), corruptions.CORRUPTIONS[name]
    first = jax.random.key(1) if name == "permuted_examples" else other
    found = corrupt(first, prompt)
    assert changed(prompt, found) == CHANGES[name]
    if name == "permuted_examples":
        order = [np.flatnonzero((np.asarray(prompt.x) == row).all(1)).item() for row in np.asarray(found.x)]
        assert sorted(order) == list(range(SAMPLES))
        np.testing.assert_array_equal(found.y, np.asarray(prompt.y)[order])
        assert changed(found, corrupt(jax.random.key(2), prompt)) >= {"x", "y"}
    elif name == "another_function":
        # The function is the other's and the noise is kept.
        np.testing.assert_array_equal(found.w, other.w)
        assert_equal(found.y - prompt.x @ other.w.T, np.asarray(prompt.y - prompt.x @ prompt.w.T))
        assert_equal(found.y_query, np.asarray(other.w @ prompt.x_query))
    else:
        # Everything that is new comes from the other prompt, at its own place.
        taken = {field.split("[")[0] for field in CHANGES[name]} - {"y_query"}
        for field in taken:
            old, new, its = (np.asarray(getattr(each, field)) for each in (prompt, found, other))
            np.testing.assert_array_equal(new, np.where(new == old, old, its))
        if name == "another_query":
            assert_equal(found.y_query, np.asarray(prompt.w @ other.x_query))


@pytest.mark.parametrize("name", ["one_label", "one_input", "one_example"])
def test_corruptions_of_one_example_take_any_index(name, x64):
    prompt, other, corrupt = prompt_of(0), prompt_of(1), corruptions.CORRUPTIONS[name]
    expected = {field.replace("0", str(INDEX)) for field in CHANGES[name]}
    traced = jax.jit(corrupt)
    for index, function in product((INDEX, INDEX - SAMPLES, jnp.asarray(INDEX), np.int64(INDEX)), (corrupt, traced)):
        assert changed(prompt, function(other, prompt, index=index)) == expected
    assert changed(prompt, traced(other, prompt, index=SAMPLES)) == set()  # as documented
    for index in (SAMPLES, -SAMPLES - 1, jnp.asarray(SAMPLES)):
        with pytest.raises(ValueError, match=rf"index={index} is out of range; give -4 to 3"):
            corrupt(other, prompt, index=index)


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_a_corruption_of_a_batch_is_a_loop_and_needs_vmap(name, x64):
    corrupt, prompts, others = corruptions.CORRUPTIONS[name], [prompt_of(0), prompt_of(1)], [prompt_of(2), prompt_of(3)]
    stacked, first = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *each) for each in (prompts, others))
    if name == "permuted_examples":
        first = jax.random.split(jax.random.key(0))
        others = list(first)
    found = jax.jit(jax.vmap(corrupt))(first, stacked)
    for i, (other, prompt) in enumerate(zip(others, prompts, strict=True)):
        for one, many in zip(corrupt(other, prompt), found, strict=True):
            assert_equal(many[i], np.asarray(one))
    with pytest.raises(ValueError, match=r"prompt.x has shape \(2, 4, 3\); give one prompt \[n d\], and use jax.vmap"):
        unchecked(corrupt)(jax.random.key(0) if name == "permuted_examples" else first, stacked)


def test_another_labelling_is_used_where_it_is_given(x64):
    def cubes(w, x):
        return (x @ w.T) ** 3

    prompt, other = prompt_of(0, labels=cubes), prompt_of(1, labels=cubes)
    found = corruptions.another_function(other, prompt, labels=cubes)
    assert_equal(found.y - cubes(other.w, prompt.x), np.asarray(prompt.y - cubes(prompt.w, prompt.x)))
    assert_equal(found.y_query, np.asarray(cubes(other.w, prompt.x_query[None])[0]))
    assert_equal(
        corruptions.another_query(other, prompt, labels=cubes).y_query, cubes(prompt.w, other.x_query[None])[0]
    )


@pytest.mark.parametrize("name", corruptions.CORRUPTIONS)
def test_prompts_of_other_shapes_are_refused(name, x64):
    corrupt, prompt = unchecked(corruptions.CORRUPTIONS[name]), prompt_of(0)
    if name == "permuted_examples":
        with pytest.raises(ValueError, match="give a random key first, not another prompt"):
            corrupt(prompt_of(1), prompt)
        return
    with pytest.raises(ValueError, match=r"the other prompt has shapes x, y, x_query = .*; give equal shapes"):
        corrupt(prompt_of(1, SAMPLES + 1), prompt)
    if name == "one_example":  # its two parts check their types
        return
    with pytest.raises(ValueError, match=r"the first argument is a .*; give \(other, prompt\), two Prompts"):
        corrupt(jax.random.key(0), prompt)
    with pytest.raises(ValueError, match=r"the second argument is a tuple"):
        corrupt(prompt, tuple(prompt))


@pytest.mark.parametrize("w", [jnp.ones(3), {"slope": 1.0}, jnp.ones((2, 4))])
def test_labels_of_other_functions_must_be_given(w, x64):
    prompt = prompt_of(0)._replace(w=w)
    with pytest.raises(ValueError, match=r"not the weights \[m d\] of a linear function; give labels=f"):
        corruptions.another_function(prompt_of(1), prompt)
    with pytest.raises(ValueError, match=r"give labels=f"):
        corruptions.another_query(prompt_of(1), prompt)
