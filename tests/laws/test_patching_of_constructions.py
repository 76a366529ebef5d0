"""Patching of the constructions: the effects of every corruption at every site are those that their proofs say.

The proofs are in `constructions/gradient_descent.py` and `constructions/gd_plus_plus.py`. A patch has an effect if and
only if it changes a part of the token that the prediction reads afterwards. Both are written out below, for the x part
and the y part of every site.
"""

import functools
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import analysis, constructions, models, tokens
from icl_gd.analysis import corruptions
from icl_gd.types import Prompt

pytestmark = pytest.mark.slow  # compiles many programs

D, M, N, PROMPTS = 3, 2, 4, 3
CORRUPTED, OTHER, QUERY = 1, 2, N  # positions: the corrupted example, an example that is not, the query
STEPS = (1, 2, 3, 4, 5)
LEARNERS = ("GD", "GD++")
CORRUPTIONS = {
    "one label": functools.partial(corruptions.one_label, index=CORRUPTED),
    "one input": functools.partial(corruptions.one_input, index=CORRUPTED),
    "the query": functools.partial(corruptions.another_query),
    "all labels": corruptions.all_labels,
}
IN_LAYER = (
    *("resid_pre", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.pattern"),
    *("attn.z", "attn.result", "attn_out", "resid_post"),
)
KINDS = ("embed", *IN_LAYER, "prediction")


# ---- The table ----
#
# Layers count from zero. `x` and `y` are the parts of a token. Before layer l, they are the input and the residual
# label after l steps; the y part of the query is minus its prediction, and starts at zero.


def changed_token(learner, corruption, layer, position):
    """The parts of a token before a layer that a corruption changes."""
    parts = set()
    # A new input or query is in its own token.
    if (corruption, position) in (("one input", CORRUPTED), ("the query", QUERY)):
        parts.add("x")
    # GD never writes to x. GD++ writes -gamma/n sum_i x_i x_i^T x_j: one new input moves all others, labels move none,
    # and a new query moves itself only, because it is no key.
    if learner == "GD++" and corruption == "one input" and layer > 0:
        parts.add("x")
    # A new label is in its own token at first.
    if (corruption == "all labels" and position != QUERY) or (corruption, position) == ("one label", CORRUPTED):
        parts.add("y")
    # Every step subtracts (W_l - W_0) x_j from y. W_l depends on all labels and inputs of the context, but not on the
    # query, whose own y part is -W_l x_q.
    if layer > 0 and (corruption != "the query" or position == QUERY):
        parts.add("y")
    return parts


def changed(learner, corruption, kind, layer, position):
    """The parts of a site that a corruption changes. Sites without parts, such as scores, count as x."""
    token = changed_token(learner, corruption, layer, position)
    if kind in ("embed", "resid_pre"):
        return token
    if kind == "resid_post":
        return changed_token(learner, corruption, layer + 1, position)
    if kind in ("attn.q", "attn.k"):
        return token & {"x"}  # W_K = diag(I, 0) and W_Q = diag(A, 0) read x
    if kind == "attn.v":
        return token & {"y"} if learner == "GD" else token  # GD: W_V = diag(0, -I) reads y. GD++: W_V = diag(I, -I)
    if kind in ("attn.scores", "attn.pattern"):
        # x_i^T A x_j of query token j and all context tokens i: a new input changes a column of every row, a new query
        # its own row, a new label nothing.
        return {"x"} if corruption == "one input" or "x" in token else set()
    # z, result and attn_out of token j are sum_i v_i x_i^T A x_j over the context: x_q affects those of the query only.
    if corruption == "the query" and position != QUERY:
        return set()
    # The y part, -eta/n sum_i y_i x_i^T A x_j, depends on labels, inputs and x_j. The x part of GD++,
    # -gamma/n sum_i x_i x_i^T x_j, does not depend on labels.
    return {"x", "y"} if learner == "GD++" and "label" not in corruption else {"y"}


def read(learner, n_steps, kind, layer, position):
    """The parts of a site on which the prediction depends."""
    is_last, is_query = layer == n_steps - 1, position == QUERY
    if kind in ("attn.k", "attn.v") and is_query:
        return set()  # the query is no key
    if kind == "attn.k":
        return {"x"}
    if kind == "attn.v":
        # After the last layer, nothing reads the x part that GD++ writes.
        return {"y"} if is_last or learner == "GD" else {"x", "y"}
    if kind in ("embed", "resid_pre"):
        # Context tokens are keys (x) and values (y, and in GD++ x); the query is a query token (x) and has the
        # prediction (y).
        return {"x", "y"}
    if is_last and not is_query:
        return set()  # the prediction is read from the query: what the last layer writes to the context is not read
    if kind in ("attn.q", "attn.scores", "attn.pattern"):
        return {"x"}
    # The prediction is minus the y part of the query.
    return {"y"} if is_last else {"x", "y"}


def has_effect(learner, n_steps, corruption, kind, layer, position):
    """Whether a patch of a site, at one position or at all (None), changes the prediction."""
    if kind == "prediction":
        return True
    layer = layer or 0  # embed is the residual before the first layer
    positions = range(N + 1) if position is None else (position,)
    return any(
        changed(learner, corruption, kind, layer, each) & read(learner, n_steps, kind, layer, each)
        for each in positions
    )


# ---- The effects ----


def models_of(n_steps):
    """The constructions of both learners, stacked: they have the same config and generic rates."""
    config = constructions.gradient_descent_config(D, M, n_steps)
    rng = np.random.default_rng(n_steps)
    rates, gammas = rng.uniform(0.4, 0.9, n_steps), rng.uniform(0.1, 0.3, n_steps)
    both = [
        constructions.gradient_descent_weights(config, D, N, rates),
        constructions.gd_plus_plus_weights(config, D, N, rates, gammas),
    ]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)
    return models.Model(config, params, tokens.concatenated(D, M))


def prompts_of(seed):
    rng = np.random.default_rng(seed)
    shapes = (N, D), (N, M), (D,), (M,), (M, D)
    return Prompt(*(jnp.asarray(rng.normal(size=(PROMPTS, *shape))) for shape in shapes))


@functools.cache
def effects(n_steps):
    """Effects by kind of site, relative to the difference of the runs: `[learner corruption prompt layer position]`.

    The last position is that of a patch at all positions.
    """

    def of_one(model, prompt, corrupted):
        base, source = (model.run(*each[:3], "prediction")["prediction"] for each in (prompt, corrupted))
        size, found = jnp.linalg.norm(source - base), {}
        for kind in KINDS:
            patched = analysis.patch(model, prompt, corrupted, kind, heads="all")
            if kind != "prediction":
                whole = analysis.patch(model, prompt, corrupted, kind, positions="all", heads="all")
                patched = jnp.concatenate([patched, whole[..., None, :]], axis=-2)
            difference = patched - base.reshape((1,) * (patched.ndim - 1) + base.shape)
            found[kind] = jnp.linalg.norm(difference, axis=-1) / size
        return found

    @jax.jit
    def run(models, prompts, others):
        corrupted = [jax.vmap(corrupt)(others, prompts) for corrupt in CORRUPTIONS.values()]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *corrupted)
        over_prompts = jax.vmap(of_one, in_axes=(None, 0, 0))
        over_corruptions = jax.vmap(over_prompts, in_axes=(None, None, 0))
        return jax.vmap(over_corruptions, in_axes=(0, None, None))(models, prompts, stacked)

    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, run(models_of(n_steps), prompts_of(1), prompts_of(2)))


@pytest.mark.parametrize("corruption", CORRUPTIONS)
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("n_steps", STEPS)
def test_patching_has_the_effects_that_the_proof_says(n_steps, learner, corruption):
    wrong = []
    for kind, all_effects in effects(n_steps).items():
        found = all_effects[LEARNERS.index(learner), list(CORRUPTIONS).index(corruption)]
        layers = range(n_steps) if kind in IN_LAYER else [None]
        positions = [*range(N + 1), None] if kind != "prediction" else [None]
        found = found.reshape(PROMPTS, len(layers), len(positions))
        for i, j in product(range(len(layers)), range(len(positions))):
            place = kind, layers[i], positions[j]
            each = found[:, i, j]
            if not (each.min() >= 1e-6 if has_effect(learner, n_steps, corruption, *place) else each.max() <= 1e-12):
                wrong.append((*place, each.tolist()))
    assert not wrong


@pytest.mark.parametrize("learner", LEARNERS)
def test_the_table_says_what_the_proofs_emphasise(learner):
    """Sentences about the table itself, for three layers, read from their proofs."""
    table = functools.partial(has_effect, learner, 3)
    for corruption, layer in product(("one label", "all labels"), range(3)):
        # Labels never reach queries, keys, scores and patterns, but the values of every layer.
        for kind in ("attn.q", "attn.k", "attn.scores", "attn.pattern"):
            assert not table(corruption, kind, layer, None)
        assert table(corruption, "attn.v", layer, None)
    for corruption, kind in product(CORRUPTIONS, ("attn.z", "attn.result", "attn_out", "resid_post")):
        # What the last layer writes to the context is not read.
        assert not any(table(corruption, kind, 2, position) for position in range(N))
        assert table(corruption, kind, 2, QUERY)
    # At first, only the token of the corrupted example differs.
    for corruption in ("one label", "one input"):
        assert [table(corruption, "embed", None, j) for j in (CORRUPTED, OTHER, QUERY)] == [True, False, False]
    # GD++ also moves the inputs, so its queries and keys of all tokens differ after the first layer.
    assert table("one input", "attn.k", 1, OTHER) == table("one input", "attn.q", 1, QUERY) == (learner == "GD++")
    # A new query changes nothing of the context.
    assert not any(table("the query", kind, 1, OTHER) for kind in IN_LAYER)
