"""What a Transformer is made of: one small frozen config."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from icl_gd.models import initial
from icl_gd.models.attention import KINDS
from icl_gd.models.initial import Initializers
from icl_gd.models.modifications import Alpha, Fraction, Modification, Share, Values
from icl_gd.schema import LARGEST, OneOf, Size, check

MOST_LAYERS = 10**5  # as many words name their kinds
DTYPES = ("float32", "bfloat16")


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
      attention: a kind in `attention.KINDS` ("mixed" learns how much of it is softmax), or a tuple of one per layer.
      layer_norm: attention reads normalised residuals, with learned scale and offset. As published, the first of
        layers with weights of their own reads tokens as they are.
      sum_normalised: keys and queries are divided by their sums.
      d_embed: tokens are mapped to this width before the first layer; None leaves them as they are.
      input_mlp_width: an MLP with a hidden layer of this width (GELU, skip) acts on every embedded token before the
        first layer; None has none.
      init: where weights start from, in `initial.KINDS`; `init_scale` above is that of "von_oswald".
      causal: every token reads itself and those before it, and a layout that holds x and y apart is read out at every
        x; otherwise all read the context, which is all tokens but the last.
      pre_norm: attention and perceptron of every layer, and the read-out, read normalised residuals.
      block_mlp_width: a perceptron like the above acts after attention in every layer; None has none.
      biases: of keys, queries, values, projections and of what maps tokens to `d_embed`.
      n_positions: a learned vector for every place is added to tokens, so many of them at most; None adds nothing.
      d_read_out: predictions, of this size, are a learned linear map of the residual; None reads slots of the layout.
      attend_to_query: the query is read too, by itself and by all others.
      alpha, beta, share, augment_keys, augment_values: of attention, see `models.Modification`; a tuple is swept over.
      dtype: the type of activations, "float32" or "bfloat16"; None takes that of the parameters. Softmax, LayerNorm's
        sums and a learned read-out stay float32.

    One like GPT-2 is `gpt2_config`.
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
                f"attention={self.attention!r} must be one word, or one for each of n_layers={self.n_layers}"
            )
        if self.shared and len(set(self.kinds)) > 1:
            raise ValueError(f"attention={self.attention!r}: layers with shared weights are of one kind")
        if self.layer_norm and self.pre_norm:
            raise ValueError("pre_norm=True normalises what layer_norm=True does, and more: one of them is enough")
        if self.layer_norm and self.n_layers == 1 and not self.shared:
            raise ValueError("layer_norm=True leaves the first of separate layers alone: one layer needs shared=True")
        if self.causal and self.attend_to_query:
            raise ValueError("attend_to_query=True: in causal attention every token reads itself as it is")
        if (self.beta is None) != (self.share is None):
            raise ValueError(f"beta={self.beta}, share={self.share}: negative samples take both of them, or neither")
        if self.modification.there and (self.sum_normalised or not (self.causal or self.attend_to_query)):
            name, value = next(iter(self.modification.there.items()))
            raise ValueError(
                f"{name}={value} tells what is read of the query from what is read of demonstrations: it needs "
                "attend_to_query=True or causal=True, and sum_normalised=False; leave it at None"
            )

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
    def modification(self) -> Modification:
        return Modification(*(getattr(self, name) for name in Modification._fields))

    @property
    def per_member(self) -> dict[str, Values]:
        """The fields in which members of a population may differ: a tuple is swept over in training."""
        return {"init_scale": self.init_scale, **self.modification.there}

    @property
    def initial(self) -> Initializers:
        """How weights start.

        Raises:
          ValueError: of what is swept over.
        """
        for name, value in self.per_member.items():
            if isinstance(value, tuple):
                raise ValueError(f"{name}={value} is swept over by training; a model starts from one value")
        return initial.KINDS[self.init](self.init_scale, self.n_layers)  # pyright: ignore[reportArgumentType]

    @property
    def is_plain(self) -> bool:
        """Whether layers are attention and nothing beside it, and what they read is the same for all tokens."""
        beside = self.n_positions, self.d_read_out, self.block_mlp_width
        return not (self.causal or self.pre_norm or self.biases or self.dtype) and set(beside) == {None}

    @property
    def is_embedded(self) -> bool:
        """Whether anything stands before the first layer."""
        return self.d_embed is not None or self.input_mlp_width is not None

    def reads_normalised(self, layer: int) -> bool:
        """Whether attention of a layer, counted from zero, reads a normalised residual."""
        return self.pre_norm or (self.layer_norm and (self.shared or layer > 0))

    @property
    def blocks(self) -> tuple[str, ...]:
        """The parameter block each layer reads, in order."""
        return tuple(f"block_{0 if self.shared else layer}" for layer in range(self.n_layers))
