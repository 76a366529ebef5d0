"""Sites: recorded values are those of a forward pass in plain NumPy, and edits are their formulas.

`forward` below computes every intermediate value of a model by name, with loops over heads and no code of the package.
"""

import functools
import inspect
import re
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from test_dual import CONFIGS as DUAL  # beside this file
from test_query import LAYERS as QUERY

from icl_gd import analysis, load_model, models, tokens
from icl_gd.models import Model, Modification, TransformerConfig, edits, sites
from icl_gd.models.activations import Activations
from icl_gd.training import Population
from icl_gd.types import Prompt

PAGE = Path(__file__).parents[2] / "docs" / "sites.md"
D, M, N = 3, 2, 5
CONCATENATED, NARROW = tokens.concatenated(D, M), tokens.concatenated(D, 1)
ALTERNATING, INTERLEAVED = tokens.alternating(D, M), tokens.interleaved(D, M, 4)
GPT2 = replace(models.gpt2_config(D, 2 * N + 1, 6, 2, 2, M), block_mlp_width=8)
EVERYTHING = replace(GPT2, n_heads=3, d_head=2, shared=True, clip=1.5, input_mlp_width=5, attention="mixed")
CASES = {
    **{f"query-{name}": (config, CONCATENATED) for name, config in QUERY.items()},
    **{f"dual-{name}": (config, NARROW) for name, config in DUAL.items()},
    "linear": (TransformerConfig(D + M, 2, 2), CONCATENATED),
    "started": (TransformerConfig(D + M, 2, d_head=2), tokens.concatenated(D, M, np.full((M, D), 0.3))),
    "relu": (TransformerConfig(D + M, 2, 2, attention="relu", attend_to_query=True), CONCATENATED),
    "relu-context": (TransformerConfig(D + M, 1, attention="relu", block_mlp_width=4), CONCATENATED),
    "kinds": (TransformerConfig(D + M, 4, attention=("linear", "softmax", "relu", "mixed"), clip=2.0), CONCATENATED),
    "sums": (TransformerConfig(D + M, 2, 2, biases=True, sum_normalised=True, layer_norm=True), CONCATENATED),
    "interleaved": (TransformerConfig(D + 4, 2, 2), INTERLEAVED),
    "own-slots": (TransformerConfig(D + 4 + 2 * M, 2, shared=True), tokens.interleaved(D, M, 4, own_slots=True)),
    "causal": (TransformerConfig(D + 4, 2, 2, causal=True, attention="relu"), INTERLEAVED),
    "causal-sums": (TransformerConfig(D, 2, causal=True, sum_normalised=True, d_embed=4, biases=True), ALTERNATING),
    "read-out": (TransformerConfig(D + M, 2, d_read_out=M), CONCATENATED),
    "gpt2": (GPT2, ALTERNATING),
    "gpt2-context": (replace(GPT2, causal=False, d_read_out=None), ALTERNATING),
    "everything": (replace(EVERYTHING, modification=Modification(0.4, 0.9, 0.3, 1.0, 0.5)), ALTERNATING),
}
DASHED = "query-modified query-all dual-perceptron dual-clip dual-causal_all dual-linear_all causal-sums relu-context"
SWEPT = [name for name in CASES if "-" not in name] + [*DASHED.split(), "own-slots", "read-out", "gpt2-context"]
# Other cases are slow where a law compiles a program of its own: they have no part that no swept case has.
SWEPT_FAST = [pytest.param(name, marks=() if name in SWEPT else pytest.mark.slow) for name in CASES]
GRAM = [name for name, (config, _) in CASES.items() if models.has_gram_form(config)]
CAUSAL = [name for name, (config, layout) in CASES.items() if config.causal and layout.has_separate_tokens]


def random_params(config, seed):
    """Weights, biases and norms none of which is zero; modification strengths are those of the config."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        if not leaf.shape:
            return np.asarray(getattr(config.modification, name))
        if leaf.ndim == 1:
            return (name == "scale") + 0.3 * rng.normal(size=leaf.shape)
        return rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5

    return jax.tree_util.tree_map_with_path(draw, models.shapes(config))


@functools.cache
def case(name, seed=0):
    """A model with random parameters and a prompt, in double precision."""
    config, layout = CASES[name]
    rng = np.random.default_rng(seed + 1)
    prompt = tuple(rng.normal(size=shape) for shape in ((N, D), (N, layout.d_output), (D,)))
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, random_params(config, seed))
        return Model(config, params, layout), tuple(map(jnp.asarray, prompt))


# ---- The forward pass in plain NumPy ----


def encode(layout, x, y, x_query):
    """Tokens, written out for every layout of the list."""
    n, m = len(x), y.shape[1]
    if not layout.has_separate_tokens:
        start = np.zeros(m) if layout.name else -(np.full((m, D), 0.3) @ x_query)
        return np.array([*map(np.append, x, y), np.append(x_query, start)])
    own = m if layout.d_token == D + 4 + 2 * m else 0
    rows = []
    for i in range(2 * n + 1):
        row = np.zeros(D + own)
        if i == 2 * n:
            row[:D] = x_query
        elif i % 2 == 0:
            row[:D] = x[i // 2]
        elif layout.name == "alternating":
            row[:m] = y[i // 2]
        else:
            row[D + own - m :] = y[i // 2]
        if layout.name != "alternating":
            slow = i / 100  # the second pair turns by 10000^(-2/4) a position
            row = np.concatenate([row, [np.sin(i), np.cos(i), np.sin(slow), np.cos(slow)], np.zeros(own)])
        rows.append(row)
    return np.array(rows)


def gelu(z):
    return z / 2 * (1 + np.tanh((2 / np.pi) ** 0.5 * (z + 0.044715 * z**3)))


def norm(weights, residual, at, name):
    scale = at(f"{name}.scale", np.sqrt(residual.var(axis=1, keepdims=True) + 1e-5))
    normalised = at(f"{name}.normalized", (residual - residual.mean(axis=1, keepdims=True)) / scale)
    return normalised * weights["scale"] + weights["bias"]


def mlp(weights, residual, at):
    hidden = at("mlp.post", gelu(at("mlp.pre", residual @ weights["W_1"].T + weights["b_1"])))
    return at("mlp_out", hidden @ weights["W_2"].T + weights["b_2"])


def attended(config, t, i):
    """The key tokens that query token i attends to."""
    if config.causal:
        return list(range(i + 1))
    return list(range(t if config.attend_to_query else t - 1))


def plain_pattern(config, kind, weights, scores):
    """The pattern of one head before modifications, row by row."""
    pattern = np.zeros_like(scores)
    for i in range(len(scores)):
        keys = attended(config, len(scores), i)
        row = scores[i, keys]
        exponentials = np.exp((row - row.max()) / config.head_width**0.5)
        softmax = exponentials / exponentials.sum()
        rows = {"linear": row, "softmax": softmax, "relu": np.maximum(row, 0) / len(row)}
        if kind == "mixed":
            share = 1 / (1 + np.exp(-10 * weights["mix"][0, 0, 0]))
            rows["mixed"] = share * softmax + (1 - share) * row
        pattern[i, keys] = rows[kind]
    return pattern


def modified_pattern(config, weights, scores, pattern):
    """Damping of the own token, and negative samples of every demonstration, one by one."""
    t, result = len(scores), pattern.copy()
    for i in range(t):
        own = i if config.causal else t - 1
        if "query_damping" in weights:
            result[i, own] *= 1 - weights["query_damping"]
        for j in range(own if "negative_weight" in weights else 0):
            others = [other for other in range(j if config.causal else t - 1) if other != j]
            count = max(round(float(weights["negative_fraction"]) * len(others)), 1)
            for sample in sorted(others, key=lambda other, j=j: scores[j, other])[:count]:
                result[i, sample] -= weights["negative_weight"] * pattern[i, j] / count
    return result


def attention(config, kind, weights, tokens, at):
    """The update of one layer, head by head."""
    t, heads = len(tokens), range(config.n_heads)

    def projected(name):
        inner = np.stack([tokens @ weights[f"W_{name}"][h].T for h in heads], axis=1)
        if config.biases:
            inner = inner + weights[f"b_{name}"]
        strength = {"K": "augment_keys", "V": "augment_values"}.get(name)
        if strength in weights:
            hidden = gelu(np.einsum("thk,gk->thg", inner, weights[f"g_{name}_1"]))
            inner = inner + weights[strength] * np.einsum("thg,kg->thk", hidden, weights[f"g_{name}_2"])
        return at(f"attn.{name.lower()}", inner)

    def sums(name, inner):
        return (inner - (weights[f"b_{name}"] if config.biases else 0)).sum(axis=2) + 1e-6

    q, k, v = projected("Q"), projected("K"), projected("V")
    scores, mask = np.zeros((config.n_heads, t, t)), np.zeros((t, t))
    for i in range(t):
        for j in attended(config, t, i):
            mask[i, j] = 1
            for h in heads:
                scores[h, i, j] = q[i, h] @ k[j, h]
                if config.sum_normalised:
                    scores[h, i, j] /= sums("Q", q)[i, h] * sums("K", k)[j, h]
    scores = at("attn.scores", scores) * mask
    patterns = [plain_pattern(config, kind, weights, scores[h]) for h in heads]
    patterns = [modified_pattern(config, weights, scores[h], patterns[h]) for h in heads]
    pattern = at("attn.pattern", np.array(patterns))
    z = at("attn.z", np.stack([pattern[h] @ v[:, h] for h in heads], axis=1))
    result = at("attn.result", np.stack([z[:, h] @ weights["P"][h].T for h in heads], axis=1))
    return at("attn_out", result.sum(axis=1) + (weights["b_P"] if config.biases else 0))


def block(config, layer, weights, residual, at):
    residual = at("resid_pre", residual)
    normed = residual
    if config.pre_norm or (config.layer_norm and (layer > 0 or config.shared)):
        normed = norm(weights["norm"], residual, at, "ln1")
    kind = config.attention if isinstance(config.attention, str) else config.attention[layer]
    residual = residual + attention(config, kind, weights["attention"], normed, at)
    if config.block_mlp_width is not None:
        residual = at("resid_mid", residual)
        normed = norm(weights["mlp_norm"], residual, at, "ln2") if "mlp_norm" in weights else residual
        residual = residual + mlp(weights["mlp"], normed, at)
    return at("resid_post", residual if config.clip is None else np.clip(residual, -config.clip, config.clip))


def forward(model, prompt, change=lambda name, value: value):
    """Every site's value by name, in order, and the read-out of every token; `change` edits values."""
    config, params, values = model.config, jax.tree.map(np.asarray, model.params), {}

    def at(name, value):
        values[name] = change(name, value)
        return values[name]

    residual = encode(model.layout, *map(np.asarray, prompt))
    if config.d_embed is not None:
        residual = residual @ params["embedding"]["W_E"].T + (params["embedding"]["b_E"] if config.biases else 0)
    if config.input_mlp_width is not None:
        residual = residual + mlp(params["embedding"], residual, lambda name, value: value)
    residual = at("embed", residual)
    if config.n_positions is not None:
        residual = residual + at("pos_embed", params["positions"][: len(residual)])
    for layer in range(config.n_layers):
        weights = params["block_0" if config.shared else f"block_{layer}"]

        def in_layer(name, value, layer=layer):
            return at(f"blocks.{layer}.{name}", value)

        residual = block(config, layer, weights, residual, in_layer)
    if config.d_read_out is None:
        outputs = -residual[:, -model.layout.d_output :]
    else:
        if config.pre_norm:
            residual = norm(params["unembed"]["norm"], residual, at, "ln_final")
        outputs = residual @ params["unembed"]["W_U"].T + params["unembed"]["b_U"]
    at("prediction", outputs[-1])
    return values, outputs


# ---- Recorded values ----


def identity(value):
    return value


@jax.jit
def recorded(model, prompt):
    return model.run(*prompt)


@jax.jit
def forms(model, prompt):
    """Predictions of a model by every form that is exact for it, and predictions from every layer and prefix."""
    config, params, layout = model.config, model.params, model.layout
    found = {"model": model(*prompt), "layerwise": model.layerwise(*prompt)}
    if not model.edits:
        found["tokens"] = models.predictor(config, params, layout)(*prompt)
        if models.has_query_form(config):
            found["query"] = models.query_predictor(config, params, layout)(*prompt)
    if config.causal and layout.has_separate_tokens:
        found["prefix"] = model.prefix(*prompt[:2])
    return found


@jax.jit
def fastest(model, prompt):
    return {"model": model(*prompt)}


@functools.cache
def run_of(name):
    with jax.enable_x64(True):
        return recorded(*case(name))


def check(actual, expected, message):
    scale = max(np.abs(expected).max(), 1.0)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * scale, err_msg=message)


@pytest.mark.parametrize("name", CASES)
def test_recorded_values_are_those_of_plain_numpy(name, x64):
    model, prompt = case(name)
    expected, _ = forward(model, prompt)
    found = run_of(name)
    t = len(expected["embed"])
    shapes = sites.shapes(model.config, t, model.layout.d_output)
    assert tuple(found) == tuple(expected) == sites.names(model.config) == tuple(shapes)
    for site, value in expected.items():
        assert found[site].dtype == np.float64
        assert found[site].shape == value.shape == shapes[site], site
        check(found[site], value, site)


def test_the_list_has_every_site_and_every_switch():
    configs = [config for config, _ in CASES.values()]
    names = {sites.split(name)[0] for config in configs for name in sites.names(config)}
    assert names == set(sites.SITES)
    kinds = {kind for config in configs for kind in config.kinds}
    assert kinds == {"linear", "softmax", "relu", "mixed"}
    assert {layout.name for _, layout in CASES.values()} > {"concatenated", "alternating"}
    same = {"init", "init_scale", "dtype"}  # those do not change the function, or are another law's
    for field in fields(TransformerConfig):
        assert field.name in same or len({getattr(config, field.name) for config in configs}) > 1, field.name
    for field in fields(Modification):
        assert any(field.name in config.modification.enabled for config in configs), field.name
    assert len(GRAM) >= 3
    assert len(CAUSAL) >= 3


@pytest.mark.parametrize("name", SWEPT_FAST)
def test_all_forms_agree_with_the_run(name, x64):
    model, prompt = case(name)
    expected, outputs = forward(model, prompt)
    found = forms(model, prompt) if name in SWEPT else fastest(model, prompt)
    for form in found.keys() - {"layerwise", "prefix"}:
        check(found[form], run_of(name)["prediction"], form)
        check(found[form], expected["prediction"], form)
    if "layerwise" in found:
        check(found["layerwise"][-1], expected["prediction"], "layerwise")
    if "prefix" in found:
        # The query of the run comes after all examples; the last prefix comes before the last.
        check(found["prefix"], outputs[::2][:-1], "prefix")


@pytest.mark.parametrize("name", SWEPT_FAST)
def test_the_identity_edit_changes_no_bit(name, x64):
    model, prompt = case(name)
    same = model.edit(dict.fromkeys(sites.names(model.config), identity))
    assert same.edits
    chex.assert_trees_all_equal(recorded(same, prompt), run_of(name), strict=True)
    if name in SWEPT:
        selected = edits.Edit(identity, position=(0, -1))
        with_positions = [name for name in sites.names(model.config) if name != "prediction"]
        again = model.edit(dict.fromkeys(with_positions, selected))
        chex.assert_trees_all_equal(recorded(again, prompt), run_of(name), strict=True)


@pytest.mark.parametrize("name", SWEPT)
def test_a_run_that_is_frozen_to_itself_is_itself(name, x64):
    """Every site on its own path: freezing all of them to the values of the run changes no bit."""
    model, prompt = case(name)
    frozen = model.edit({site: edits.constant(value) for site, value in run_of(name).items()})
    chex.assert_trees_all_equal(recorded(frozen, prompt), run_of(name), strict=True)


@pytest.mark.parametrize("name", SWEPT)
def test_an_identity_edited_model_predicts_the_same(name, x64):
    model, prompt = case(name)
    inner = [site for site in sites.names(model.config) if not site.startswith(("ln_final", "prediction"))]
    plain, edited = forms(model, prompt), forms(model.edit(dict.fromkeys(inner, identity)), prompt)
    assert {"model", "layerwise"} <= edited.keys() <= plain.keys()
    for form, value in edited.items():
        check(value, plain[form], form)


def test_only_requested_sites_are_kept(x64):
    model, prompt = case("gpt2")

    def kept(*request):
        """Names and shapes of a run."""
        found = jax.eval_shape(lambda model, prompt: model.run(*prompt, *request), model, prompt)
        return {name: leaf.shape for name, leaf in found.items()}

    everywhere = ("blocks.0.attn.pattern", "blocks.1.attn.pattern")
    both = ["blocks.1.attn.pattern", "attn.pattern"]
    for request in ("attn.pattern", "blocks.*.attn.pattern", both, everywhere[::-1]):
        assert sites.expand(model.config, request) == everywhere
        assert tuple(kept(request)) == everywhere
    assert tuple(kept(("prediction", "blocks.1.ln2.scale", "embed"))) == ("embed", "blocks.1.ln2.scale", "prediction")
    assert kept(()) == {}
    assert kept("blocks.0.attn.q") == {"blocks.0.attn.q": (2 * N + 1, 2, 3)}


def test_activations_are_found_by_name_and_by_layer(x64):
    found = run_of("gpt2")
    for layer in (0, 1):
        np.testing.assert_array_equal(found["attn.pattern", layer], found[f"blocks.{layer}.attn.pattern"])
        np.testing.assert_array_equal(found["attn.pattern", layer - 2], found["attn.pattern", layer])
        np.testing.assert_array_equal(found.stack("resid_post")[layer], found["resid_post", layer])
    assert len(found.stack("resid_post")) == 2
    assert set(found) == set(found.keys())
    assert len(found) == len(tuple(found.values()))
    some = Activations({"embed": jnp.ones((2, 1)), "blocks.3.attn.q": jnp.ones(4)})
    assert repr(some) == "Activations(embed [2, 1], blocks.3.attn.q [4])"
    assert some["attn.q", -1].shape == (4,)  # the last layer that was recorded
    doubled = jax.tree.map(lambda leaf: 2 * leaf, some)
    assert isinstance(doubled, Activations)
    assert float(doubled["embed"][0, 0]) == 2.0
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(some)]
    assert paths == ["['embed']", "['blocks.3.attn.q']"]
    for key, words in {
        ("attn.k", 3): "'blocks.3.attn.k' was not recorded; the nearest of 2 recorded sites is 'blocks.3.attn.q'",
        "embde": "'embde' was not recorded; the nearest of 2 recorded sites is 'embed'",
        "attn.q": "'attn.q' was not recorded; the nearest of 2 recorded sites is 'blocks.3.attn.q'",
        ("attn.q", 0): "'blocks.0.attn.q' was not recorded",
        ("embed", 0): "'blocks.0.embed' was not recorded",
    }.items():
        with pytest.raises(KeyError, match=re.escape(words)):
            some[key]
    with pytest.raises(KeyError, match=r"'blocks\.\*\.attn\.v' was not recorded; the nearest of"):
        some.stack("attn.v")
    with pytest.raises(KeyError, match="and no other site; request it by its name"):
        Activations({})["embed"]


def test_activations_of_low_precision(x64):
    model, prompt = case("gpt2")
    both = jax.jit(lambda model, prompt: (model.run(*prompt), model(*prompt)))
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.1)):
        low = replace(model, config=replace(model.config, dtype=dtype))
        (found, y_hat), expected = both(low, prompt), run_of("gpt2")
        assert found["resid_post", 1].dtype == found["attn.pattern", 0].dtype == dtype
        np.testing.assert_allclose(found["prediction"], y_hat, rtol=0, atol=tolerance)
        np.testing.assert_allclose(found["attn.q", 1].astype(float), expected["attn.q", 1], rtol=0, atol=30 * tolerance)


# ---- Refusals ----

REFUSED = {  # model, changes, words of the one sentence
    "misspelt": ("gpt2", {"attn.patern": edits.zero()}, "'attn.patern' does not exist; did you mean 'attn.pattern'?"),
    "their name": ("gpt2", {"blocks.1.attn.hook_q": edits.zero()}, "did you mean 'blocks.1.attn.q'?"),
    "their scores": ("gpt2", {"blocks.1.attn.hook_attn_scores": edits.zero()}, "did you mean 'blocks.1.attn.scores'?"),
    "their short name": (
        "gpt2",
        {"attn_scores": edits.zero()},
        "'attn_scores' does not exist; did you mean 'attn.scores'?",
    ),
    "their name misspelt": ("gpt2", {"blocks.0.hook_resid_prr": edits.zero()}, "did you mean 'blocks.0.resid_pre'?"),
    "their name of none": ("linear", {"blocks.0.mlp.hook_post": edits.zero()}, "needs an MLP in every block"),
    "their layer": ("gpt2", {"blocks.2.hook_resid_pre": edits.zero()}, "does not exist in layer 2; give layers 0 or 1"),
    "misspelt for none": (
        "linear",
        {"mlp.pots": edits.zero()},
        "'mlp.pots' does not exist; did you mean 'mlp.post', which needs an MLP in",
    ),
    "layer": (
        "gpt2",
        {"blocks.2.attn.q": edits.zero()},
        "'blocks.2.attn.q' does not exist in layer 2; give layers 0 or 1",
    ),
    "far layer": ("kinds", {"blocks.9.attn.q": edits.zero()}, "does not exist in layer 9; give layers 0 to 3"),
    "one layer": ("relu-context", {"blocks.1.mlp.pre": edits.zero()}, "does not exist in layer 1; give layer 0"),
    "negative layer": ("gpt2", {"blocks.-1.attn.q": edits.zero()}, "'blocks.-1.attn.q' does not exist; did you mean"),
    "not a layer's": ("gpt2", {"blocks.0.prediction": edits.zero()}, "is outside the layers; give 'prediction'"),
    "every layer's": ("gpt2", {"blocks.*.embed": edits.zero()}, "is outside the layers; give 'embed'"),
    "no norm": ("linear", {"ln1.scale": edits.zero()}, "'ln1.scale' needs a normalised layer input"),
    "no norm here": ("sums", {"blocks.0.ln1.scale": edits.zero()}, "does not exist in layer 0; give layer 1"),
    "no MLP": ("linear", {"blocks.0.mlp.post": edits.zero()}, "needs an MLP in every block (block_mlp_width)"),
    "no MLP to normalise": ("sums", {"ln2.scale": edits.zero()}, "'ln2.scale' needs an MLP in every block"),
    "no positions": ("linear", {"pos_embed": edits.zero()}, "needs learned positions (n_positions)"),
    "no read-out": ("linear", {"ln_final.scale": edits.zero()}, "needs a normalised learned read-out"),
    "twice": (
        "gpt2",
        {"embed": edits.zero(), "attn.q": edits.zero(), "blocks.1.attn.q": edits.zero()},
        "'attn.q' and 'blocks.1.attn.q' both edit site 'blocks.1.attn.q'; edit it once",
    ),
    "head": ("gpt2", {"attn.z": edits.zero(head=2)}, "edit of attn.z: head=2 is out of range; give -2 to 1"),
    "heads": ("gpt2", {"attn.z": edits.zero(head=(0, -3))}, "head=-3 is out of range; give -2 to 1"),
    "an array of heads": ("gpt2", {"attn.z": edits.zero(head=jnp.array([0, 5]))}, "head=5 is out of range"),
    "no heads": ("gpt2", {"resid_post": edits.zero(head=0)}, "this site has no head axis; remove head=0"),
    "no position": (
        "gpt2",
        {"prediction": edits.zero(position=-1)},
        "this site has no position axis; remove position=-1",
    ),
    "a mask": ("gpt2", {"attn.z": edits.zero(head=jnp.array([True, False]))}, "is not an index; give an integer, a"),
    "a truth": ("gpt2", {"attn.z": edits.zero(position=True)}, "position=True is not an index; give an integer"),
    "no index": ("gpt2", {"attn.z": edits.zero(position=())}, "position=() selects nothing; give at least one index"),
}
REFUSED_WHEN_RUN = {
    "position": ({"attn.z": edits.zero(position=11)}, "position=11 is out of range; give -11 to 10"),
    "positions": ({"attn.pattern": edits.zero(position=(0, -12))}, "position=-12 is out of range; give -11 to 10"),
    "width": (
        {"attn.q": edits.constant(jnp.ones(4))},
        "edit of attn.q [t head d_head]: an array of shape (4,) does not broadcast to the shape (11, 2, 3) of the val",
    ),
    "axes": ({"attn.q": edits.add(jnp.ones((1, 11, 2, 3)))}, "an array of shape (1, 11, 2, 3) does not broadcast"),
    "factor": ({"attn.q": edits.scale(jnp.ones((11, 1)))}, "an array of shape (11, 1) does not broadcast"),
    "own": ({"resid_pre": lambda value: value[:-1]}, "an array of shape (10, 6) does not broadcast"),
    "other prompts": ({"embed": edits.mean(jnp.ones((7, 8, 6)))}, "an array of shape (8, 6) does not broadcast"),
    "direction": (
        {"resid_mid": edits.project_out(jnp.ones(5))},
        "a direction of shape (5,) is not a vector of width 6",
    ),
    "nothing": ({"attn.q": lambda value: None}, "the function returns None; return the new value"),
}


def refused(words, act):
    """A ValueError of one sentence."""
    with pytest.raises(ValueError, match=re.escape(words)) as caught:
        act()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_edited_is_refused(what):
    name, changes, words = REFUSED[what]
    model, prompt = case(name)
    refused(words, lambda: model.edit(changes))
    (request, *_) = changes
    if "does not exist" in words or "needs" in words:
        refused(words, lambda: sites.expand(model.config, request))
        refused(words, lambda: jax.eval_shape(lambda: model.run(*prompt, names=request)))


def test_arguments_that_are_no_site_and_no_edit_are_refused():
    config, requests = CASES["gpt2"][0], iter(["attn.q", 3])
    refused("site 3 is not a string; give a name such as", lambda: sites.expand(config, requests))  # pyright: ignore
    refused("edit 3.0 is not a function; give a function of the value, or", lambda: edits.as_edit(3.0))
    refused("direction is zero", lambda: edits.project_out(jnp.zeros(3)))
    for values in (jnp.ones(()), jnp.ones((0, 4))):
        words = f"values have shape {values.shape}; give [prompt ...] with at least one prompt"
        refused(words, lambda values=values: edits.mean(values))
        refused(words, lambda values=values: edits.resample(jax.random.key(0), values))


@pytest.mark.parametrize("what", REFUSED_WHEN_RUN)
def test_what_does_not_fit_the_prompt_is_refused_when_it_runs(what, x64):
    changes, words = REFUSED_WHEN_RUN[what]
    model, prompt = case("gpt2")
    edited = model.edit(changes)
    for act in (edited, edited.run, edited.layerwise):
        refused(words, lambda act=act: jax.eval_shape(act, *prompt))
    with pytest.raises(ValueError, match=r"^edit of "):  # of two tokens fewer
        jax.eval_shape(edited.prefix, *prompt[:2])


# ---- Edits ----


def affine(value, switch):
    """Another function where the switch is one, and the identity where it is zero."""
    return value * (1 + 0.3 * switch) + 0.2 * switch


@functools.partial(jax.jit, static_argnames="names")
def edited_one_by_one(model, prompt, names):
    """The run in which one site is edited, for every site. A loop compiles faster than `jax.vmap`."""

    def run(switches):
        changes = {name: edits.Edit(affine, (switches[i],)) for i, name in enumerate(names)}
        return model.edit(changes).run(*prompt)

    return jax.lax.map(run, jnp.eye(len(names)))


@pytest.mark.parametrize("name", SWEPT)
def test_an_edit_at_every_site_changes_what_follows_as_in_plain_numpy(name, x64):
    model, prompt = case(name)
    names = sites.names(model.config)
    found = {at: np.asarray(value) for at, value in edited_one_by_one(model, prompt, names).items()}
    clean = run_of(name)
    for i, site in enumerate(names):
        expected, _ = forward(model, prompt, lambda at, value, site=site: affine(value, 1 if at == site else 0))
        scale = {at: max(np.abs(value).max(), 1) for at, value in expected.items()}
        for at, value in expected.items():
            np.testing.assert_allclose(found[at][i], value, rtol=0, atol=1e-11 * scale[at], err_msg=f"{site}: {at}")
            if names.index(at) < i:
                check(found[at][i], clean[at], f"{site}: {at}")


# ---- Constructors of edits ----


def project_out(value, vector):
    """The value minus its projection, row by row."""
    result = value.copy()
    for row in np.ndindex(value.shape[:-1]):
        result[row] -= vector * (value[row] @ vector) / (vector @ vector)
    return result


CONSTRUCTORS = {  # arguments of one constructor, which are made of the arrays `a`, and the new value in plain NumPy
    "zero": (lambda a: (), lambda value, a: 0 * value),
    "constant": (lambda a: (a["whole"],), lambda value, a: a["whole"]),
    "mean": (lambda a: (a["recorded"],), lambda value, a: sum(a["recorded"]) / len(a["recorded"])),
    "add": (lambda a: (a["vector"],), lambda value, a: value + a["vector"]),
    "scale": (lambda a: (a["number"],), lambda value, a: value * a["number"]),
    "project_out": (lambda a: (a["vector"],), lambda value, a: project_out(value, a["vector"])),
}
OTHERS = {"resample", "noise"}  # those draw; tests of their own follow
WHERE = (  # heads and positions; an array is a traced index
    (None, None),
    (1, None),
    ((0, -1), None),
    (None, -1),
    (None, (2, 0)),
    (-2, (1, -1)),
    (np.array(1), np.array(-2)),
    (np.array([0, 2]), 3),
    (1, np.array([-1, 4, 0])),
    (np.array(3), np.array([-6])),  # out of range: selects nothing
)
VALUES = {"attn.z": (5, 3, 4), "attn.pattern": (3, 5, 5), "resid_mid": (5, 4), "ln1.scale": (5, 1), "prediction": (2,)}


def indices(selection, size):
    """The indices that a selection means."""
    every = range(size) if selection is None else np.ravel(selection)
    return [index % size for index in every if -size <= index < size]


def where_selected(value, new, selections):
    """The new value at the selected indices of each axis, entry by entry."""
    result = value.copy()
    for place in np.ndindex(value.shape):
        if all(place[axis] in indices(selection, value.shape[axis]) for axis, selection in selections):
            result[place] = new[place]
    return result


def test_every_constructor_is_in_the_list():
    public = {name for name, one in vars(edits).items() if inspect.isfunction(one) and one.__module__ == edits.__name__}
    assert {name for name in public if not name.startswith("_")} == {*CONSTRUCTORS, *OTHERS, "as_edit"}


@pytest.mark.parametrize("kind", VALUES)
def test_constructors_are_their_formulas_where_they_select(kind, x64):
    site, shape, rng = sites.SITES[kind], VALUES[kind], np.random.default_rng(0)
    value = rng.normal(size=shape)
    arrays = {
        "number": np.asarray(0.7),
        "vector": rng.normal(size=shape[-1:]),
        "whole": rng.normal(size=shape),
        "recorded": rng.normal(size=(4, *shape)),
    }
    axes = {"head": site.head_axis, "position": site.position_axis}
    wheres = [dict(zip(axes, where, strict=True)) for where in WHERE]
    wheres = [{name: index for name, index in where.items() if axes[name] is not None} for where in wheres]

    @jax.jit
    def run(value, arrays, wheres_traced):
        results = {}
        for name, (arguments, _) in CONSTRUCTORS.items():
            for i, (where, traced) in enumerate(zip(wheres, wheres_traced, strict=True)):
                edit = getattr(edits, name)(*arguments(arrays), **{**where, **traced})
                results[name, i] = edit(site, value)
        return results

    def traced(where):
        return {name: index for name, index in where.items() if isinstance(index, np.ndarray)}

    results = run(value, arrays, [traced(where) for where in wheres])
    for (name, i), result in results.items():
        new = np.asarray(CONSTRUCTORS[name][1](value, arrays))
        expected = where_selected(value, new, [(axes[axis], index) for axis, index in wheres[i].items()])
        check(result, expected, f"{name} {wheres[i]}")


def test_arrays_of_edits_broadcast_from_the_last_axis(x64):
    site, value = sites.SITES["attn.z"], np.random.default_rng(0).normal(size=(5, 3, 4))
    makers = ((edits.constant, lambda _, b: b), (edits.add, np.add), (edits.scale, np.multiply))
    shapes = ((), (4,), (1,), (3, 1), (5, 1, 1), (1, 3, 4), (5, 3, 4))
    arrays = [np.random.default_rng(1).normal(size=shape) for shape in shapes]

    @jax.jit
    def edited(value, arrays):
        return [[make(array)(site, value) for make, _ in makers] for array in arrays]

    for array, results in zip(arrays, edited(value, arrays), strict=True):
        for (_, combine), result in zip(makers, results, strict=True):
            np.testing.assert_array_equal(result, np.broadcast_to(combine(value, array), value.shape))
    whole = edits.constant(2)(site, jnp.asarray(value, jnp.float32))
    assert whole.dtype == np.float32  # the type of the value, not of the constant


def test_resampling_takes_the_value_of_one_prompt_and_each_equally_often():
    site, rng = sites.SITES["attn.z"], np.random.default_rng(0)
    value, recorded = rng.normal(size=(5, 3, 4)), rng.normal(size=(4, 5, 3, 4))
    keys = jax.random.split(jax.random.key(0), 400)
    resampled = jax.jit(jax.vmap(lambda key: edits.resample(key, recorded, head=1)(site, jnp.asarray(value))))(keys)
    resampled, recorded, value = (np.asarray(array, np.float32) for array in (resampled, recorded, value))
    np.testing.assert_array_equal(resampled[:, :, [0, 2]], np.broadcast_to(value[:, [0, 2]], (400, 5, 2, 4)))
    same = (resampled[:, None, :, 1] == recorded[None, :, :, 1]).all((2, 3))
    assert (same.sum(1) == 1).all()
    # The counts of four equally likely prompts: chi-squared with three degrees of freedom, at one in 10,000.
    counts = same.sum(0)
    assert ((counts - 100) ** 2 / 100).sum() < 21.1


def test_noise_is_normal_scales_and_differs_between_layers(x64):
    rng = np.random.default_rng(0)
    value, site = jnp.asarray(rng.normal(size=(5, 3, 4))), sites.SITES["attn.z"]
    keys = jax.random.split(jax.random.key(0), 500)

    def added(key, std):
        return edits.noise(key, std, position=-1)(site, value) - value

    draw = jax.jit(jax.vmap(added, (0, None)))
    drawn = np.asarray(draw(keys, 1.0))
    assert (drawn[:, :-1] == 0).all()
    assert scipy.stats.kstest(drawn[:, -1].ravel(), "norm").pvalue > 1e-4
    np.testing.assert_allclose(draw(keys, 0.25), drawn / 4, rtol=0, atol=1e-15)
    # Zero, then noise: the recorded values are the noise.
    model, prompt = case("linear")
    noisy = [
        model.edit({"attn.z": edits.zero()}).edit({"attn.z": edits.noise(key, 1.0)})
        for key in (keys[0], keys[0], keys[1])
    ]
    drawn, again, other = (recorded(each, prompt).stack("attn.z") for each in noisy)  # one program
    np.testing.assert_array_equal(drawn, again)
    pairs = ((drawn[0], drawn[1]), (drawn[0], other[0]), (drawn[1], other[1]))
    assert all(abs(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) < 0.5 for a, b in pairs)


# ---- Edited models ----


def test_edits_apply_in_the_order_in_which_they_are_added(x64):
    model, prompt = case("linear")
    clean, site, factor = run_of("linear"), "blocks.1.attn.z", 0.3
    direction = np.random.default_rng(0).normal(size=D + M)
    add, scale = {site: edits.add(direction)}, {"attn.z": edits.scale(factor)}
    first, second = recorded(model.edit(add).edit(scale), prompt), recorded(model.edit(scale).edit(add), prompt)
    check(first["attn.z", 0], clean["attn.z", 0] * factor, "layer 0")
    check(second["attn.z", 0], clean["attn.z", 0] * factor, "layer 0")
    # The values and patterns of layer 1 follow from the edited layer 0; z before the edits is their product.
    for found, expected in (
        (first, lambda z: (z + direction) * factor),
        (second, lambda z: z * factor + direction),
    ):
        pattern, v = np.asarray(found["attn.pattern", 1]), np.asarray(found["attn.v", 1])
        z = np.stack([pattern[head] @ v[:, head] for head in range(2)], axis=1)
        check(found[site], expected(z), "layer 1")
    assert model.edit({}) is model
    assert not model.edits


def members(name, count=3):
    """A population with random members, and one prompt for each."""
    config, layout = CASES[name]
    drawn = [case(name, seed) for seed in range(count)]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[model.params for model, _ in drawn])
    none = np.full(count, -1)
    return Population(config, layout, params, none, none), [prompt for _, prompt in drawn]


@jax.jit
def predicted(model, prompt):
    return model.run(*prompt, ("attn.pattern", "resid_post")), model(*prompt)


predicted_by_members = jax.jit(jax.vmap(lambda model, prompt: predicted(model, prompt)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "gpt2", "everything", "query-modified"])
def test_vmap_over_members_is_a_loop_over_them(name, x64):
    population, prompts = members(name)
    assert len(population) == len(list(population)) == 3
    stacked_prompts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *prompts)
    factors, heads = jnp.array([0.5, -1.0, 2.0]), jnp.array([0, -1, 0])
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, population.config.width)))
    # Leaves of the edits have a member axis too, as all leaves of `stacked`.
    edited = population.stacked.edit({"attn.z": edits.scale(factors, head=heads), "resid_post": edits.add(vectors)})
    for is_edited in (False, True):
        stacked = predicted_by_members(edited if is_edited else population.stacked, stacked_prompts)
        for i, member in enumerate(population):
            chex.assert_trees_all_equal(member.params, population[i].params, case(name, i)[0].params, strict=True)
            if is_edited:
                changes = {"attn.z": edits.scale(factors[i], head=heads[i]), "resid_post": edits.add(vectors[i])}
                member = member.edit(changes)
            of_member = jax.tree.map(lambda leaf, i=i: leaf[i], stacked)
            jax.tree.map(lambda a, b: check(a, b, name), of_member, predicted(member, prompts[i]))
    with pytest.raises(IndexError):
        population[3]


def test_a_population_is_iterated_member_by_member(x64):
    population, _ = members("linear")
    assert isinstance(population, Iterable)
    models_of_members = list(population)
    assert len(models_of_members) == len(population) == 3
    for i, model in enumerate(models_of_members):
        assert isinstance(model, Model)
        assert (model.config, model.layout) == (population.config, population.layout)
        chex.assert_trees_all_equal(model.params, population[i].params, case("linear", i)[0].params, strict=True)


def learned_edits(model, rng):
    """Edits with arrays to learn, at a site of every part of a model."""
    e, n_heads = model.config.width, model.config.n_heads
    changes = {
        "embed": edits.add(rng.normal(size=e), position=-1),
        "blocks.0.attn.v": edits.scale(rng.normal(size=(n_heads, 1)), position=(0, 2)),
        "blocks.0.attn.pattern": edits.scale(0.8, head=-1),
        "blocks.0.attn.result": edits.add(rng.normal(size=e), head=0),
        "attn_out": edits.project_out(rng.normal(size=e)),
        "blocks.0.resid_pre": edits.constant(rng.normal(size=e), position=0),
        "blocks.0.attn.k": jax.tree_util.Partial(
            jnp.multiply, jnp.asarray(rng.normal(size=(1, 1, model.config.head_width)))
        ),
    }
    if model.config.block_mlp_width is not None:
        changes["mlp.post"] = edits.scale(rng.normal(size=model.config.block_mlp_width))
        changes["ln1.scale"] = edits.scale(1.1)
    return model.edit(changes)


@functools.cache
def slopes_of(kind):
    """A program for the slope of an edited model along a tangent, by `jax.grad` and by central differences."""

    @jax.jit
    def slopes(model, prompt, tangent, weights):
        def value(model, prompt):
            y_hat = getattr(model, kind)(*prompt[: 2 if kind == "prefix" else 3])
            return jnp.sum(y_hat * jax.random.normal(weights, y_hat.shape))

        def moved(step):
            return jax.tree.map(lambda a, b: a + step * b, (model, prompt), tangent)

        gradient = jax.grad(value, argnums=(0, 1))(model, prompt)
        products = jax.tree.map(lambda a, b: jnp.sum(a * b), gradient, tangent)
        h = 1e-6
        differences = (value(*moved(h)) - value(*moved(-h))) / (2 * h)
        return jax.tree.reduce(jnp.add, products), differences

    return slopes


GRADIENTS = [(name, "__call__") for name in ("linear", "everything", "relu", "sums")]
GRADIENTS += [("gpt2", "layerwise"), ("gpt2", "prefix"), ("kinds", "layerwise")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), GRADIENTS)
def test_gradients_through_edits_are_central_differences(name, kind, x64):
    model, prompt = case(name)
    rng = np.random.default_rng(3)
    edited = learned_edits(model, rng)

    def direction(chosen):
        """A random tangent of the leaves whose path contains a word; modification strengths are not trained."""

        def draw(path, leaf):
            trained = chosen in jax.tree_util.keystr(path) and (
                leaf.shape or ".params" not in jax.tree_util.keystr(path)
            )
            return jnp.asarray(rng.normal(size=leaf.shape) * bool(trained))

        return jax.tree_util.tree_map_with_path(draw, (edited, prompt))

    for chosen in (".edits", ".params", "[1]"):
        tangent = direction(chosen)
        assert any(leaf.any() for leaf in jax.tree.leaves(tangent)), chosen
        slope, expected = slopes_of(kind)(edited, prompt, tangent, jax.random.key(0))
        assert abs(expected) > 1e-3, chosen
        np.testing.assert_allclose(slope, expected, rtol=1e-6, err_msg=chosen)


def test_gradient_descent_learns_a_direction(x64):
    """A direction is a leaf of an edited model, so that it can be trained to steer the prediction."""
    model, prompt = case("gpt2")
    edited = model.edit({"blocks.1.resid_pre": edits.add(jnp.zeros(model.config.width), position=-1)})

    @jax.jit
    def learned(edited, prompt):
        target = edited(*prompt) + 0.3

        def loss(arrays):
            return jnp.sum((replace(edited, edits=arrays)(*prompt) - target) ** 2)

        def step(_, arrays):
            return jax.tree.map(lambda a, b: a - 0.3 * b, arrays, jax.grad(loss)(arrays))

        arrays = jax.lax.fori_loop(0, 300, step, edited.edits)
        return replace(edited, edits=arrays), loss(edited.edits), loss(arrays)

    edited, before, after = learned(edited, prompt)
    assert after < 0.2 * before
    chex.assert_trees_all_equal(edited.params, model.params, strict=True)


@pytest.mark.parametrize("name", CAUSAL)
def test_prefix_predictions_of_an_edited_model_are_its_predictions(name, x64):
    """Edits at all positions: the k-th prediction is that of the edited model after k examples."""
    model, prompt = case(name)
    switches = {"attn.z": 0.7, "blocks.0.resid_post": -0.5, "prediction": 1.0}
    edited = model.edit({site: edits.Edit(affine, (jnp.asarray(switch),)) for site, switch in switches.items()})

    def change(at, value):
        return affine(value, switches.get(at, switches.get(sites.split(at)[0], 0.0)))

    expected, outputs = forward(model, prompt, change)
    y_hat, prefix = jax.jit(lambda model, prompt: (model(*prompt), model.prefix(*prompt[:2])))(edited, prompt)
    check(y_hat, expected["prediction"], "model")
    check(prefix, affine(outputs[::2][:-1], 1.0), "prefix")


def test_predictions_of_layers_refuse_edits_that_they_do_not_pass():
    model, prompt = case("gpt2")
    edited = model.edit({"prediction": edits.zero(), "ln_final.scale": edits.scale(2.0)})
    words = "layerwise predictions do not pass the edited ln_final.scale, prediction; remove this edit"
    refused(words, lambda: jax.eval_shape(edited.layerwise, *prompt))
    for name in ("linear", "gpt2-context"):
        model, prompt = case(name)
        edited = model.edit({"resid_post": edits.zero()})
        with pytest.raises(ValueError, match="causal"):
            edited.prefix(*prompt[:2])


def test_an_edited_model_is_a_predictor(x64):
    """What is measured of a learner is measured of an edited model; its compiled program serves other arrays."""
    model, prompt = case("linear")
    prompts = Prompt(*(jnp.stack([leaf, -leaf]) for leaf in (*prompt, jnp.ones(M), jnp.ones((M, D)))))
    ablated = model.edit({"blocks.1.attn.z": edits.zero()})
    one_layer = replace(model, config=replace(model.config, n_layers=1), params={"block_0": model.params["block_0"]})

    @jax.jit
    def measured(ablated, one_layer):
        learners = ablated.predictor, one_layer
        return analysis.alignment(ablated, one_layer, prompts), [analysis.losses(one, prompts) for one in learners]

    same, losses = measured(ablated, one_layer)
    np.testing.assert_allclose(same, (1.0, 0.0, 0.0), rtol=0, atol=1e-12)
    check(*losses, "losses")
    traces = []

    @jax.jit
    def predict(model, prompt):
        traces.append(1)
        return model(*prompt)

    for factor in (0.5, 2.0):
        edited = model.edit({"attn.z": edits.scale(factor, head=1, position=(0, -1))})
        other = model.edit({"attn.z": edits.noise(jax.random.key(0), factor)})
        predict(edited, prompt)
        predict(other, prompt)
    assert len(traces) == 2


def test_indices_that_are_arrays_are_leaves_and_others_are_not(x64):
    model, prompt = case("linear")
    edited = model.edit({"attn.z": edits.zero(head=jnp.array(1), position=(0, -1))})
    fixed = model.edit({"attn.z": edits.zero(head=1, position=(0, -1))})
    assert len(jax.tree.leaves(edited)) == len(jax.tree.leaves(fixed)) + 2 == len(jax.tree.leaves(model)) + 2
    chex.assert_trees_all_equal(recorded(edited, prompt), recorded(fixed, prompt), strict=True)
    structure = jax.tree.structure(edited)
    for made in (jax.device_get(edited), jax.eval_shape(identity, edited), jax.tree.map(lambda leaf: leaf, edited)):
        assert jax.tree.structure(made) == structure
    read = jax.device_get(edited)
    chex.assert_trees_all_equal(recorded(read, prompt), recorded(fixed, prompt), strict=True)


def test_models_are_described():
    config = TransformerConfig(D + M, 2, 2, d_head=2, shared=True, attention="mixed")
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), models.shapes(config))
    model = Model(config, params, CONCATENATED)
    assert repr(model).splitlines() == [
        "Model: 2 shared layers of mixed attention, 2 heads of width 2, residual width 5, 81 parameters",
        "  block_0.attention.P [2, 5, 2]",
        "  block_0.attention.W_K [2, 2, 5]",
        "  block_0.attention.W_Q [2, 2, 5]",
        "  block_0.attention.W_V [2, 2, 5]",
        "  block_0.attention.mix [1, 1, 1]",
    ]
    edited = model.edit({"resid_post": edits.zero(), "embed": edits.zero()}).edit({"prediction": identity})
    assert repr(edited).splitlines()[-2:] == [
        "  edited: embed, blocks.0.resid_post, blocks.1.resid_post",
        "  edited: prediction",
    ]
    population, _ = members("kinds")
    first = "Model of 3 members: 4 layers of linear softmax relu mixed attention, 1 head of width 5, residual width 5, "
    assert repr(population.stacked).splitlines()[0] == first + "401 parameters per member"
    one = replace(model, config=replace(config, n_layers=1))
    assert repr(one).startswith("Model: 1 shared layer of mixed attention, 2 heads of width 2")


def test_edited_models_are_not_saved_as_if_they_were_not(tmp_path):
    model, _ = case("linear")
    refused("edits are not saved; save the unedited model", lambda: model.edit({"embed": identity}).save(tmp_path))
    assert not list(tmp_path.iterdir())
    model.save(tmp_path)
    assert load_model(tmp_path).config == model.config


# ---- The page ----


def test_the_page_has_the_table_of_sites():
    rows = []
    for name, site in sites.SITES.items():
        full = f"blocks.{{l}}.{name}" if site in sites.BLOCK else name
        *parts, last = full.split(".")
        theirs = ".".join([*parts, "hook_attn_scores" if last == "scores" else f"hook_{last}"])
        theirs = "the logits of the last token" if name == "prediction" else f"`{theirs}`"
        condition = site.needs.removeprefix("needs ") or "always"
        rows.append(f"| `{full}` | {theirs} | `[{' '.join(site.axes)}]` | {site.about} | {condition} |")
    page = PAGE.read_text(encoding="utf-8")
    _, _, after = page.partition("|---|---|---|---|---|\n")
    table, _, _ = after.partition("\n\n")
    assert table == "\n".join(rows)
    constructors = re.findall(r"^\| `(\w+)\([\w, ]*\)` \|", page, re.MULTILINE)
    assert set(constructors) == {*CONSTRUCTORS, *OTHERS}


@pytest.mark.slow  # without jit, as on the page, every operation is a program
def test_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    namespace = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), namespace)
