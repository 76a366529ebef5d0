"""Direct attribution: shares add up to the prediction, and each is what its component alone adds to it.

Expected shares are computed in plain NumPy, from the forward pass of `test_sites` and from the weights.
"""

import functools
import sys
from dataclasses import fields, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_sites import CASES, D, M, N, case, encode, forward, gelu, refused  # beside this file
from test_sites import SWEPT as NAMES

from icl_gd import constructions, learners, models, tokens
from icl_gd.analysis import attribution, attribution_by_key, lens
from icl_gd.models import Model, Modification, TransformerConfig, edits, sites

pytestmark = pytest.mark.slow  # compiles many programs

UNCLIPPED = [name for name in NAMES if CASES[name][0].clip is None]


def near(actual, expected, scale=1.0, message=""):
    """Agreement to 1e-12 of the largest number from which both were computed."""
    assert np.shape(actual) == np.shape(expected), message
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-12 * max(scale, 1.0), err_msg=message)


def largest(tree):
    return max(np.abs(leaf).max() for leaf in jax.tree.leaves(tree))


@jax.jit
def looked_at(model, prompt):
    found = {"prediction": model.run(*prompt, "prediction")["prediction"], "layerwise": model.layerwise(*prompt)}
    shares = attribution(model, *prompt)
    return found | {"shares": shares, "total": shares.total, "lens": lens(model, *prompt)}


@functools.cache
def look(name):
    with jax.enable_x64(True):
        model, prompt = case(name)
        return looked_at(model, prompt) | {"keys": jax.jit(attribution_by_key)(model, *prompt)}


def test_the_list_has_every_switch():
    configs = [CASES[name][0] for name in NAMES]
    same = {"init", "init_scale", "dtype"}  # those do not change the function
    for field in fields(TransformerConfig):
        assert field.name in same or len({getattr(config, field.name) for config in configs}) > 1, field.name
    for field in fields(Modification):
        assert any(field.name in config.modification.enabled for config in configs), field.name
    assert {kind for config in configs for kind in config.kinds} == {"linear", "softmax", "relu", "mixed"}
    assert len({CASES[name][1] for name in NAMES}) >= 5
    assert 0 < len(UNCLIPPED) < len(NAMES)


# ---- Shares ----


def arrays_of(model):
    return jax.tree.map(np.asarray, model.params)


def read_alone(model, values, summand):
    """What one summand of the query's residual adds to the prediction, with the realised scale of the LayerNorm."""
    if model.config.d_read_out is None:
        return -summand[-model.layout.d_output :]
    unembed = arrays_of(model)["unembed"]
    if model.config.pre_norm:
        summand = (summand - np.mean(summand)) / values["ln_final.scale"][-1, 0] * unembed["norm"]["scale"]
    return unembed["W_U"] @ summand


def plain_shares(model, prompt):
    """All shares by name, from the values of a forward pass in plain NumPy."""
    config, params = model.config, arrays_of(model)
    values, _ = forward(model, prompt)

    def read(summand):
        return read_alone(model, values, summand)

    token, bias = encode(model.layout, *map(np.asarray, prompt))[-1], np.zeros(config.width)
    embedding = params.get("embedding", {})
    if config.d_embed is not None:
        token = embedding["W_E"] @ token
    if config.d_embed is not None and config.biases:
        bias = bias + embedding["b_E"]
    if config.input_mlp_width is not None:
        token = token + embedding["W_2"] @ gelu(embedding["W_1"] @ (token + bias) + embedding["b_1"])
        bias = bias + embedding["b_2"]
    heads, mlps, clips = [], [], []
    for layer, block in enumerate(config.blocks):
        z, weights = values[f"blocks.{layer}.attn.z"][-1], params[block]
        heads.append([read(weights["attention"]["P"][h] @ z[h]) for h in range(config.n_heads)])
        bias = bias + (weights["attention"]["b_P"] if config.biases else 0)
        mlps.append(np.zeros(model.layout.d_output))
        before = values[f"blocks.{layer}.resid_pre"][-1] + values[f"blocks.{layer}.attn_out"][-1]
        if config.block_mlp_width is not None:
            mlps[-1] = read(weights["mlp"]["W_2"] @ values[f"blocks.{layer}.mlp.post"][-1])
            bias = bias + weights["mlp"]["b_2"]
            before = before + values[f"blocks.{layer}.mlp_out"][-1]
        clips.append(read(np.clip(before, -config.clip, config.clip) - before if config.clip else 0 * before))
    constant = read(bias)
    if config.d_read_out is not None:
        constant = constant + params["unembed"]["b_U"]
        if config.pre_norm:
            constant = constant + params["unembed"]["W_U"] @ params["unembed"]["norm"]["bias"]
    position = params["positions"][len(values["embed"]) - 1] if config.n_positions else np.zeros(config.width)
    shares = {"embed": read(token), "pos_embed": read(position), "constant": constant}
    return shares | {"heads": np.array(heads), "mlps": np.array(mlps), "clip": np.array(clips)}


@pytest.mark.parametrize("name", NAMES)
def test_shares_add_up_to_the_prediction(name):
    found = look(name)
    scale = largest(found["shares"])
    near(found["total"], found["prediction"], scale)
    parts = [part.reshape(-1, *found["prediction"].shape) for part in found["shares"]]
    near(np.concatenate(parts).sum(axis=0), found["prediction"], scale)


@pytest.mark.parametrize("name", NAMES)
def test_every_share_is_that_of_plain_numpy(name):
    config, _ = CASES[name]
    shares, expected = look(name)["shares"]._asdict(), plain_shares(*case(name))
    assert shares.keys() == expected.keys()
    for part, value in expected.items():
        near(shares[part], value, largest(expected), part)
    for part, exists in {
        "pos_embed": config.n_positions is not None,
        "mlps": config.block_mlp_width is not None,
        "constant": config.biases or config.input_mlp_width or config.block_mlp_width or config.d_read_out,
    }.items():
        assert bool(np.any(shares[part])) == bool(exists), part
    if config.clip is None:
        assert not np.any(shares["clip"])


def test_a_clip_that_does_not_clip_has_a_share_of_zero(x64):
    """Not of rounding: whether a layer clips the query can be read from its share."""
    model, prompt = case("everything")
    far = replace(model, config=replace(model.config, clip=1e6))
    assert not np.any(jax.jit(attribution)(far, *prompt).clip)
    assert np.any(look("everything")["shares"].clip)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_has_its_share_of_the_head(name):
    (model, prompt), keys = case(name), np.asarray(look(name)["keys"])
    config, params = model.config, arrays_of(model)
    values, _ = forward(model, prompt)
    expected = np.zeros_like(keys)
    for layer, block in enumerate(config.blocks):
        pattern, v = values[f"blocks.{layer}.attn.pattern"], values[f"blocks.{layer}.attn.v"]
        for h in range(config.n_heads):
            for key in range(len(v)):
                summand = params[block]["attention"]["P"][h] @ v[key, h] * pattern[h, -1, key]
                expected[layer, h, key] = read_alone(model, values, summand)
    near(keys, expected, largest(expected))
    near(keys.sum(axis=2), look(name)["shares"].heads, largest(expected))
    if not (config.causal or config.attend_to_query):
        assert not np.any(keys[:, :, -1])  # the query is masked


# ---- Shares as effects ----


def kept(value, bias, keep):
    """The value, or only its bias where `keep` is zero."""
    return bias + keep * (value - bias)


@jax.jit
def removed_one_by_one(model, prompt):
    """The prediction without one component, whose later layers and LayerNorm do not notice: heads, MLPs, positions."""
    config, recorded = model.config, model.run(*prompt)
    added = [kind for kind in ("pos_embed", "attn.result", "mlp_out", "ln_final.scale") if kind in kinds_of(config)]
    names = sites.expand(config, added)
    frozen = model.edit({name: edits.constant(recorded[name]) for name in names})
    layers, heads = config.n_layers, config.n_heads

    def predict(keep):
        by_head, by_mlp = keep[: layers * heads].reshape(layers, 1, heads, 1), keep[layers * heads : -1]
        changes = {f"blocks.{i}.attn.result": edits.scale(by_head[i]) for i in range(layers)}
        if config.block_mlp_width is not None:
            biases = [model.params[block]["mlp"]["b_2"][None] for block in config.blocks]
            changes |= {f"blocks.{i}.mlp_out": edits.Edit(kept, (biases[i], by_mlp[i])) for i in range(layers)}
        if config.n_positions is not None:
            changes["pos_embed"] = edits.scale(keep[-1])
        return frozen.edit(changes).run(*prompt, "prediction")["prediction"]

    return jax.vmap(predict)(1 - jnp.eye(layers * (heads + 1) + 1))


def kinds_of(config):
    return {sites.split(name)[0] for name in sites.names(config)}


@pytest.mark.parametrize("name", [name for name in UNCLIPPED if "-" not in name or name == "gpt2-context"])
def test_a_share_is_the_effect_of_its_removal_on_the_direct_path(name, x64):
    found = look(name)
    effects = found["prediction"][None] - removed_one_by_one(*case(name))
    shares = [part.reshape(-1, effects.shape[-1]) for part in found["shares"]._asdict().values()]
    _, position, heads, mlps, _, _ = shares
    near(effects, np.concatenate([heads, mlps, position]), largest(found["shares"]))


def ends_with_attention(config):
    """Whether the last layer's heads are added to the residual that is read out, and nothing normalises it."""
    return config.clip is None and config.block_mlp_width is None and "ln_final.scale" not in kinds_of(config)


@jax.jit
def without_last_heads(model, prompt):
    last = f"blocks.{model.config.n_layers - 1}.attn.result"

    def predict(head):
        return model.edit({last: edits.zero(head=head)}).run(*prompt, "prediction")["prediction"]

    return jax.vmap(predict)(jnp.arange(model.config.n_heads))


@pytest.mark.parametrize("name", [name for name in NAMES if ends_with_attention(CASES[name][0])])
def test_a_head_of_the_last_layer_changes_the_prediction_by_its_share(name, x64):
    found = look(name)
    effects = found["prediction"][None] - without_last_heads(*case(name))
    near(effects, found["shares"].heads[-1], largest(found["shares"]))


# ---- Lens ----


def plain_lens(model, values):
    """The read-out of every residual of the query, with the LayerNorm that it has itself."""

    def read(residual):
        if model.config.pre_norm and model.config.d_read_out is not None:
            values["ln_final.scale"][-1, 0] = np.sqrt(np.var(residual) + 1e-5)
        result = read_alone(model, values, residual)
        if model.config.d_read_out is None:
            return result
        unembed = arrays_of(model)["unembed"]
        return result + unembed["b_U"] + (unembed["W_U"] @ unembed["norm"]["bias"] if model.config.pre_norm else 0)

    kinds = ("resid_pre", "resid_mid", "resid_post")
    return {name: read(value[-1]) for name, value in values.items() if sites.split(name)[0] in kinds}


def check_lens(found, expected):
    assert found["lens"].keys() == expected.keys()
    for name, value in expected.items():
        near(found["lens"][name], value, largest(expected), name)
    near(found["lens"]["resid_post", -1], found["prediction"], largest(expected))
    layerwise = np.concatenate([found["lens"]["resid_pre", 0][None], found["lens"].stack("resid_post")])
    near(layerwise, found["layerwise"], largest(expected))


@pytest.mark.parametrize("name", NAMES)
def test_the_lens_reads_out_every_residual(name):
    model, prompt = case(name)
    check_lens(look(name), plain_lens(model, forward(model, prompt)[0]))


# ---- Edited models ----

SHIFT = np.arange(6) / 4 - 0.5  # exact in single precision too
CHANGES = {  # by site: the edit, and the same in plain NumPy
    "embed": (edits.add(SHIFT), lambda value: value + SHIFT),
    "pos_embed": (edits.scale(0.5), lambda value: 0.5 * value),
    "blocks.0.attn.pattern": (edits.zero(head=0), lambda value: value * np.array([0, 1]).reshape(2, 1, 1)),
    "blocks.1.attn.v": (edits.scale(1.5), lambda value: 1.5 * value),
    "blocks.1.mlp_out": (edits.zero(), lambda value: 0 * value),
    "blocks.1.ln1.scale": (edits.scale(2.0), lambda value: 2 * value),
}


def test_edits_apply_to_shares_and_to_the_lens(x64):
    model, prompt = case("gpt2")
    edited = model.edit({name: edit for name, (edit, _) in CHANGES.items()})
    found, params = looked_at(edited, prompt), arrays_of(model)
    values, _ = forward(model, prompt, lambda name, value: CHANGES[name][1](value) if name in CHANGES else value)
    shares, scale = found["shares"], largest(found["shares"])
    near(found["prediction"], values["prediction"])
    near(found["total"], values["prediction"], scale)
    assert not np.any(shares.heads[0, 0])
    near(shares.mlps[1], -read_alone(model, values, params["block_1"]["mlp"]["b_2"]), scale)
    near(shares.embed, read_alone(model, values, values["embed"][-1] - params["embedding"]["b_E"]), scale)
    near(jnp.sum(attribution_by_key(edited, *prompt), axis=2), shares.heads, scale)
    check_lens(found, plain_lens(model, values))


def test_shares_add_up_with_an_edited_scale_and_an_edited_head(x64):
    """Edits that the lens or the shares of keys refuse."""
    model, prompt = case("gpt2")
    edited = model.edit({"ln_final.scale": edits.scale(0.7), "blocks.0.attn.z": edits.zero(head=1)})
    shares = jax.jit(attribution)(edited, *prompt)
    near(shares.total, edited.run(*prompt, names="prediction")["prediction"], largest(shares))
    assert not np.any(shares.heads[0, 1])


SUM = "so the prediction is not the sum of shares; give a model without this edit"
KEYS = "so the share of a head is not the sum over keys; give a model without this edit"
PASS = "so residuals do not pass this edit; give a model without this edit"
REFUSED = [
    *((attribution, kind, SUM) for kind in ("attn_out", "resid_pre", "resid_mid", "resid_post")),
    *((attribution, kind, SUM) for kind in ("ln_final.normalized", "prediction")),
    (attribution_by_key, "resid_post", SUM),
    *((attribution_by_key, kind, KEYS) for kind in ("attn.z", "attn.result")),
    *((lens, kind, PASS) for kind in ("ln_final.scale", "ln_final.normalized", "prediction")),
]


@pytest.mark.parametrize(("function", "kind", "words"), REFUSED)
def test_an_edit_with_which_shares_do_not_add_up_is_refused(function, kind, words, x64):
    model, prompt = case("gpt2")
    edited = model.edit({kind: edits.zero()}).edit({kind: edits.scale(2.0)})
    names = ", ".join(sites.expand(model.config, kind))
    refused(f"the model has an edit of {names}, {words}", lambda: function(edited, *prompt))


# ---- Constructions ----

STEPS, GAMMAS = [0.3, 0.2, 0.4], [0.1, 0.05, 0.0]


def test_a_head_of_a_construction_adds_its_gradient_step(x64):
    """Head 0 of layer l adds the l-th step, of which key i is the part of example i. The other heads add nothing."""
    rng = np.random.default_rng(3)
    x, y, x_query, w0 = (rng.normal(size=shape) for shape in ((N, D), (N, M), (D,), (M, D)))
    config = TransformerConfig(D + M, n_layers=3, n_heads=3)
    params = constructions.gradient_descent_weights(config, D, N, STEPS, jnp.asarray(w0))
    model = Model(config, params, tokens.concatenated(D, M, w0))
    by_example, w, weights = np.zeros((3, 3, N + 1, M)), w0, [w0]
    for layer, step_size in enumerate(STEPS):
        for i in range(N):
            by_example[layer, 0, i] = step_size / N * (y[i] - w @ x[i]) * (x[i] @ x_query)
        w = w + step_size / N * (y - x @ w.T).T @ x
        weights.append(w)
    prompt = tuple(map(jnp.asarray, (x, y, x_query)))
    found = looked_at(model, prompt)
    near(found["shares"].embed, w0 @ x_query)
    near(found["shares"].heads[:, 0], np.diff(weights, axis=0) @ x_query)
    for name in ("pos_embed", "mlps", "constant", "clip"):
        assert not np.any(getattr(found["shares"], name)), name
    assert not np.any(found["shares"].heads[:, 1:])
    near(jax.jit(attribution_by_key)(model, *prompt), by_example)
    near(found["lens"].stack("resid_post"), np.array(weights[1:]) @ x_query)
    near(found["lens"]["resid_pre", 0], w0 @ x_query)


BUILT = {  # a construction, the layers before its first step, and its learner
    "gradient_descent": (constructions.gradient_descent_model, (STEPS,), {}, 0, learners.gradient_descent),
    "shared": (constructions.gradient_descent_model, ([0.3] * 3,), {"shared": True}, 0, learners.gradient_descent),
    "gd_plus_plus": (constructions.gd_plus_plus_model, (STEPS, GAMMAS), {}, 0, learners.gd_plus_plus),
    "copying": (constructions.copying_model, (STEPS,), {"scale": 1e3}, 1, learners.gradient_descent),
}


@pytest.mark.parametrize("name", BUILT)
def test_the_lens_of_a_construction_is_its_learner_after_every_step(name, x64):
    build, rates, more, before, learner = BUILT[name]
    model, (_, prompt) = build(D, M, N, *rates, **more), case("linear")
    found = looked_at(model, prompt)
    expected = [np.zeros(M)] * (1 + before)
    for steps in range(1, 4):
        expected.append(learner(*(rate[:steps] for rate in rates))(*prompt))
    near([found["lens"]["resid_pre", 0], *found["lens"].stack("resid_post")], expected)
    near(np.sum(found["shares"].heads, axis=1), np.diff(expected, axis=0))


# ---- Populations, gradients, precision ----


def everything_of(model, x, y, x_query):
    return [function(model, x, y, x_query) for function in (attribution, attribution_by_key, lens)]


def test_a_population_is_a_loop_over_members_and_prompts(x64):
    layout, scales = CASES["everything"][1], (0.5, 1.5)
    configs = [replace(CASES["everything"][0], init_scale=scale) for scale in scales]
    params = [models.init(config, jax.random.key(i)) for i, config in enumerate(configs)]
    stacked = Model(configs[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *params), layout)
    prompts = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(case("everything", seed)[1] for seed in range(3)))
    over_prompts = jax.vmap(everything_of, (None, 0, 0, 0))
    found = jax.jit(jax.vmap(over_prompts, (0, None, None, None)))(stacked, *prompts)
    compiled = []
    for i, config in enumerate(configs):
        for j in range(3):
            one = everything_of(Model(config, params[i], layout), *(part[j] for part in prompts))
            pairs = zip(jax.tree.leaves(found), jax.tree.leaves(one), strict=True)
            for of_all, alone in pairs:
                near(of_all[i, j], alone, largest(one))
            module = sys.modules[lens.__module__]
            compiled.append([getattr(module, f"_{name}")._cache_size() for name in ("attribution", "lens")])
    # Members share one program, although a field of their configs differs that does not affect programs.
    assert compiled == compiled[:1] * 6


@pytest.mark.parametrize("name", ["gpt2", "everything"])
def test_gradients_of_the_sum_are_those_of_the_prediction(name, x64):
    model, prompt = case(name)

    @jax.jit
    def gradients(model, prompt):
        return [
            jax.grad(lambda model, prompt, predict=predict: jnp.sum(predict(model, *prompt)), argnums=(0, 1))(
                model, prompt
            )
            for predict in (lambda *given: attribution(*given).total, Model.__call__)
        ]

    actual, expected = gradients(model, prompt)
    jax.tree.map(lambda a, b: near(a, b, largest(expected)), actual, expected)


@pytest.mark.parametrize("name", ["gpt2", "linear", "everything"])
def test_shares_of_low_precision_add_up_to_rounding(name, x64):
    model, prompt = case(name)
    for dtype, tolerance in (("float32", 1e-5), ("bfloat16", 0.1)):
        low = replace(model, config=replace(model.config, dtype=dtype))
        found = looked_at(low, prompt)
        scale = largest(found["shares"])
        np.testing.assert_allclose(found["total"], found["prediction"], rtol=0, atol=tolerance * scale)
        by_key = jnp.sum(jax.jit(attribution_by_key)(low, *prompt), axis=2)
        np.testing.assert_allclose(by_key, found["shares"].heads, rtol=0, atol=tolerance * scale)
