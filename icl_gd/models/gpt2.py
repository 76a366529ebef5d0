"""The Transformer of Garg et al. (2208.01066): one like GPT-2, by the switches it has."""

from icl_gd.models.config import TransformerConfig
from icl_gd.schema import Size, checked


@checked
def gpt2_config(
    d_token: Size, n_positions: Size, d_embed: Size, n_layers: Size, n_heads: Size, d_read_out: Size = 1
) -> TransformerConfig:
    """A causal stack of softmax attention and perceptrons behind LayerNorms, with biases and learned positions.

    Args:
      d_token: of the tokens that are read in: the width of x.
      n_positions: tokens at most; a prompt of n points has 2n, of which the last need not be there.
      d_embed: the width that `n_heads` share; published are 64, 128 and 256 with 3, 6 and 12 layers, 2, 4 and 8 heads.

    Raises:
      ValueError: if the heads do not share the width evenly.
    """
    if d_embed % n_heads:
        raise ValueError(f"n_heads={n_heads} must divide d_embed={d_embed}, which they share")
    return TransformerConfig(
        d_token,
        n_layers,
        n_heads,
        d_head=d_embed // n_heads,
        attention="softmax",
        init="gpt2",
        init_scale=4e-4,
        causal=True,
        pre_norm=True,
        biases=True,
        d_embed=d_embed,
        block_mlp_width=4 * d_embed,
        n_positions=n_positions,
        d_read_out=d_read_out,
    )
