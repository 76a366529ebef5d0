"""Takes the embedding off a model, so that its layers can be identified in the coordinates of their features.

The layers of a model with an embedding do not see x and y, but the features and the target that the embedding makes of
them. An algorithm of the layers is symmetric in the features, and not in x.

>>> import jax
>>> from icl_gd import models, tasks, tokens
>>> config = models.TransformerConfig(d_token=2, d_embed=5, input_mlp_width=8)
>>> model = models.Model(config, models.init(config, jax.random.key(0)), tokens.concatenated(1, 1))
>>> layers, task = after_embedding(model, tasks.SineRegression(n_context=4))
>>> task.sample(jax.random.key(1)).x.shape  # four features for every example
(4, 4)
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from icl_gd import tokens
from icl_gd.models import Model
from icl_gd.models.transformer import features
from icl_gd.programs import as_partial
from icl_gd.schema import checked
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Array, Prompt

NAME = "concatenated"  # the only layout whose embedded tokens are features and a target


@dataclass(frozen=True, eq=False)
class Features:
    """Prompts of a task after an embedding: features in place of inputs, and the embedded targets in place of labels.

    The label of the query is that of the task.

    Attributes:
      task: the task.
      embed: the embedding `(x [d], y [m]) -> (features, target [m])`, a pytree.
      d_input: number of features.
      d_output: number m of labels.
    """

    task: Any
    embed: Callable[[Array, Array], tuple[Array, Array]]
    d_input: int
    d_output: int

    @property
    def n_context(self) -> int:
        """Number of examples."""
        return self.task.n_context

    @property
    def sample(self) -> Partial:
        """`key -> Prompt`."""
        return Partial(_sample, as_partial(self.task.sample), self.embed, jnp.zeros(self.d_output))


def _sample(draw: Callable[[Array], Prompt], embed: Callable[..., Any], no_label: Array, key: Array) -> Prompt:
    prompt = draw(key)
    x, y = jax.vmap(embed)(prompt.x, prompt.y)
    return Prompt(x, y, embed(prompt.x_query, no_label)[0], prompt.y_query, None)


@checked
def after_embedding(model: Model, task: Sampled) -> tuple[Model, Features]:
    """The layers of a model with an embedding, as a model of its features, and the task that draws the features.

    The label slot of the query begins at zero, as in a model without an embedding, and not at the embedded zero. Give
    both to `identify`: `identify(*after_embedding(model, task))`.

    Args:
      model: a model with an embedding or an input MLP, and with concatenated tokens.
      task: where prompts are drawn from.

    Returns:
      The layers and the task.

    Raises:
      ValueError: if the model has no embedding, has edits, or does not read its prediction from the label slot.

    Source: deep features, von Oswald et al. 2212.07677, section on non-linear regression.
    """
    config, layout = model.config, model.layout
    if not config.is_embedded:
        raise ValueError("the model has no embedding, so its features are its inputs; identify the model itself")
    if layout.name != NAME or config.d_read_out is not None or config.n_positions is not None:
        raise ValueError(
            "the layers of this model have no features and targets; give a model with concatenated tokens, without "
            "positions and without an unembedding"
        )
    if model.edits:
        raise ValueError("the model has edits, and its embedding is one of the sites; give a model without edits")
    m = layout.d_output
    plain = replace(config, d_token=config.width, d_embed=None, input_mlp_width=None)
    params = {name: block for name, block in model.params.items() if name != "embedding"}
    layers = Model(plain, params, tokens.concatenated(config.width - m, m))
    return layers, Features(task, features(config, model.params, m), config.width - m, m)
