"""The GPT-2 Transformer of Garg et al. (2208.01066), as a `TransformerConfig`.

>>> gpt2_config(d_token=20, n_positions=82, d_embed=64, n_layers=3, n_heads=2).head_width
32
"""

from icl_gd.models.config import TransformerConfig
from icl_gd.schema import Size, checked


@checked
def gpt2_config(
    d_token: Size, n_positions: Size, d_embed: Size, n_layers: Size, n_heads: Size, d_read_out: Size = 1
) -> TransformerConfig:
    """Config of a causal softmax Transformer with MLPs, LayerNorms, biases, learned positions and a learned read-out.

    The published sizes `(d_embed, n_layers, n_heads)` are (64, 3, 2), (128, 6, 4) and (256, 12, 8).

    Args:
      d_token: width of the tokens, the larger of the widths of x and y.
      n_positions: largest number of tokens in a prompt. n pairs (x, y) have 2n tokens; the last y may be omitted.
      d_embed: width of the residual. Heads have width `d_embed / n_heads`, and MLPs `4 d_embed` hidden units.
      n_layers: number of layers.
      n_heads: heads per layer; must divide `d_embed`.
      d_read_out: width of the prediction. Default: 1.

    Returns:
      The config, with `init="gpt2"`.

    Raises:
      ValueError: if a size is not positive, or `n_heads` does not divide `d_embed`.
    """
    if d_embed % n_heads:
        raise ValueError(f"n_heads={n_heads} must divide d_embed={d_embed}: each head has width d_embed / n_heads")
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
