"""A stack of attention layers, as its config has it; plain functions over plain parameter dicts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.models.attention import MIX_SLOPE, SelfAttention
from icl_gd.models.config import TransformerConfig
from icl_gd.models.initial import Initializers
from icl_gd.programs import kept
from icl_gd.schema import Size, checked
from icl_gd.types import Activations, Array, Circuits, Layout

Params = Mapping[str, Any]
LAYER_NORM_EPSILON = 1e-5


class _Embedding(nn.Module):
    """What stands before the first layer: `W_E e + b_E`, then `e + W_2 gelu(W_1 e + b_1) + b_2`, or one of them."""

    config: TransformerConfig
    initial: Initializers

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        config, initial = self.config, self.initial
        if config.d_embed is not None:
            tokens = tokens @ self.param("W_E", initial.embed, (config.d_embed, config.d_token)).T
            if config.biases:
                tokens = tokens + _row(self.param("b_E", initial.embed_bias(config.d_token), (config.d_embed,)), tokens)
        if config.input_mlp_width is not None:
            tokens = tokens + _perceptron(self, initial, config.input_mlp_width, tokens)
        return tokens


def _row(bias: Array, tokens: Array) -> Array:
    """A bias `[e]` beside tokens `[... e]`: ranks are promoted by hand."""
    return bias.reshape((1,) * (tokens.ndim - 1) + bias.shape)


def _perceptron(module: nn.Module, initial: Initializers, width: int, tokens: Array) -> Array:
    """`W_2 gelu(W_1 e + b_1) + b_2`, with parameters of the module; gelu is the tanh form, as GPT-2 has it."""
    e = tokens.shape[-1]
    bias = lambda name, size: module.param(name, nn.initializers.zeros, (size,))
    hidden = tokens @ module.param("W_1", initial.inputs, (width, e)).T
    hidden = nn.gelu(hidden + _row(bias("b_1", width), hidden))
    return hidden @ module.param("W_2", initial.outputs(1), (e, width)).T + _row(bias("b_2", e), tokens)


class _Perceptron(nn.Module):
    width: int
    initial: Initializers

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        return _perceptron(self, self.initial, self.width, tokens)


def _norm(**more: Any) -> nn.LayerNorm:
    # Flax would have scales and biases in single precision where all other parameters are in double.
    precision = jnp.result_type(float)
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, param_dtype=precision, **more)


def _once(residual: Array) -> Array:
    """Computed once, and so is its gradient: XLA would make the sum over all later layers again for each of its uses.

    Training keeps the compiler from taking this out before it matters (`population.KEEP_BARRIERS`).
    """
    return jax.lax.optimization_barrier(residual)


class _Block(nn.Module):
    config: TransformerConfig
    initial: Initializers
    kind: str
    reads_normalised: bool

    def setup(self):
        config = self.config
        self.attention = SelfAttention(
            config.n_heads,
            config.head_width,
            self.initial,
            self.kind,
            config.sum_normalised,
            config.causal,
            config.biases,
            config.attend_to_query,
            config.modification,
        )
        self.norm = _norm() if self.reads_normalised else lambda v: v
        if config.block_mlp_width is not None:
            self.mlp = _Perceptron(config.block_mlp_width, self.initial)
            self.mlp_norm = _norm() if self.reads_normalised else lambda v: v

    def __call__(self, residual: Array, query_only: bool = False) -> tuple[Array, Array, Array]:
        update, scores, pattern = self.attention(self.norm(residual), query_only)
        residual = (residual[-1:] if query_only else residual) + update
        if self.config.block_mlp_width is not None:
            residual = _once(residual)
            residual = _once(residual + self.mlp(self.mlp_norm(residual)))
        if self.config.clip is not None:
            residual = jnp.clip(residual, -self.config.clip, self.config.clip)
        return residual, scores, pattern


class _Head(nn.Module):
    """What is read out of a residual `[... e]`: `W_U e + b_U` `[... m]`, of the normalised residual with
    `pre_norm`."""

    config: TransformerConfig
    initial: Initializers

    @nn.compact
    def __call__(self, residual: Array) -> Array:
        config, e = self.config, residual.shape[-1]
        if config.pre_norm:
            residual = _norm(name="norm")(residual)
        y_hat = residual @ self.param("W_U", self.initial.embed, (config.d_read_out, e)).T
        return y_hat + _row(self.param("b_U", self.initial.embed_bias(e), (config.d_read_out,)), y_hat)


class _Transformer(nn.Module):
    """Residuals, scores and patterns, layer by layer; with `query_only` those of the last layer have the query's row
    alone."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, tokens: Array, query_only: bool = False) -> tuple[list[Array], list[Array], list[Array]]:
        config = self.config
        initial = config.initial
        blocks: dict[str, _Block] = {}
        for layer, name in enumerate(config.blocks):
            if name not in blocks:
                normalised = config.reads_normalised(layer)
                blocks[name] = _Block(config, initial, config.kinds[layer], normalised, name=name)
        if config.is_embedded:
            tokens = _Embedding(config, initial, name="embedding")(tokens)
        if config.n_positions is not None:
            if len(tokens) > config.n_positions:
                raise ValueError(f"{len(tokens)} tokens have no place among n_positions={config.n_positions}")
            places = self.param("positions", initial.positions, (config.n_positions, config.width))
            tokens = tokens + places[: len(tokens)]
        residuals, scores, patterns = [tokens], [], []
        for layer, name in enumerate(config.blocks, 1):
            residual, score, pattern = blocks[name](residuals[-1], query_only and layer == config.n_layers)
            residuals.append(residual)
            scores.append(score)
            patterns.append(pattern)
        if config.d_read_out is not None and self.is_initializing():
            _Head(config, initial, name="unembed")(residuals[-1])
        return residuals, scores, patterns


def softmax_share(params: Params) -> dict[str, Array]:
    """How much of the pattern is softmax in each block that learned a mix of it, by the block's name."""
    attentions = {name: params[name]["attention"] for name in params if name.startswith("block_")}
    return {
        name: jax.nn.sigmoid(MIX_SLOPE * found["mix"][0, 0, 0]) for name, found in attentions.items() if "mix" in found
    }


def has_gram_form(config: TransformerConfig) -> bool:
    """Whether the network sees its context through second moments only: linear layers, and nothing beside them."""
    bare = config.clip is None and not config.layer_norm and not config.sum_normalised and not config.is_embedded
    bare = bare and not config.attend_to_query and not config.modification.there
    return config.is_plain and bare and set(config.kinds) == {"linear"}


def init(config: TransformerConfig, key: Array) -> Params:
    """Parameters of a fresh model: `{block: {"attention": {W_K, W_Q, W_V [head d_head e], P [head e d_head]}}}`.

    Beside them, where the config asks for it, `attention.{mix, b_K, b_Q, b_V [head d_head], b_P [e]}`, `norm: {scale,
    bias}`, `mlp: {W_1, b_1, W_2, b_2}` and `mlp_norm` of a block; `embedding: {W_E, b_E, W_1, b_1, W_2, b_2}`,
    `positions [n_positions e]`, and `unembed: {norm, W_U, b_U}`. Modified attention has its `alpha`, ..., which nobody
    trains, and `g_{K, V}_{1, 2} [d_head d_head]` of the perceptrons that augment.
    """
    return _initialiser(config)(key)


@kept
def _initialiser(config: TransformerConfig) -> Callable[[Array], Params]:
    return jax.jit(lambda key: _Transformer(config).init(key, jnp.zeros((2, config.d_token)))["params"])


def shapes(config: TransformerConfig) -> Params:
    """Shapes and types of one member's parameters."""
    return jax.eval_shape(partial(init, weighted(config)), jax.random.key(0))


def apply(config: TransformerConfig, params: Params, tokens: Array) -> Activations:
    """Runs the stack on tokens `[t e]`, whose last row is the query, and returns everything it computed."""
    return Activations(*map(jnp.stack, _run(config, params, tokens)))


def apply_to_query(config: TransformerConfig, params: Params, tokens: Array) -> Float[Array, " e"]:
    """`apply(...).residual[-1, -1]`, without what nobody reads of the last layer: the updates of the context."""
    return _run(config, params, tokens, query_only=True)[0][-1][-1]


def prefix_residuals(config: TransformerConfig, params: Params, tokens: Array) -> Float[Array, "t e"]:
    """`apply(...).residual[-1]`: what the last layer of a causal network leaves of all tokens."""
    return _run(config, params, tokens)[0][-1]


def weighted(config: TransformerConfig) -> TransformerConfig:
    """The config as far as a program depends on it: what members may differ in lies among their weights."""
    return replace(config, **dict.fromkeys(config.per_member, 0.5))


def _run(config: TransformerConfig, params: Params, tokens: Array, query_only: bool = False) -> Any:
    config = weighted(config)
    if config.dtype is not None:
        params, tokens = jax.tree.map(lambda leaf: leaf.astype(config.dtype), (params, tokens))
    return _Transformer(config).apply({"params": params}, tokens, query_only)


def read_out(config: TransformerConfig, params: Params, layout: Layout) -> Callable[[Array], Array]:
    """From a residual `[e]` of the query's token to y_hat `[m]`: the learned head's, or the layout's."""
    if config.d_read_out is None:
        return layout.read_out
    head = _Head(weighted(config), weighted(config).initial)

    def read(residual: Array) -> Array:
        residual = residual.astype(params["unembed"]["W_U"].dtype)
        return head.apply({"params": params["unembed"]}, residual)  # pyright: ignore[reportReturnType]

    return read


def embed(config: TransformerConfig, params: Params, tokens: Array) -> Array:
    """Tokens `[... e]` as the first layer finds them, `[... width]`: each is embedded by itself."""
    if not config.is_embedded:
        return tokens
    config = weighted(config)
    return _Embedding(config, config.initial).apply({"params": params["embedding"]}, tokens)  # pyright: ignore[reportReturnType]


@checked
def features(
    config: TransformerConfig, params: Params, d_output: Size
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The embedding of concatenated tokens as `(x [d], y [m]) -> (features [width - m], target [m])`: its y slots."""
    return Partial(_Features(weighted(config), d_output), params)


@dataclass(frozen=True)
class _Features:
    config: TransformerConfig
    d_output: int

    def __call__(self, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
        residual = embed(self.config, params, jnp.concatenate([x, y]))
        return residual[: -self.d_output], residual[-self.d_output :]


def circuits(config: TransformerConfig, params: Params) -> Circuits:
    """`W_KQ = W_K^T W_Q` and `W_PV = P W_V` of every layer and head; shared weights are repeated per layer."""
    layers = [params[name]["attention"] for name in config.blocks]
    return Circuits(
        jnp.stack([jnp.einsum("hka,hkb->hab", layer["W_K"], layer["W_Q"]) for layer in layers]),
        jnp.stack([jnp.einsum("hak,hkb->hab", layer["P"], layer["W_V"]) for layer in layers]),
    )
