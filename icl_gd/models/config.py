"""The configuration of a Transformer: one frozen dataclass.

>>> config = TransformerConfig(d_token=11, n_layers=2, attention=("linear", "softmax"))
>>> config.kinds, config.head_width, config.blocks
(('linear', 'softmax'), 11, ('block_0', 'block_1'))
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le

from icl_gd.models import initial
from icl_gd.models.attention import KINDS
from icl_gd.models.initial import Initializers
from icl_gd.models.modifications import UNMODIFIED, Modification, Values
from icl_gd.schema import LARGEST, OneOf, Size, check, hints, tuples

MOST_LAYERS = 10**5  # upper bound on n_layers, because `kinds` stores one string per layer
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class TransformerConfig:
    """The architecture of a Transformer.

    `gpt2_config` returns the config of a GPT-2.

    Attributes:
      d_token: width of the input tokens.
      n_layers, n_heads: number of layers, and of heads per layer.
      d_head: width of a head. Default: the width of the residual, as in von Oswald et al.
      shared: all layers share one set of weights (recurrent). Default: each layer has its own.
      clip: residuals are clipped to [-clip, clip] after every layer. Default: None, no clip.
      init_scale: with init="von_oswald", initial weights have variance `init_scale / n_layers / fan_in`. For
        init="gpt2", see `initial.gpt2`. A tuple of values is a sweep; only training accepts it.
      attention: a kind in `attention.KINDS`, or a tuple with one kind per layer. "mixed" learns a combination of
        softmax and linear attention.
      layer_norm: the input of attention is normalised by LayerNorm, with learned scale and bias. If each layer has its
        own weights, the first layer is not normalised, as in the code of von Oswald et al.
      sum_normalised: each key and each query is divided by the sum of its entries.
      d_embed: width of a linear embedding before the first layer. Default: None, no embedding.
      input_mlp_width: hidden width of an MLP (GELU, skip connection) on every embedded token before the first layer.
        Default: None, no MLP.
      init: the distribution of initial weights, a name in `initial.KINDS`.
      causal: every token attends to itself and to the tokens before it. If x and y have separate tokens, a prediction
        is read at every x. Default: every token attends to the context, that is, to all tokens except the last.
      pre_norm: the inputs of attention, of the block MLP and of the learned read-out are normalised by LayerNorm.
      block_mlp_width: hidden width of an MLP (GELU, skip connection) after attention in every layer. Default: None, no
        MLP.
      biases: keys, queries, values, the attention output and the embedding have biases.
      n_positions: number of learned position vectors, which are added to the tokens. A prompt cannot have more tokens
        than this. Default: None, no positions.
      d_read_out: width of the prediction of a learned linear read-out. Default: None, the prediction is read from the
        slots that the layout defines.
      attend_to_query: every token attends to the query too. Default: False.
      modification: strengths of the attention modifications of Ren & Liu. Default: none is enabled.
      dtype: type of the activations, "float32" or "bfloat16". Default: None, the type of the parameters. Softmax, the
        sums of LayerNorm and a learned read-out are computed in float32.
    """

    d_token: Size
    n_layers: Annotated[int, Ge(1), Le(MOST_LAYERS)] = 1
    n_heads: Size = 1
    d_head: Size | None = None
    shared: bool = False
    clip: Annotated[float, Gt(0)] | None = None
    init_scale: Annotated[Values, Gt(0), Le(LARGEST)] = 0.002
    attention: Annotated[str | tuple[str, ...], OneOf(KINDS)] = "linear"
    layer_norm: bool = False
    sum_normalised: bool = False
    d_embed: Size | None = None
    input_mlp_width: Size | None = None
    init: Annotated[str, OneOf(initial.KINDS)] = "von_oswald"
    causal: bool = False
    pre_norm: bool = False
    block_mlp_width: Size | None = None
    biases: bool = False
    n_positions: Size | None = None
    d_read_out: Size | None = None
    dtype: Annotated[str, OneOf(DTYPES)] | None = None
    attend_to_query: bool = False
    modification: Modification = UNMODIFIED

    def __post_init__(self):
        check(self)
        if len(self.kinds) != self.n_layers:
            raise ValueError(
                f"attention={self.attention!r} has {len(self.kinds)} kinds for n_layers={self.n_layers}; give one "
                "kind, or one per layer"
            )
        if self.shared and len(set(self.kinds)) > 1:
            raise ValueError(f"attention={self.attention!r}: layers with shared=True have one kind; give one kind")
        if self.layer_norm and self.pre_norm:
            raise ValueError("pre_norm=True includes the normalisation of layer_norm=True; set only one of them")
        if self.layer_norm and self.n_layers == 1 and not self.shared:
            raise ValueError(
                "layer_norm=True has no effect on a single layer with its own weights; set shared=True or "
                "layer_norm=False"
            )
        if self.causal and self.attend_to_query:
            raise ValueError(
                "attend_to_query=True is not accepted with causal=True: a causal query attends to itself already; set "
                "attend_to_query=False"
            )
        attends_to_itself = self.causal or self.attend_to_query
        enabled = self.modification.enabled
        if enabled and (self.sum_normalised or not attends_to_itself):
            name, value = next(iter(enabled.items()))
            raise ValueError(
                f"{name}={value} needs sum_normalised=False and a query that attends to itself, because it treats the "
                "query and the demonstrations differently; set attend_to_query=True or causal=True, or set "
                f"{name}=None"
            )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TransformerConfig":
        """The inverse of `dataclasses.asdict`, for values that were written to JSON and read again.

        Returns:
          The config. Lists become tuples, and missing fields have their defaults.

        Raises:
          ValueError: if a field is unknown or does not accept its value.
        """
        strengths = tuples(values.get("modification", {}))
        unknown = (values.keys() - hints(cls)) | (strengths.keys() - hints(Modification))
        if unknown:
            raise ValueError(f"unknown model fields {', '.join(sorted(unknown))}; a newer version of icl_gd wrote them")
        return cls(**{**tuples(values), "modification": Modification(**strengths)})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of attention of each layer."""
        return (self.attention,) * self.n_layers if isinstance(self.attention, str) else tuple(self.attention)

    @property
    def width(self) -> int:
        """The width e of the residual."""
        return self.d_token if self.d_embed is None else self.d_embed

    @property
    def head_width(self) -> int:
        """The width of a head."""
        return self.width if self.d_head is None else self.d_head

    @property
    def per_member(self) -> dict[str, Values]:
        """The fields in which members of a population may differ, with their values. A tuple of values is a sweep."""
        return {"init_scale": self.init_scale, **self.modification.enabled}

    def with_values(self, values: Mapping[str, Any]) -> "TransformerConfig":
        """A copy with other values of some fields of `per_member`.

        Returns:
          A config of the same class.
        """
        strengths = {name: value for name, value in values.items() if name != "init_scale"}
        modification = replace(self.modification, **strengths)
        return replace(self, init_scale=values.get("init_scale", self.init_scale), modification=modification)

    @property
    def initial(self) -> Initializers:
        """The initialisers of the weights.

        Raises:
          ValueError: if a field is a tuple of values to sweep over.
        """
        for name, value in self.per_member.items():
            if isinstance(value, tuple):
                raise ValueError(f"{name}={value} is a sweep, which only training accepts; give one value for a model")
        return initial.KINDS[self.init](self.init_scale, self.n_layers)  # pyright: ignore[reportArgumentType]

    @property
    def is_plain(self) -> bool:
        """Whether every block is attention without a causal mask or an MLP, computed in the dtype of the parameters.

        A plain model also has no `pre_norm`, biases, positions or learned read-out. It may have `layer_norm`, an
        embedding, an input MLP or a clip.
        """
        if self.causal or self.pre_norm or self.biases or self.dtype:
            return False
        return self.n_positions is None and self.d_read_out is None and self.block_mlp_width is None

    @property
    def is_embedded(self) -> bool:
        """Whether there is an embedding or an input MLP before the first layer."""
        return self.d_embed is not None or self.input_mlp_width is not None

    def has_norm(self, layer: int) -> bool:
        """Whether LayerNorm is applied to the input of attention in a layer.

        Returns:
          True if the parameter block of the layer has a `norm`. Layers are counted from zero.
        """
        return self.pre_norm or (self.layer_norm and (self.shared or layer > 0))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The name of each layer's parameter block, in order."""
        return tuple(f"block_{0 if self.shared else layer}" for layer in range(self.n_layers))
