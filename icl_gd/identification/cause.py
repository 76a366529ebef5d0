"""Opens a model: are its weights those of the algorithm, and does it still work with the construction's layers?

Models of linear attention on concatenated tokens, without an embedding, have no gauge between layers: the residual of
every token is its x and y. So layer l of the construction can replace layer l of the model as it is.

>>> from icl_gd import constructions
>>> from icl_gd.identification.families import Name
>>> model = constructions.gradient_descent_model(d_input=2, d_output=1, n_context=4, step_sizes=[0.5])
>>> answer = Answer(Name("gd", 1), {"n_steps": 1, "step_sizes": [0.5]}, min, {}, 0.0)  # predicts nothing
>>> layer_distances(model, construction(model, answer, n=4))
[0.0]
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.analysis.risk import Risk, losses
from icl_gd.constructions import gd_plus_plus_weights, gradient_descent_weights
from icl_gd.identification.subject import Answer
from icl_gd.identification.verdict import Evidence
from icl_gd.learners import predict_zero
from icl_gd.models.model import Model
from icl_gd.models.transformer import Params
from icl_gd.tasks import draw_prompts
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Circuits, Prompt

NEAR = 0.5  # relative distance of weights below which they are nearer to the construction than to zero
KEPT = 0.9  # share of the improvement over zero that a model with the construction's layers has to keep
PROMPTS = 4096


def can_be_opened(model: Any, answer: Answer) -> bool:
    """Whether a Predictor is a model whose layers have the form of those of a construction of the algorithm.

    Returns:
      True for linear attention on concatenated tokens, without an embedding, and with one layer per step.
    """
    if not isinstance(model, Model) or model.edits or model.layout.name != "concatenated":
        return False
    config, n_steps = model.config, answer.parameters.get("n_steps", 0)
    is_plain = config.is_plain and not config.is_embedded and set(config.kinds) == {"linear"}
    has_form = not (config.layer_norm or config.sum_normalised or config.attend_to_query or config.modification.enabled)
    has_width = config.head_width >= config.d_token
    verdicts = ("averaging", "gd", "gd_plus_plus", "preconditioned_gd")
    return is_plain and has_form and has_width and answer.name.verdict in verdicts and n_steps == config.n_layers


def construction(model: Model, answer: Answer, n: int, **changes: list[float]) -> Params:
    """Parameters of the construction of an algorithm, in the shapes of a model with separate layers.

    Args:
      model: the model.
      answer: the algorithm.
      n: number of examples.
      **changes: other parameters of the algorithm, for a wrong construction.

    Returns:
      One block per layer.
    """
    config, d = replace(model.config, shared=False), model.layout.d_input
    parameters = {**answer.parameters, **changes}
    if answer.name.verdict == "gd_plus_plus":
        return gd_plus_plus_weights(config, d, n, parameters["step_sizes"], parameters["gammas"])
    a = parameters.get("preconditioner")
    a = None if a is None else np.asarray(a)
    return gradient_descent_weights(config, d, n, parameters["step_sizes"], preconditioner=a)


def layer_distances(model: Model, built: Mapping[str, Any]) -> list[float]:
    """Relative distances of the function of every layer from that of the construction's layer.

    A layer maps the Gram matrix G of the context and a token e to the update `sum_h W_PV G W_KQ e`, so its function is
    the tensor `sum_h W_PV[r, a] W_KQ[b, c]`, symmetrised over (a, b). In the last layer, only the y slots of the query
    are read; in the first, the y slot of the query is zero. Everything else counts.

    Returns:
      `|T - T_built| / |T_built|` by layer, in Frobenius norm.
    """
    separate = replace(model.config, shared=False)
    own = model.circuits
    other = Model(separate, dict(built), model.layout).circuits
    d, last = model.layout.d_input, model.config.n_layers - 1
    distances = []
    for layer in range(last + 1):
        rows = slice(d, None) if layer == last else slice(None)
        columns = slice(0, d) if layer == last == 0 else slice(None)
        first, second = (_function(circuits, layer)[rows, ..., columns] for circuits in (own, other))
        distances.append(float(jnp.linalg.norm((first - second).ravel()) / jnp.linalg.norm(second.ravel())))
    return distances


def _function(circuits: Circuits, layer: int) -> jax.Array:
    tensor = jnp.einsum("hra,hbc->rabc", circuits.W_PV[layer], circuits.W_KQ[layer])
    return 0.5 * (tensor + tensor.swapaxes(1, 2))


def loss_kept(model: Model, built: Mapping[str, Any], prompts: Prompt) -> tuple[list[float], float]:
    """How much of its improvement over predicting zero a model keeps when layers are replaced by a construction's.

    Args:
      model: the model.
      built: the parameters of the construction, one block per layer.
      prompts: the prompts on which losses are measured.

    Returns:
      The share kept with one layer replaced, by layer; and the share kept with all layers replaced. 1 is all of it.
    """
    config, layout = replace(model.config, shared=False), model.layout
    own = {f"block_{layer}": model.params[block] for layer, block in enumerate(model.config.blocks)}

    def loss(params: Mapping[str, Any]) -> float:
        return float(Risk.of(losses(Model(config, dict(params), layout), prompts)).mean)

    zero, trained = float(Risk.of(losses(predict_zero, prompts)).mean), loss(own)
    kept = [(zero - loss({**own, block: built[block]})) / (zero - trained) for block in own]
    return kept, (zero - loss(built)) / (zero - trained)


def opened(model: Any, answer: Answer, task: Sampled, key: jax.Array, n: int) -> list[Evidence]:
    """The rungs of weights and cause, for a model that can be compared with a construction layer by layer.

    Args:
      model: the Predictor.
      answer: the algorithm.
      task: where prompts are drawn from.
      key: random key of the prompts.
      n: number of examples.

    Returns:
      The observations; none for other Predictors.
    """
    if not can_be_opened(model, answer):
        return []
    built = construction(model, answer, n)
    distances = layer_distances(model, built)
    prompts = draw_prompts(task.sample, key, PROMPTS)
    kept, all_kept = loss_kept(model, built, prompts)
    steps = answer.parameters["step_sizes"]
    if answer.name.verdict == "gd_plus_plus":
        wrong, words = {"gammas": [0.0] * len(steps)}, "layers of gradient descent with the same step sizes"
    else:
        wrong, words = {"step_sizes": [step / 2 for step in steps]}, "layers with half the step size"
    _, wrong_kept = loss_kept(model, construction(model, answer, n, **wrong), prompts)
    one = "the layer's weights" if len(kept) == 1 else "the weights of the layer that differs most"
    which = "the layer" if len(kept) == 1 else "the worst layer"
    rows = [
        Evidence(
            "weights", f"relative distance of {one} from the construction, up to a gauge", max(distances), NEAR,
            max(distances) <= NEAR,
        ),
        Evidence(
            "cause", f"improvement over zero that the model keeps with {which} replaced by that of {answer.words}",
            min(kept), KEPT, min(kept) >= KEPT,
        ),
    ]  # fmt: skip
    if len(kept) > 1:
        says = f"improvement over zero that the model keeps with all layers replaced by those of {answer.words}"
        rows.append(Evidence("cause", says, all_kept, KEPT, all_kept >= KEPT))
    says = f"control: improvement over zero that the model keeps with {words}"
    rows.append(Evidence("cause", says, wrong_kept, all_kept, wrong_kept < all_kept))
    return rows
