"""Imported parameters of von Oswald et al. compute the published network, whose forward pass is written here."""

import functools
import math
import pickle

import chex
import jax
import numpy as np
import pytest

from icl_gd import interop, models, tokens
from icl_gd.interop import von_oswald
from icl_gd.models import saved

D_TOKEN, N = 4, 5
PLAIN = {
    "layers": 1,
    "heads": 1,
    "key": 3,
    "deq": True,
    "softmax": False,
    "first": False,
    "mix": False,
    "norm": False,
    "sum_norm": False,
    "clip": 0.0,
    "embed": 0,
    "hidden": 0,
    "y_update": False,
    "dampening": 1.0,
}
NETWORKS = {
    "one": {},
    "separate_one": {"deq": False},
    "recurrent": {"layers": 3, "heads": 2},
    "separate": {"layers": 2, "heads": 2, "deq": False},
    "softmax": {"layers": 2, "softmax": True, "heads": 2},
    "first_softmax": {"layers": 3, "first": True, "deq": False},
    "mix_shared": {"layers": 2, "mix": True, "heads": 2},
    "mix_separate": {"layers": 2, "mix": True, "deq": False},
    "norm_shared": {"layers": 2, "norm": True},
    "norm_separate": {"layers": 3, "norm": True, "deq": False},
    "sum_norm": {"layers": 2, "sum_norm": True, "heads": 2},
    "clip": {"layers": 2, "clip": 0.4},
    "embedded": {"embed": 6},
    "perceptron": {"hidden": 7, "softmax": True},
    "sine": {"embed": 6, "hidden": 8, "heads": 2},
    "y_update": {"layers": 2, "y_update": True, "dampening": 0.75},
    "all": {
        "layers": 3,
        "heads": 2,
        "deq": False,
        "first": True,
        "norm": True,
        "sum_norm": True,
        "clip": 2.0,
        "embed": 6,
        "hidden": 8,
        "dampening": 0.5,
    },
}
SEPARATE = "net/~trans_block/layer_"


def published(network, seed=0):
    """Random parameters, with Haiku's names."""
    rng, e = np.random.default_rng(seed), network["embed"] or D_TOKEN

    def draw(*shape):
        return rng.normal(size=shape) / shape[0] ** 0.5

    params = {"net/emb": {"w": draw(D_TOKEN, e)}} if network["embed"] else {}
    if network["hidden"]:
        params["net/input_mlp/linear"] = {"w": draw(e, network["hidden"]), "b": draw(network["hidden"])}
        params["net/input_mlp/linear_1"] = {"w": draw(network["hidden"], e), "b": draw(e)}
    for layer in range(1 if network["deq"] else network["layers"]):
        module = "net/multi_head_attention" if network["deq"] else f"{SEPARATE}{layer}"
        for name in ("query", "key", "value"):
            params[f"{module}/{name}"] = {"w": draw(e, network["heads"] * network["key"])}
        params[f"{module}/linear"] = {"w": draw(network["heads"] * network["key"], e)}
        if network["mix"] and layer == 0:
            params[f"{module}/non_lin_mix"] = {"w": np.array([[0.07]])}
        if network["norm"] and (network["deq"] or layer):
            norm = "net/l_norm/layer_norm" if network["deq"] else f"net/~trans_block/norm_{layer}"
            params[norm] = {"scale": 1 + 0.3 * draw(e), "offset": 0.3 * draw(e)}
    return params


def forward(params, tokens, network):
    """Residuals `[depth t e]` of the published network: all tokens attend to the context; heads are concatenated."""

    def linear(x, name):
        return x @ params[name]["w"] + params[name].get("b", 0.0)

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    h = linear(tokens, "net/emb") if network["embed"] else tokens
    if network["hidden"]:
        h = h + linear(gelu(linear(h, "net/input_mlp/linear")), "net/input_mlp/linear_1")
    residuals = [h]
    for layer in range(network["layers"]):
        module = "net/multi_head_attention" if network["deq"] else f"{SEPARATE}{layer}"
        norm = params.get("net/l_norm/layer_norm" if network["deq"] else f"net/~trans_block/norm_{layer}")
        inputs = h
        if norm is not None:
            inputs = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
            inputs = inputs * norm["scale"] + norm["offset"]
        heads = []
        for head in range(network["heads"]):
            columns = slice(head * network["key"], (head + 1) * network["key"])
            q, k, v = (linear(inputs, f"{module}/{name}")[:, columns] for name in ("query", "key", "value"))
            k, v = k[:-1], v[:-1]
            if network["sum_norm"]:
                q, k = (a / (a.sum(-1, keepdims=True) + 1e-6) for a in (q, k))
            logits = q @ k.T
            softmax = np.exp(logits / math.sqrt(network["key"]))
            softmax /= softmax.sum(-1, keepdims=True)
            if network["softmax"] or (network["first"] and layer == 0):
                logits = softmax
            elif network["mix"] and (network["deq"] or layer == 0):
                softmax_fraction = 1 / (1 + np.exp(-10 * params[f"{module}/non_lin_mix"]["w"][0, 0]))
                logits = softmax_fraction * softmax + (1 - softmax_fraction) * logits
            heads.append(logits @ v)
        update = network["dampening"] * linear(np.concatenate(heads, -1), f"{module}/linear")
        h = h + update * (np.arange(h.shape[1]) == h.shape[1] - 1 if network["y_update"] else 1.0)
        h = np.clip(h, -network["clip"], network["clip"]) if network["clip"] else h
        residuals.append(h)
    return np.stack(residuals)


def read(params, network):
    if network["first"]:
        kinds = ("softmax",) + ("linear",) * (network["layers"] - 1)
    else:
        kinds = "softmax" if network["softmax"] else "linear"
    return interop.from_von_oswald(
        params,
        n_layers=network["layers"] if network["deq"] else None,
        n_heads=network["heads"],
        attention=kinds,
        clip=network["clip"],
        sum_normalised=network["sum_norm"],
        y_update=network["y_update"],
        dampening=network["dampening"],
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_read_is_published(name, x64, tmp_path):
    network = PLAIN | NETWORKS[name]
    params, tokens = published(network), np.random.default_rng(1).normal(size=(N + 1, D_TOKEN))
    config, imported = read(params, network)
    expected = forward(params, tokens, network)
    assert np.abs(expected[-1] - expected[0]).max() > 0.01
    actual = jax.jit(functools.partial(models.apply, config))(imported, tokens).residual
    np.testing.assert_allclose(actual, expected, atol=1e-11 * np.abs(expected).max())
    chex.assert_trees_all_equal_shapes(imported, models.shapes(config))
    np.savez(
        tmp_path / "p.npz", **{f"{module}/{leaf}": v for module, leaves in params.items() for leaf, v in leaves.items()}
    )
    again, reloaded = read(str(tmp_path / "p.npz"), network)
    assert again == config
    chex.assert_trees_all_equal(imported, reloaded, strict=True)
    if network["dampening"] == 1.0:
        chex.assert_trees_all_close(interop.to_von_oswald(config, imported, "net"), params, rtol=1e-15)


def changed(**extra):
    return {**published(PLAIN), **extra}


@pytest.mark.parametrize(
    ("params", "words", "more"),
    [
        (changed(**{"net/multi_head_attention/query": {"w": np.ones((4, 3)), "b": np.ones(3)}}), "biases", {}),
        (changed(**{"net/linear": {"w": np.ones((4, 1)), "b": np.ones(1)}}), "net/linear", {}),
        (changed(**{"net/mlp/linear": {"w": np.ones((4, 4))}}), "dense layers", {}),
        (changed(**{"net/token_vocab": {"vocab": np.ones((9, 1, 4))}}), "vocabulary", {}),
        (changed(**{"net/emb": {"w": np.ones((2, 3))}}), "positions", {}),
        (changed(**{"net_gd/multi_head_attention/query": {"w": np.ones((4, 3))}}), "one network", {}),
        ({}, "none", {}),
        ({"net/multi_head_attention/query": {"w": np.ones((4, 3))}}, "missing", {}),
        (published(PLAIN | {"layers": 2, "deq": False}), "2 separate", {"n_layers": 3}),
        (published(PLAIN), "n_heads=2", {"n_heads": 2}),
        (published(PLAIN), "n_heads=0 must be", {"n_heads": 0}),
        (published(PLAIN), "n_layers=0 must be", {"n_layers": 0}),
        (published(PLAIN), r"clip=-1\.0 .*None \(or 0, as published\) switches it off", {"clip": -1.0}),
        (published(PLAIN), "clip=nan", {"clip": math.nan}),
        (changed(**{"net/multi_head_attention/query": {"w": np.ones((3, 4, 3))}}), "axis of members", {}),
    ],
)
def test_what_there_is_none_of_here_is_refused(params, words, more):
    """Modules and values that have no counterpart in this package are refused."""
    with pytest.raises(ValueError, match=words):
        interop.from_von_oswald(params, **more)


@pytest.mark.parametrize("name", ["all", "mix_shared", "perceptron"])
def test_members_on_a_leading_axis_are_read_as_each_is(name, tmp_path):
    network = PLAIN | NETWORKS[name]
    each = [published(network, seed) for seed in range(3)]
    members = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    config, params = read(members, network)
    alone = [read(member, network) for member in each]
    assert [config] * 3 == [config_alone for config_alone, _ in alone]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(params_alone for _, params_alone in alone))
    chex.assert_trees_all_equal(params, stacked, strict=True)
    saved.check(config, params, tokens.concatenated(D_TOKEN - 1, 1))
    np.savez(
        tmp_path / "p.npz",
        **{f"{module}/{leaf}": v for module, leaves in members.items() for leaf, v in leaves.items()},
    )
    chex.assert_trees_all_equal(params, read(tmp_path / "p.npz", network)[1], strict=True)


def test_what_holds_no_modules_is_refused():
    members = [published(PLAIN)] * 2
    for params in (members, published(PLAIN)["net/multi_head_attention/query"]):
        with pytest.raises(ValueError, match=r"must be a mapping .* numpy\.stack"):
            von_oswald._modules(params)  # the public function would fail the tests' type check
    names = {"jax": jax, "numpy": np, "params": members}
    with pytest.raises(ValueError) as caught:
        von_oswald._modules(members)
    stacked = eval(str(caught.value).partition("first: ")[2], names)
    assert np.shape(interop.from_von_oswald(stacked)[1]["block_0"]["attention"]["W_K"]) == (2, 1, 3, D_TOKEN)


UNPICKLED = []


def unpickled(values):
    UNPICKLED.append(values)
    return np.array(values)


class Pickled:
    """An array that is recorded in UNPICKLED when it is unpickled."""

    def __init__(self, values):
        self.values = values

    def __reduce__(self):
        return unpickled, (self.values.tolist(),)


@pytest.mark.parametrize("how", ["pickle", "npy", "npz", "npz of modules"])
def test_what_is_pickled_is_refused_with_the_lines_that_write_what_is_read(how, tmp_path):
    """A pickled file is not loaded; the error contains code that converts it."""
    params = {module: {leaf: Pickled(v) for leaf, v in leaves.items()} for module, leaves in published(PLAIN).items()}
    path = tmp_path / f"my 'params'.{how[:3]}"
    if how == "pickle":
        path.write_bytes(pickle.dumps(params))
    elif how == "npy":
        np.save(path, np.array(params, dtype=object))
    else:
        np.savez(path, **(params if how == "npz of modules" else {"params": np.array(params, dtype=object)}))
    UNPICKLED.clear()
    with pytest.raises(ValueError, match="pickled files are never loaded; if you trust the file") as caught:
        interop.from_von_oswald(path)
    assert not UNPICKLED
    first_line, *lines = str(caught.value).splitlines()
    assert str(path) in first_line
    assert len(lines) == 3
    exec("\n".join(lines), {})
    assert UNPICKLED
    config, actual_params = interop.from_von_oswald(tmp_path / "my 'params'_arrays.npz")
    expected, expected_params = interop.from_von_oswald(published(PLAIN))
    assert config == expected
    chex.assert_trees_all_equal(actual_params, expected_params, strict=True)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a file; pass the path") as caught:
        interop.from_von_oswald("~/p.npz")
    assert str(tmp_path / "p.npz") in str(caught.value)
    np.savez(
        tmp_path / "p.npz",
        **{f"{module}/{leaf}": v for module, leaves in published(PLAIN).items() for leaf, v in leaves.items()},
    )
    assert interop.from_von_oswald("~/p.npz")[0] == interop.from_von_oswald(published(PLAIN))[0]
