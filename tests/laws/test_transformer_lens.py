"""TransformerLens records the same activations as `Model.run`, once the conversions of docs/sites.md are applied.

The weights of a model are loaded into a `HookedTransformer` whose vocabulary is the tokens of one prompt: row i of its
embedding is the embedded token i, and its input is 0, 1, 2, ...
"""

import functools
import re
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from icl_gd import models, tokens, zoo
from icl_gd.models import Model, sites

PAGE = Path(__file__).parents[2] / "docs" / "sites.md"
STANDARD = models.gpt2_config(d_token=20, n_positions=82, d_embed=256, n_layers=12, n_heads=8)  # of Garg et al.


def standard_model():
    """The size of Garg et al., with random weights, biases, norms and positions."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if leaf.ndim == 1:
            return (path[-1].key == "scale") + 0.1 * rng.normal(size=leaf.shape)
        return rng.normal(size=leaf.shape) / leaf.shape[-1] ** 0.5

    return Model(STANDARD, jax.tree_util.tree_map_with_path(draw, models.shapes(STANDARD)), tokens.alternating(20, 1))


MODELS = {"standard": standard_model, "garg_linear": functools.partial(zoo.load, "garg_linear")}


def state_dict(model, embedded):
    """The weights under the names, in the orientation and with the axes of TransformerLens."""
    params = jax.tree.map(np.asarray, model.params)
    norm, unembed = params["unembed"]["norm"], params["unembed"]
    weights = {
        "embed.W_E": embedded,
        "pos_embed.W_pos": params["positions"],
        "ln_final.w": norm["scale"],
        "ln_final.b": norm["bias"],
        "unembed.W_U": unembed["W_U"].T,
        "unembed.b_U": unembed["b_U"],
    }
    for layer in range(model.config.n_layers):
        block = params[f"block_{layer}"]
        attention, mlp = block["attention"], block["mlp"]
        of_block = {f"attn.W_{name}": attention[f"W_{name}"].swapaxes(1, 2) for name in "QKV"}
        of_block |= {f"attn.b_{name}": attention[f"b_{name}"] for name in "QKV"}
        of_block |= {
            "attn.W_O": attention["P"].swapaxes(1, 2),
            "attn.b_O": attention["b_P"],
            "mlp.W_in": mlp["W_1"].T,
            "mlp.b_in": mlp["b_1"],
            "mlp.W_out": mlp["W_2"].T,
            "mlp.b_out": mlp["b_2"],
        }
        for theirs, ours in (("ln1", "norm"), ("ln2", "mlp_norm")):
            of_block |= {f"{theirs}.w": block[ours]["scale"], f"{theirs}.b": block[ours]["bias"]}
        weights |= {f"blocks.{layer}.{name}": value for name, value in of_block.items()}
    return weights


def cache_of(model, prompt):
    """The cache of TransformerLens for one prompt, as NumPy arrays without their batch axis, and its logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch, lens = pytest.importorskip("torch"), pytest.importorskip("transformer_lens")
        config, encoded = model.config, np.asarray(model.layout.encode(*prompt))
        theirs = lens.HookedTransformer(
            lens.HookedTransformerConfig(
                n_layers=config.n_layers,
                d_model=config.width,
                n_ctx=config.n_positions,
                d_head=config.head_width,
                n_heads=config.n_heads,
                d_mlp=config.block_mlp_width,
                d_vocab=len(encoded),
                d_vocab_out=config.d_read_out,
                act_fn="gelu_new",
                normalization_type="LN",
                eps=1e-5,
                use_attn_result=True,
                device="cpu",
                init_weights=False,
            )
        )
        embedding = model.params["embedding"]
        embedded = encoded @ np.asarray(embedding["W_E"]).T + np.asarray(embedding["b_E"])
        weights = {name: torch.tensor(np.array(value)) for name, value in state_dict(model, embedded).items()}
        missing = theirs.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys
        assert all(name.endswith(("mask", "IGNORE")) for name in missing.missing_keys)
        with torch.no_grad():
            logits, cache = theirs.run_with_cache(torch.arange(len(encoded))[None], remove_batch_dim=True)
    return {name: value.numpy() for name, value in cache.items()}, logits[0].numpy()


def in_theirs(name, value, d_head):
    """A value of ours in the convention of TransformerLens (docs/sites.md)."""
    if name.endswith("attn.scores"):
        t = value.shape[-1]
        return np.where(np.tri(t, dtype=bool), value / d_head**0.5, -np.inf)
    return value


def their_names():
    """The names of TransformerLens by ours, from the table of the page."""
    rows = re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| `\[", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(rows) == len(sites.SITES) - 1  # all but the prediction
    return dict(rows)


@pytest.mark.parametrize("name", MODELS)
def test_transformer_lens_records_the_same_values(name):
    model = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), MODELS[name]())
    layout, n, rng = model.layout, (model.config.n_positions - 1) // 2, np.random.default_rng(1)
    shapes = ((n, layout.d_input), (n, layout.d_output), (layout.d_input,))
    prompt = tuple(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    theirs, logits = cache_of(model, prompt)
    ours = jax.jit(Model.run)(model, *prompt)
    np.testing.assert_allclose(ours["prediction"], logits[-1], rtol=0, atol=1e-4)
    names, compared = their_names(), set()
    for site in ours.keys() - {"prediction"}:
        kind, layer = sites.split(site)
        there = names[kind] if layer is None else names[f"blocks.{{l}}.{kind}"].replace("{l}", str(layer))
        value = in_theirs(site, np.asarray(ours[site]), model.config.head_width)
        assert value.shape == theirs[there].shape, site
        np.testing.assert_allclose(value, theirs[there], rtol=0, atol=1e-4, err_msg=site)
        compared.add(there)
    # Every value of their cache is compared; the logits are the input and the output of their unembedding.
    assert {there for there in theirs if not there.startswith("unembed.")} == compared
    assert {kind for kind, _ in map(sites.split, ours)} == set(sites.SITES)
