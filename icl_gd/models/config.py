"""The configuration of a Transformer: one frozen dataclass.

>>> config = TransformerConfig(d_token=11, n_layers=2, attention=("linear", "softmax"))
>>> config.kinds, config.head_width, config.blocks
(('linear', 'softmax'), 11, ('block_0', 'block_1'))
"""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from icl_gd.models import initial
from icl_gd.models.attention import KINDS
from icl_gd.models.initial import Initializers
from icl_gd.models.modifications import Alpha, Fraction, Modification, Share, Values
from icl_gd.schema import LARGEST, OneOf, Size, check

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
      clip: residuals are clipped to [-clip, clip] after every layer. Default: None, no clipping.
      init_scale: initial weights have variance `init_scale / n_layers / fan_in` with init="von_oswald"; with
        init="gpt2", see `initial.gpt2`. A tuple of values is a sweep; only training accepts it.
      attention: a kind in `attention.KINDS`, or a tuple with one kind per layer. "mixed" learns a combination of
        softmax and linear attention.
      layer_norm: the input of attention is normalised, with learned scale and offset. As in the published code, the
        first layer is not normalised, unless all layers share weights.
      sum_normalised: keys and queries are divided by the sums of their entries.
      d_embed: width of a linear embedding before the first layer. Default: None, no embedding.
      input_mlp_width: hidden width of an MLP (GELU, skip connection) on every embedded token before the first layer.
        Default: None, no MLP.
      init: the distribution of initial weights, a name in `initial.KINDS`.
      causal: every token attends to itself and the tokens before it. If the layout has separate tokens for x and y, a
        prediction is read at every x. Default: all tokens attend to the context, which is all tokens but the last.
      pre_norm: the inputs of attention, of the block MLP and of the learned read-out are normalised.
      block_mlp_width: hidden width of an MLP (GELU, skip connection) after attention in every layer. Default: None, no
        MLP.
      biases: keys, queries, values, the attention output and the embedding have biases.
      n_positions: number of learned position vectors, which are added to the tokens. A prompt cannot have more tokens
        than this. Default: None, no positions.
      d_read_out: width of the prediction of a learned linear read-out. Default: None, the prediction is read from the
        slots that the layout defines.
      attend_to_query: all tokens attend to the query too.
      alpha, beta, share, augment_keys, augment_values: attention modifications, see `models.Modification`. A tuple of
        values is a sweep; only training accepts it.
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
    alpha: Alpha = None
    beta: Fraction = None
    share: Share = None
    augment_keys: Fraction = None
    augment_values: Fraction = None

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
        if (self.beta is None) != (self.share is None):
            raise ValueError(
                f"beta={self.beta}, share={self.share}: negative samples need beta and share; set both or neither"
            )
        has_own_token = self.causal or self.attend_to_query
        if self.modification.there and (self.sum_normalised or not has_own_token):
            name, value = next(iter(self.modification.there.items()))
            raise ValueError(
                f"{name}={value} needs a query that attends to its own token, without sum normalisation, because the "
                "modification treats this token and the demonstrations differently; set attend_to_query=True or "
                f"causal=True, and sum_normalised=False, or set {name}=None"
            )

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
    def modification(self) -> Modification:
        """The strengths of the attention modifications."""
        return Modification(*(getattr(self, name) for name in Modification._fields))

    @property
    def per_member(self) -> dict[str, Values]:
        """The fields in which members of a population may differ; training sweeps over tuples in them."""
        return {"init_scale": self.init_scale, **self.modification.there}

    @property
    def initial(self) -> Initializers:
        """The initializers of the weights.

        Raises:
          ValueError: if a field is a tuple of values to sweep over.
        """
        for name, value in self.per_member.items():
            if isinstance(value, tuple):
                raise ValueError(f"{name}={value} is a sweep, which only training accepts; give one value for a model")
        return initial.KINDS[self.init](self.init_scale, self.n_layers)  # pyright: ignore[reportArgumentType]

    @property
    def is_plain(self) -> bool:
        """Whether every block is attention without an MLP, computed in the parameter dtype and not causal.

        A plain model has no `pre_norm`, biases, positions or learned read-out. It may still have `layer_norm`, an
        embedding or a clip.
        """
        if self.causal or self.pre_norm or self.biases or self.dtype:
            return False
        return self.n_positions is None and self.d_read_out is None and self.block_mlp_width is None

    @property
    def is_embedded(self) -> bool:
        """Whether there is an embedding or an MLP before the first layer."""
        return self.d_embed is not None or self.input_mlp_width is not None

    def reads_normalised(self, layer: int) -> bool:
        """Whether the input of attention is normalised in a layer, counted from zero.

        Returns:
          True if the parameter block of the layer has a `norm`.
        """
        return self.pre_norm or (self.layer_norm and (self.shared or layer > 0))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The name of each layer's parameter block, in order."""
        return tuple(f"block_{0 if self.shared else layer}" for layer in range(self.n_layers))
