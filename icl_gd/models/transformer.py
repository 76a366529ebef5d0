"""The Transformer: functions of a config, a dict of parameters, and tokens.

>>> config = TransformerConfig(d_token=4, n_layers=2, n_heads=3)
>>> params = init(config, jax.random.key(0))
>>> params["block_1"]["attention"]["W_K"].shape  # [head d_head e]
(3, 4, 4)
>>> apply(config, params, jnp.ones((5, 4))).residual.shape  # [depth t e]
(3, 5, 4)
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Float

from icl_gd.models.attention import MIX_SLOPE, At, SelfAttention
from icl_gd.models.config import TransformerConfig
from icl_gd.models.initial import Initializers
from icl_gd.programs import cached_by_value
from icl_gd.schema import Size, checked
from icl_gd.types import Array, Circuits, LayerOutputs, Layout

Params = Mapping[str, Any]
LAYER_NORM_EPSILON = 1e-5


def _no_change(name: str, value: Array) -> Array:
    return value


class _Embedding(nn.Module):
    """The embedding `W_E e + b_E`, then the input MLP `e + W_2 gelu(W_1 e + b_1) + b_2`. Either may be absent."""

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
            tokens = tokens + _mlp(self, initial, config.input_mlp_width, tokens)
        return tokens


def _row(bias: Array, tokens: Array) -> Array:
    """Reshapes a bias `[e]` to the rank of tokens `[... e]`: JAX may refuse to broadcast different ranks."""
    return bias.reshape((1,) * (tokens.ndim - 1) + bias.shape)


def _mlp(module: nn.Module, initial: Initializers, width: int, tokens: Array, at: At = _no_change) -> Array:
    """`W_2 gelu(W_1 e + b_1) + b_2`, with parameters of `module`; gelu is the tanh approximation, as in GPT-2."""
    e = tokens.shape[-1]
    hidden = tokens @ module.param("W_1", initial.inputs, (width, e)).T
    hidden = at("mlp.pre", hidden + _row(module.param("b_1", nn.initializers.zeros, (width,)), hidden))
    hidden = at("mlp.post", nn.gelu(hidden))
    output = hidden @ module.param("W_2", initial.outputs(1), (e, width)).T
    return at("mlp_out", output + _row(module.param("b_2", nn.initializers.zeros, (e,)), tokens))


class _MLP(nn.Module):
    """The MLP of a block, without its skip connection."""

    width: int
    initial: Initializers

    @nn.compact
    def __call__(self, tokens: Array, at: At = _no_change) -> Array:
        return _mlp(self, self.initial, self.width, tokens, at)


def _norm(name: str | None = None) -> nn.LayerNorm:
    # By default, Flax creates scales and biases in float32 even if x64 is enabled and all other parameters are float64.
    precision = jnp.result_type(float)
    return nn.LayerNorm(epsilon=LAYER_NORM_EPSILON, use_fast_variance=False, param_dtype=precision, name=name)


def _identity(residual: Array) -> Array:
    return residual


def _norm_at(norm: Any, name: str, residual: Array, at: At) -> Array:
    """LayerNorm of a residual `[t e]`. The divisor, and the result before learned scale and bias, pass through `at`."""
    if norm is _identity:
        return residual
    weights = norm.variables["params"]
    exact = residual.astype(jnp.promote_types(residual.dtype, jnp.float32))
    centred = exact - jnp.mean(exact, axis=-1, keepdims=True)
    scale = jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + LAYER_NORM_EPSILON)
    normalised = at(f"{name}.normalized", centred / at(f"{name}.scale", scale))
    return (normalised * _row(weights["scale"], residual) + _row(weights["bias"], residual)).astype(residual.dtype)


def _compute_once(residual: Array) -> Array:
    """Makes XLA compute a residual and its gradient once, instead of at each use.

    The gradient is a sum over all later layers, so recomputing it is expensive. On CPU, training disables the compiler
    pass that would remove the barrier too early (`training.population.KEEP_BARRIERS`).
    """
    return jax.lax.optimization_barrier(residual)


class _Block(nn.Module):
    """One layer: attention and an optional MLP, each with a skip connection, then an optional clip."""

    config: TransformerConfig
    initial: Initializers
    kind: str
    is_normalised: bool  # whether the inputs of attention and MLP are normalised

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
        self.norm = _norm() if self.is_normalised else _identity
        if config.block_mlp_width is not None:
            self.mlp = _MLP(config.block_mlp_width, self.initial)
            self.mlp_norm = _norm() if self.is_normalised else _identity

    def at_sites(self, residual: Array, at: At) -> tuple[Array, Array, Array]:
        """Applies the layer with every intermediate value passed through `at`."""
        residual = at("resid_pre", residual)
        update, scores, pattern = self.attention(_norm_at(self.norm, "ln1", residual, at), at=at)
        residual = residual + update
        if self.config.block_mlp_width is not None:
            residual = at("resid_mid", residual)
            residual = residual + self.mlp(_norm_at(self.mlp_norm, "ln2", residual, at), at)
        return at("resid_post", self._clipped(residual)), scores, pattern

    def _clipped(self, residual: Array) -> Array:
        clip = self.config.clip
        return residual if clip is None else jnp.clip(residual, -clip, clip)

    def __call__(self, residual: Array, query_only: bool = False) -> tuple[Array, Array, Array]:
        update, scores, pattern = self.attention(self.norm(residual), query_only)
        residual = (residual[-1:] if query_only else residual) + update
        if self.config.block_mlp_width is not None:
            residual = _compute_once(residual)
            residual = _compute_once(residual + self.mlp(self.mlp_norm(residual)))
        return self._clipped(residual), scores, pattern


class _Unembedding(nn.Module):
    """The learned read-out `W_U e + b_U` `[... m]` of residuals e `[... e]`. With `pre_norm`, LayerNorm comes first."""

    config: TransformerConfig
    initial: Initializers

    @nn.compact
    def __call__(self, residual: Array, at: At | None = None) -> Array:
        config, e = self.config, residual.shape[-1]
        if config.pre_norm:
            norm = _norm(name="norm")
            residual = norm(residual) if at is None else _norm_at(norm, "ln_final", residual, at)
        y_hat = residual @ self.param("W_U", self.initial.embed, (config.d_read_out, e)).T
        return y_hat + _row(self.param("b_U", self.initial.embed_bias(e), (config.d_read_out,)), y_hat)


class _Transformer(nn.Module):
    """Residuals, scores and patterns by layer. With `query_only`, the last layer is computed for the query only."""

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, tokens: Array, query_only: bool = False, at: At | None = None
    ) -> tuple[list[Array], list[Array], list[Array]]:
        config = self.config
        initial = config.initial
        blocks: dict[str, _Block] = {}
        for layer, name in enumerate(config.blocks):
            if name not in blocks:
                is_normalised = config.has_norm(layer)
                blocks[name] = _Block(config, initial, config.kinds[layer], is_normalised, name=name)
        if config.is_embedded:
            tokens = _Embedding(config, initial, name="embedding")(tokens)
        if at is not None:
            tokens = at("embed", tokens)
        if config.n_positions is not None:
            if len(tokens) > config.n_positions:
                raise ValueError(
                    f"{len(tokens)} tokens exceed n_positions={config.n_positions}; give fewer examples, or a model "
                    "with more positions"
                )
            positions = self.param("positions", initial.positions, (config.n_positions, config.width))
            positions = positions[: len(tokens)]
            tokens = tokens + (positions if at is None else at("pos_embed", positions))
        residuals, scores, patterns = [tokens], [], []
        for layer, name in enumerate(config.blocks, 1):
            if at is None:
                residual, score, pattern = blocks[name](residuals[-1], query_only and layer == config.n_layers)
            else:
                residual, score, pattern = blocks[name].at_sites(residuals[-1], _in_block(at, layer - 1))
            residuals.append(residual)
            scores.append(score)
            patterns.append(pattern)
        if config.d_read_out is not None and self.is_initializing():
            _Unembedding(config, initial, name="unembed")(residuals[-1])
        return residuals, scores, patterns


def _in_block(at: At, layer: int) -> At:
    """Prefixes the names of sites by that of their block."""
    return lambda name, value: at(f"blocks.{layer}.{name}", value)


def softmax_share(params: Params) -> dict[str, Array]:
    """The learned softmax fraction of the pattern in every block with mixed attention.

    Returns:
      Scalars in (0, 1) by the name of the block.
    """
    attentions = {name: params[name]["attention"] for name in params if name.startswith("block_")}
    mixes = {name: attention["mix"] for name, attention in attentions.items() if "mix" in attention}
    return {name: jax.nn.sigmoid(MIX_SLOPE * mix[0, 0, 0]) for name, mix in mixes.items()}


def has_gram_form(config: TransformerConfig) -> bool:
    """Whether the Gram form is exact: the prediction depends on the context through its second moment only.

    Returns:
      True for linear attention over the context without further parts (clip, normalisation, embedding, MLP, ...).
    """
    if config.clip is not None or config.layer_norm or config.sum_normalised or config.is_embedded:
        return False
    if config.attend_to_query or config.modification.enabled:
        return False
    return config.is_plain and set(config.kinds) == {"linear"}


def init(config: TransformerConfig, key: Array) -> Params:
    """Draws the parameters of one model.

    Returns:
      Nested dicts of arrays. Every model has `block_l: {attention: {W_K, W_Q, W_V [head d_head e], P [head e d_head]}}`
      for each layer l, or `block_0` only if the layers are shared. Options of the config add to these:

      * to a block's `attention`: `mix`; `b_K, b_Q, b_V [head d_head]` and `b_P [e]`; the modification strengths
        `query_damping`, ..., which are not trained, and the augmentation MLPs `g_{K, V}_{1, 2} [d_head d_head]`;
      * to a block: `norm: {scale, bias}`, `mlp: {W_1, b_1, W_2, b_2}` and `mlp_norm: {scale, bias}`;
      * to the model: `embedding: {W_E, b_E, W_1, b_1, W_2, b_2}`, `positions [n_positions e]` and
        `unembed: {norm, W_U, b_U}`.

    Raises:
      ValueError: if a field of the config is a tuple of values to sweep over.
    """
    return _initialiser(config)(key)


@cached_by_value
def _initialiser(config: TransformerConfig) -> Callable[[Array], Params]:
    return jax.jit(lambda key: _Transformer(config).init(key, jnp.zeros((2, config.d_token)))["params"])


def shapes(config: TransformerConfig) -> Params:
    """Shapes and types of the parameters of one member.

    Returns:
      A `jax.ShapeDtypeStruct` for every parameter, in the nested dicts of `init`.
    """
    return jax.eval_shape(partial(init, program_config(config)), jax.random.key(0))


def apply(config: TransformerConfig, params: Params, tokens: Array) -> LayerOutputs:
    """Applies the Transformer to the tokens of one prompt.

    Args:
      config: the architecture.
      params: parameters of one member.
      tokens: `[t e]`, the query last.

    Returns:
      Residuals `[depth t e]`, scores `[layer head t t]` and patterns `[layer head t t]`.

    Raises:
      ValueError: if there are more tokens than `config.n_positions`.
    """
    return LayerOutputs(*map(jnp.stack, _run(config, params, tokens)))


def apply_to_query(config: TransformerConfig, params: Params, tokens: Array) -> Float[Array, " e"]:
    """The final residual of the query, `apply(...).residual[-1, -1]`. The last layer is computed for the query only.

    Args:
      config: the architecture.
      params: parameters of one member.
      tokens: `[t e]`, the query last.

    Returns:
      The residual `[e]`.
    """
    residuals, _, _ = _run(config, params, tokens, query_only=True)
    return residuals[-1][-1]


def prefix_residuals(config: TransformerConfig, params: Params, tokens: Array) -> Float[Array, "t e"]:
    """The final residuals of all tokens, `apply(...).residual[-1]`.

    Args:
      config: the architecture.
      params: parameters of one member.
      tokens: `[t e]`.

    Returns:
      The residuals `[t e]`.
    """
    residuals, _, _ = _run(config, params, tokens)
    return residuals[-1]


def program_config(config: TransformerConfig) -> TransformerConfig:
    """A config in which the fields that do not affect compiled programs have a fixed value.

    These fields are the initial scale, which affects the initial parameters only, and the modification strengths, which
    are stored among the parameters.

    Returns:
      The config. It is equal for all members of a population, so that they share one compiled program.
    """
    return config.with_values(dict.fromkeys(config.per_member, 0.5))


def _run(
    config: TransformerConfig, params: Params, tokens: Array, query_only: bool = False, at: At | None = None
) -> Any:
    config = program_config(config)
    if config.dtype is not None:
        params, tokens = jax.tree.map(lambda leaf: leaf.astype(config.dtype), (params, tokens))
    return _Transformer(config).apply({"params": params}, tokens, query_only, at)


def predict_at_sites(config: TransformerConfig, params: Params, layout: Layout, tokens: Array, at: At) -> Array:
    """Predicts at every token, with every intermediate value passed through `at`.

    Every token is processed in every layer, and weights are not merged.

    Args:
      config: the architecture.
      params: parameters of one member.
      layout: how prompts are encoded as tokens and where the prediction is read.
      tokens: `[t e]`, the query last.
      at: `(site, value) -> value`, called once for each of `models.sites.names(config)`, in their order, except for
        the site `prediction`.

    Returns:
      The read-out of every token `[t m]`; the prediction is the last.
    """
    residuals, _, _ = _run(config, params, tokens, at=at)
    if config.d_read_out is None:
        return jax.vmap(layout.read_out)(residuals[-1])
    unembed, config = params["unembed"], program_config(config)
    residual = residuals[-1].astype(unembed["W_U"].dtype)
    return _Unembedding(config, config.initial).apply({"params": unembed}, residual, at)  # pyright: ignore


def read_out(config: TransformerConfig, params: Params, layout: Layout) -> Callable[[Array], Array]:
    """The read-out of a model: learned if `d_read_out` is set, otherwise defined by the layout.

    Args:
      config: the architecture.
      params: parameters of one member.
      layout: how prompts are encoded as tokens and where the prediction is read.

    Returns:
      A function from the residual of the query token `[e]` to y_hat `[m]`.
    """
    if config.d_read_out is None:
        return layout.read_out
    config = program_config(config)
    unembedding = _Unembedding(config, config.initial)

    def read(residual: Array) -> Array:
        residual = residual.astype(params["unembed"]["W_U"].dtype)
        return unembedding.apply({"params": params["unembed"]}, residual)  # pyright: ignore[reportReturnType]

    return read


def embed(config: TransformerConfig, params: Params, tokens: Array) -> Array:
    """Applies the embedding and the input MLP to each token. Learned positions are not added.

    Args:
      config: the architecture.
      params: parameters of one member.
      tokens: `[... d_token]`.

    Returns:
      `[... width]`. The tokens are returned unchanged if the model has no embedding and no input MLP.
    """
    if not config.is_embedded:
        return tokens
    config = program_config(config)
    return _Embedding(config, config.initial).apply({"params": params["embedding"]}, tokens)  # pyright: ignore[reportReturnType]


@checked
def features(
    config: TransformerConfig, params: Params, d_output: Size
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """The embedding of a concatenated token (x, y), split into the features and target of a linear regression.

    Args:
      config: the architecture, with concatenated tokens.
      params: parameters of one member.
      d_output: width m of y.

    Returns:
      A function `(x [d], y [m]) -> (features [width - m], target [m])`. The target is the last m entries of the
      embedded token.
    """
    return Partial(_Features(program_config(config), d_output), params)


@dataclass(frozen=True)
class _Features:
    config: TransformerConfig
    d_output: int

    def __call__(self, params: Params, x: Array, y: Array) -> tuple[Array, Array]:
        residual = embed(self.config, params, jnp.concatenate([x, y]))
        return residual[: -self.d_output], residual[-self.d_output :]


def circuits(config: TransformerConfig, params: Params) -> Circuits:
    """The QK circuits `W_KQ = W_K^T W_Q` and the OV circuits `W_PV = P W_V` of every layer and head.

    Returns:
      `W_KQ [layer head e e]` and `W_PV [layer head e e]`. Shared weights are repeated for every layer.
    """
    layers = [params[name]["attention"] for name in config.blocks]
    return Circuits(
        jnp.stack([jnp.einsum("hka,hkb->hab", layer["W_K"], layer["W_Q"]) for layer in layers]),
        jnp.stack([jnp.einsum("hak,hkb->hab", layer["P"], layer["W_V"]) for layer in layers]),
    )
