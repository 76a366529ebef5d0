"""Published parameters, read, are the published network: against a forward pass of it written from its description."""

import functools
import math
import pickle

import chex
import jax
import numpy as np
import pytest

from icl_gd import interop, models
from icl_gd.interop import Pretrained, von_oswald

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


def published(of, seed=0):
    """Random parameters under the names that Haiku gives them."""
    rng, e = np.random.default_rng(seed), of["embed"] or D_TOKEN

    def draw(*shape):
        return rng.normal(size=shape) / shape[0] ** 0.5

    params = {"net/emb": {"w": draw(D_TOKEN, e)}} if of["embed"] else {}
    if of["hidden"]:
        params["net/input_mlp/linear"] = {"w": draw(e, of["hidden"]), "b": draw(of["hidden"])}
        params["net/input_mlp/linear_1"] = {"w": draw(of["hidden"], e), "b": draw(e)}
    for layer in range(1 if of["deq"] else of["layers"]):
        module = "net/multi_head_attention" if of["deq"] else f"{SEPARATE}{layer}"
        for name in ("query", "key", "value"):
            params[f"{module}/{name}"] = {"w": draw(e, of["heads"] * of["key"])}
        params[f"{module}/linear"] = {"w": draw(of["heads"] * of["key"], e)}
        if of["mix"] and layer == 0:
            params[f"{module}/non_lin_mix"] = {"w": np.array([[0.07]])}
        if of["norm"] and (of["deq"] or layer):
            where = "net/l_norm/layer_norm" if of["deq"] else f"net/~trans_block/norm_{layer}"
            params[where] = {"scale": 1 + 0.3 * draw(e), "offset": 0.3 * draw(e)}
    return params


def forward(params, tokens, of):
    """Residuals of every depth: attention of all tokens to the context, heads side by side, as published."""

    def linear(x, name):
        return x @ params[name]["w"] + params[name].get("b", 0.0)

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    h = linear(tokens, "net/emb") if of["embed"] else tokens
    if of["hidden"]:
        h = h + linear(gelu(linear(h, "net/input_mlp/linear")), "net/input_mlp/linear_1")
    residuals = [h]
    for layer in range(of["layers"]):
        module = "net/multi_head_attention" if of["deq"] else f"{SEPARATE}{layer}"
        norm = params.get("net/l_norm/layer_norm" if of["deq"] else f"net/~trans_block/norm_{layer}")
        read = h
        if norm is not None:
            read = (h - h.mean(-1, keepdims=True)) / np.sqrt(h.var(-1, keepdims=True) + 1e-5)
            read = read * norm["scale"] + norm["offset"]
        heads = []
        for head in range(of["heads"]):
            part = slice(head * of["key"], (head + 1) * of["key"])
            q, k, v = (linear(read, f"{module}/{name}")[:, part] for name in ("query", "key", "value"))
            k, v = k[:-1], v[:-1]
            if of["sum_norm"]:
                q, k = (a / (a.sum(-1, keepdims=True) + 1e-6) for a in (q, k))
            logits = q @ k.T
            softmax = np.exp(logits / math.sqrt(of["key"]))
            softmax /= softmax.sum(-1, keepdims=True)
            if of["softmax"] or (of["first"] and layer == 0):
                logits = softmax
            elif of["mix"] and (of["deq"] or layer == 0):
                share = 1 / (1 + np.exp(-10 * params[f"{module}/non_lin_mix"]["w"][0, 0]))
                logits = share * softmax + (1 - share) * logits
            heads.append(logits @ v)
        update = of["dampening"] * linear(np.concatenate(heads, -1), f"{module}/linear")
        h = h + update * (np.arange(h.shape[1]) == h.shape[1] - 1 if of["y_update"] else 1.0)
        h = np.clip(h, -of["clip"], of["clip"]) if of["clip"] else h
        residuals.append(h)
    return np.stack(residuals)


def read(params, of):
    kinds = ("softmax",) + ("linear",) * (of["layers"] - 1) if of["first"] else "softmax" if of["softmax"] else "linear"
    return interop.from_von_oswald(
        params,
        n_layers=of["layers"] if of["deq"] else None,
        n_heads=of["heads"],
        attention=kinds,
        clip=of["clip"],
        sum_normalised=of["sum_norm"],
        y_update=of["y_update"],
        dampening=of["dampening"],
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_read_is_published(name, x64, tmp_path):
    of = PLAIN | NETWORKS[name]
    params, tokens = published(of), np.random.default_rng(1).normal(size=(N + 1, D_TOKEN))
    config, ours = read(params, of)
    expected = forward(params, tokens, of)
    assert np.abs(expected[-1] - expected[0]).max() > 0.01
    found = jax.jit(functools.partial(models.apply, config))(ours, tokens).residual
    np.testing.assert_allclose(found, expected, atol=1e-11 * np.abs(expected).max())
    chex.assert_trees_all_equal_shapes(ours, models.shapes(config))
    np.savez(tmp_path / "p.npz", **{f"{module}/{leaf}": v for module, of_ in params.items() for leaf, v in of_.items()})
    again, theirs = read(str(tmp_path / "p.npz"), of)
    assert again == config
    chex.assert_trees_all_equal(ours, theirs, strict=True)
    if of["dampening"] == 1.0:
        chex.assert_trees_all_close(interop.to_von_oswald(config, ours, "net"), params, rtol=1e-15)


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
    with pytest.raises(ValueError, match=words):
        interop.from_von_oswald(params, **more)


@pytest.mark.parametrize("name", ["all", "mix_shared", "perceptron"])
def test_members_on_a_leading_axis_are_read_as_each_is(name, tmp_path):
    of = PLAIN | NETWORKS[name]
    each = [published(of, seed) for seed in range(3)]
    members = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    config, params = read(members, of)
    alone = [read(member, of) for member in each]
    assert [config] * 3 == [config_alone for config_alone, _ in alone]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *(params_alone for _, params_alone in alone))
    chex.assert_trees_all_equal(params, stacked, strict=True)
    interop.pretrained.check(Pretrained(config, params, "concatenated", D_TOKEN - 1))
    np.savez(tmp_path / "p.npz", **{f"{m}/{leaf}": value for m, of_ in members.items() for leaf, value in of_.items()})
    chex.assert_trees_all_equal(params, read(tmp_path / "p.npz", of)[1], strict=True)


def test_what_holds_no_modules_is_refused():
    members = [published(PLAIN)] * 2
    for params in (members, published(PLAIN)["net/multi_head_attention/query"]):
        with pytest.raises(ValueError, match=r"must be a mapping .* numpy\.stack"):
            von_oswald._modules(params)  # the public function has a type that tests check
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
    """An array, of which is known whether it was unpickled."""

    def __init__(self, values):
        self.values = values

    def __reduce__(self):
        return unpickled, (self.values.tolist(),)


@pytest.mark.parametrize("how", ["pickle", "npy", "npz", "npz of modules"])
def test_what_is_pickled_is_refused_with_the_lines_that_write_what_is_read(how, tmp_path):
    params = {module: {leaf: Pickled(v) for leaf, v in of.items()} for module, of in published(PLAIN).items()}
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
    about, *lines = str(caught.value).splitlines()
    assert str(path) in about
    assert len(lines) == 3
    exec("\n".join(lines), {})
    assert UNPICKLED
    config, ours = interop.from_von_oswald(tmp_path / "my 'params'_arrays.npz")
    expected, theirs = interop.from_von_oswald(published(PLAIN))
    assert config == expected
    chex.assert_trees_all_equal(ours, theirs, strict=True)


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="is not a file; pass the path") as caught:
        interop.from_von_oswald("~/p.npz")
    assert str(tmp_path / "p.npz") in str(caught.value)
    np.savez(tmp_path / "p.npz", **{f"{m}/{leaf}": v for m, of in published(PLAIN).items() for leaf, v in of.items()})
    assert interop.from_von_oswald("~/p.npz")[0] == interop.from_von_oswald(published(PLAIN))[0]
