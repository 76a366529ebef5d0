"""A stack of attention layers built from one small frozen config."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from icl_gd.models.attention import LinearSelfAttention
from icl_gd.types import Activations, Array, Circuits, Layout, Predictor, Scalar

Params = Mapping[str, Any]


@dataclass(frozen=True)
class TransformerConfig:
    """What a Transformer is made of.

    Attributes:
      d_token: token width e.
      n_layers, n_heads: sizes of the stack.
      d_head: width of a head; the token width when left out, as in von Oswald et al.
      shared: one set of weights for all layers (recurrent) instead of one per layer.
      clip: residuals are clipped to [-clip, clip] after every layer; None leaves them alone.
      init_scale: weights start with variance `init_scale / n_layers / fan_in`; a tuple is swept over in training.
    """

    d_token: int
    n_layers: int = 1
    n_heads: int = 1
    d_head: int | None = None
    shared: bool = False
    clip: float | None = None
    init_scale: Scalar | tuple[float, ...] = 0.002

    def __post_init__(self):
        for name in ("d_token", "n_layers", "n_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")

    @property
    def head_width(self) -> int:
        return self.d_token if self.d_head is None else self.d_head

    @property
    def blocks(self) -> tuple[str, ...]:
        """The parameter block each layer reads, in order."""
        return tuple(f"block_{0 if self.shared else layer}" for layer in range(self.n_layers))


class _Block(nn.Module):
    config: TransformerConfig

    def setup(self):
        config = self.config
        if isinstance(config.init_scale, tuple):
            raise ValueError(f"init_scale={config.init_scale} is swept over by training; a model starts from one value")
        self.attention = LinearSelfAttention(config.n_heads, config.head_width, config.init_scale / config.n_layers)

    def __call__(self, residual: Array) -> tuple[Array, Array, Array]:
        update, scores, pattern = self.attention(residual)
        residual = residual + update
        if self.config.clip is not None:
            residual = jnp.clip(residual, -self.config.clip, self.config.clip)
        return residual, scores, pattern


class _Transformer(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, tokens: Array) -> Activations:
        blocks = {name: _Block(self.config, name=name) for name in dict.fromkeys(self.config.blocks)}
        residuals, scores, patterns = [tokens], [], []
        for name in self.config.blocks:
            residual, score, pattern = blocks[name](residuals[-1])
            residuals.append(residual)
            scores.append(score)
            patterns.append(pattern)
        return Activations(jnp.stack(residuals), jnp.stack(scores), jnp.stack(patterns))


def has_moment_form(config: TransformerConfig) -> bool:
    """Whether the network sees its context through second moments only: linear layers, no clip."""
    return config.clip is None


def init(config: TransformerConfig, key: Array) -> Params:
    """Parameters `{block: {"attention": {W_K, W_Q, W_V [head d_head e], P [head e d_head]}}}` of a fresh model."""
    return _Transformer(config).init(key, jnp.zeros((2, config.d_token)))["params"]


def apply(config: TransformerConfig, params: Params, tokens: Array) -> Activations:
    """Runs the stack on tokens `[t e]`, whose last row is the query, and returns everything it computed."""
    config = replace(config, init_scale=1.0)  # the weights are there; a sweep's tuple says nothing of them
    return _Transformer(config).apply({"params": params}, tokens)  # pyright: ignore[reportReturnType]


def layerwise_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """As `predictor`, read out after every layer: y_hat `[depth m]`, the first before any layer."""

    def predict(x: Array, y: Array, x_query: Array) -> Array:
        residual = apply(config, params, layout.encode(x, y, x_query)).residual
        return jax.vmap(layout.read_out)(residual[:, -1])

    return predict


def predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """The Transformer as a Predictor."""
    layerwise = layerwise_predictor(config, params, layout)
    return lambda x, y, x_query: layerwise(x, y, x_query)[-1]


def circuits(config: TransformerConfig, params: Params) -> Circuits:
    """`W_KQ = W_K^T W_Q` and `W_PV = P W_V` of every layer and head; shared weights are repeated per layer."""
    layers = [params[name]["attention"] for name in config.blocks]
    return Circuits(
        jnp.stack([jnp.einsum("hka,hkb->hab", layer["W_K"], layer["W_Q"]) for layer in layers]),
        jnp.stack([jnp.einsum("hak,hkb->hab", layer["P"], layer["W_V"]) for layer in layers]),
    )
