"""A stack of attention layers built from one small frozen config."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.linen.initializers import variance_scaling
from jaxtyping import Float

from icl_gd.models.attention import KINDS, MIX_SLOPE, SelfAttention
from icl_gd.types import Activations, Array, Circuits, Layout, Predictor, Scalar

Params = Mapping[str, Any]
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class TransformerConfig:
    """What a Transformer is made of.

    Attributes:
      d_token: width of the tokens that come in.
      n_layers, n_heads: sizes of the stack.
      d_head: width of a head; that of the residual when left out, as in von Oswald et al.
      shared: one set of weights for all layers (recurrent) instead of one per layer.
      clip: residuals are clipped to [-clip, clip] after every layer; None leaves them alone.
      init_scale: weights start with variance `init_scale / n_layers / fan_in`; a tuple is swept over in training.
      attention: "linear", "softmax", "mixed" (a learned mix of both), or a tuple of one of them per layer.
      layer_norm: attention reads normalised residuals, with learned scale and offset. As published, the first of
        layers with weights of their own reads tokens as they are.
      normalised: keys and queries are divided by their sums.
      d_embed: tokens are mapped to this width before the first layer; None leaves them as they are.
      mlp_width: a perceptron with a hidden layer of this width (GELU, skip) acts on every embedded token before the
        first layer; None has none.
    """

    d_token: int
    n_layers: int = 1
    n_heads: int = 1
    d_head: int | None = None
    shared: bool = False
    clip: float | None = None
    init_scale: Scalar | tuple[float, ...] = 0.002
    attention: str | tuple[str, ...] = "linear"
    layer_norm: bool = False
    normalised: bool = False
    d_embed: int | None = None
    mlp_width: int | None = None

    def __post_init__(self):
        for name in ("d_token", "n_layers", "n_heads", "d_head", "d_embed", "mlp_width"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if len(self.kinds) != self.n_layers or not set(self.kinds) <= set(KINDS):
            raise ValueError(
                f"attention={self.attention!r} must be one of {', '.join(KINDS)}, or one of them for each of "
                f"n_layers={self.n_layers}"
            )
        if self.shared and len(set(self.kinds)) > 1:
            raise ValueError(f"attention={self.attention!r}: layers with shared weights are of one kind")
        if self.layer_norm and self.n_layers == 1 and not self.shared:
            raise ValueError("layer_norm=True leaves the first of separate layers alone: one layer needs shared=True")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The attention of each layer."""
        return (self.attention,) * self.n_layers if isinstance(self.attention, str) else tuple(self.attention)

    @property
    def width(self) -> int:
        """The width e of the residual."""
        return self.d_token if self.d_embed is None else self.d_embed

    @property
    def head_width(self) -> int:
        return self.width if self.d_head is None else self.d_head

    @property
    def is_embedded(self) -> bool:
        """Whether anything stands before the first layer."""
        return self.d_embed is not None or self.mlp_width is not None

    @property
    def blocks(self) -> tuple[str, ...]:
        """The parameter block each layer reads, in order."""
        return tuple(f"block_{0 if self.shared else layer}" for layer in range(self.n_layers))


def _dense(variance: Any) -> nn.initializers.Initializer:
    """Of a matrix `[out in]`."""
    return variance_scaling(variance, "fan_in", "truncated_normal", in_axis=-1, out_axis=-2)


class _Embedding(nn.Module):
    """What stands before the first layer: `W_E e`, then `e + W_2 gelu(W_1 e + b_1) + b_2`, or one of them."""

    config: TransformerConfig
    init_variance: Scalar

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        config, init = self.config, _dense(self.init_variance)
        if config.d_embed is not None:
            tokens = tokens @ self.param("W_E", init, (config.d_embed, config.d_token)).T
        if config.mlp_width is not None:
            bias = lambda name, width: self.param(name, nn.initializers.zeros, (width,)).reshape(
                (1,) * (tokens.ndim - 1) + (width,)
            )
            hidden = tokens @ self.param("W_1", init, (config.mlp_width, config.width)).T
            hidden = nn.gelu(hidden + bias("b_1", config.mlp_width))
            written = hidden @ self.param("W_2", init, (config.width, config.mlp_width)).T
            tokens = tokens + written + bias("b_2", config.width)
        return tokens


class _Block(nn.Module):
    config: TransformerConfig
    init_variance: Scalar
    kind: str
    reads_normalised: bool

    def setup(self):
        config = self.config
        sizes = config.n_heads, config.head_width, self.init_variance
        self.attention = SelfAttention(*sizes, self.kind, config.normalised)
        self.norm = (
            nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False) if self.reads_normalised else lambda v: v
        )

    def __call__(self, residual: Array, query_only: bool = False) -> tuple[Array, Array, Array]:
        update, scores, pattern = self.attention(self.norm(residual), query_only)
        residual = (residual[-1:] if query_only else residual) + update
        if self.config.clip is not None:
            residual = jnp.clip(residual, -self.config.clip, self.config.clip)
        return residual, scores, pattern


class _Transformer(nn.Module):
    """Residuals, scores and patterns, layer by layer; with `query_only` those of the last layer have the query's row
    alone."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, tokens: Array, query_only: bool = False) -> tuple[list[Array], list[Array], list[Array]]:
        config = self.config
        if isinstance(config.init_scale, tuple):
            raise ValueError(f"init_scale={config.init_scale} is swept over by training; a model starts from one value")
        variance = config.init_scale / config.n_layers
        blocks: dict[str, _Block] = {}
        for layer, name in enumerate(config.blocks):
            if name not in blocks:
                normalised = config.layer_norm and (config.shared or layer > 0)
                blocks[name] = _Block(config, variance, config.kinds[layer], normalised, name=name)
        if config.is_embedded:
            tokens = _Embedding(config, variance, name="embedding")(tokens)
        residuals, scores, patterns = [tokens], [], []
        for layer, name in enumerate(config.blocks, 1):
            residual, score, pattern = blocks[name](residuals[-1], query_only and layer == config.n_layers)
            residuals.append(residual)
            scores.append(score)
            patterns.append(pattern)
        return residuals, scores, patterns


def softmax_share(params: Params) -> dict[str, Array]:
    """How much of the pattern is softmax in each block that learned a mix of it, by the block's name."""
    attentions = {name: block["attention"] for name, block in params.items() if "attention" in block}
    return {name: jax.nn.sigmoid(MIX_SLOPE * found["mix"][0, 0, 0]) for name, found in attentions.items()
            if "mix" in found}  # fmt: skip


def has_moment_form(config: TransformerConfig) -> bool:
    """Whether the network sees its context through second moments only: linear layers, and nothing beside them."""
    plain = config.clip is None and not config.layer_norm and not config.normalised and not config.is_embedded
    return plain and set(config.kinds) == {"linear"}


def init(config: TransformerConfig, key: Array) -> Params:
    """Parameters of a fresh model: `{block: {"attention": {W_K, W_Q, W_V [head d_head e], P [head e d_head]}}}`.

    Beside them, where the config asks for it, `attention.mix`, `norm: {scale, bias}` and `embedding: {W_E, W_1, b_1,
    W_2, b_2}`.
    """
    return _Transformer(config).init(key, jnp.zeros((2, config.d_token)))["params"]


def apply(config: TransformerConfig, params: Params, tokens: Array) -> Activations:
    """Runs the stack on tokens `[t e]`, whose last row is the query, and returns everything it computed."""
    return Activations(*map(jnp.stack, _run(config, params, tokens)))


def apply_to_query(config: TransformerConfig, params: Params, tokens: Array) -> Float[Array, " e"]:
    """`apply(...).residual[-1, -1]`, without what nobody reads of the last layer: the updates of the context."""
    return _run(config, params, tokens, query_only=True)[0][-1][-1]


def _run(config: TransformerConfig, params: Params, tokens: Array, query_only: bool = False) -> Any:
    config = replace(config, init_scale=1.0)  # the weights are there; a sweep's tuple says nothing of them
    return _Transformer(config).apply({"params": params}, tokens, query_only)


def embed(config: TransformerConfig, params: Params, tokens: Array) -> Array:
    """Tokens `[... e]` as the first layer finds them, `[... width]`: each is embedded by itself."""
    if not config.is_embedded:
        return tokens
    return _Embedding(config, 1.0).apply({"params": params["embedding"]}, tokens)  # pyright: ignore[reportReturnType]


def features(config: TransformerConfig, params: Params, d_output: int) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The embedding of concatenated tokens as `(x [d], y [m]) -> (features [width - m], target [m])`: its y slots."""

    def of_example(x: Array, y: Array) -> tuple[Array, Array]:
        residual = embed(config, params, jnp.concatenate([x, y]))
        return residual[:-d_output], residual[-d_output:]

    return of_example


def layerwise_predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """As `predictor`, read out after every layer: y_hat `[depth m]`, the first before any layer."""

    def predict(x: Array, y: Array, x_query: Array) -> Array:
        residual = apply(config, params, layout.encode(x, y, x_query)).residual
        return jax.vmap(layout.read_out)(residual[:, -1])

    return predict


def predictor(config: TransformerConfig, params: Params, layout: Layout) -> Predictor:
    """The Transformer as a Predictor."""
    return lambda x, y, x_query: layout.read_out(apply_to_query(config, params, layout.encode(x, y, x_query)))


def circuits(config: TransformerConfig, params: Params) -> Circuits:
    """`W_KQ = W_K^T W_Q` and `W_PV = P W_V` of every layer and head; shared weights are repeated per layer."""
    layers = [params[name]["attention"] for name in config.blocks]
    return Circuits(
        jnp.stack([jnp.einsum("hka,hkb->hab", layer["W_K"], layer["W_Q"]) for layer in layers]),
        jnp.stack([jnp.einsum("hak,hkb->hab", layer["P"], layer["W_V"]) for layer in layers]),
    )
