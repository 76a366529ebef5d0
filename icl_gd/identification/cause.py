"""Opens a model: are its layers those of the algorithm, and does it still work with the construction's layers?

A linear attention layer maps the Gram matrix G of the context and a token e to the update `sum_h W_PV G W_KQ e`. So its
function is the tensor `sum_h W_PV[r, a] W_KQ[b, c]`, symmetrised over (a, b): it does not depend on the gauge, the
number of heads, or the order of heads. Models on concatenated tokens without an embedding have no gauge between layers
either, because the residual of every token is its x and y. So layer l of the construction can replace layer l of the
model as it is.

>>> from icl_gd import constructions
>>> model = constructions.gradient_descent_model(d_input=2, d_output=1, n_context=4, step_sizes=[0.5])
>>> own = layer_functions(model.circuits)
>>> own.shape  # [layer r a b c]
(1, 3, 3, 3, 3)
>>> layer_distances(own, 2 * own, d=2)
[0.5]
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from icl_gd.analysis.risk import prediction_losses
from icl_gd.constructions import gd_plus_plus_weights, gradient_descent_weights
from icl_gd.identification.samples import difference
from icl_gd.identification.subject import Answer
from icl_gd.identification.verdict import Evidence
from icl_gd.models.model import Model
from icl_gd.tasks import draw_prompts
from icl_gd.tasks.pools import Sampled
from icl_gd.types import Array, Circuits, Gram, Prompt

NEAR = 0.5  # relative distance of weights below which they are nearer to the construction than to zero
KEPT = 0.9  # share of the improvement over zero that a model has to keep if it uses the algorithm
PROMPTS = 4096
LINE = (0.25, 0.5, 0.75)  # points on the line from the model to the construction


def can_be_opened(model: Any, answer: Answer) -> bool:
    """Whether a Predictor is a model whose layers have the form of those of a construction of the algorithm.

    Returns:
      True for linear attention on concatenated tokens, without an embedding, and with one layer per step.
    """
    if not isinstance(model, Model) or model.edits or model.layout.name != "concatenated":
        return False
    config, n_steps = model.config, answer.parameters.get("n_steps", 0)
    is_plain = config.is_plain and not config.is_embedded and config.clip is None and set(config.kinds) == {"linear"}
    has_form = not (config.layer_norm or config.sum_normalised or config.attend_to_query or config.modification.enabled)
    has_width = config.head_width >= config.d_token
    verdicts = ("averaging", "gd", "gd_plus_plus", "preconditioned_gd")
    return is_plain and has_form and has_width and answer.name.verdict in verdicts and n_steps == config.n_layers


def construction(model: Model, answer: Answer, n: int, **changes: list[float]) -> Model:
    """The construction of an algorithm, with the sizes of a model and separate layers.

    Args:
      model: the model.
      answer: the algorithm.
      n: number of examples.
      **changes: other parameters of the algorithm, for a wrong construction.

    Returns:
      The constructed model.
    """
    config, d = replace(model.config, shared=False), model.layout.d_input
    parameters = {**answer.parameters, **changes}
    if answer.name.verdict == "gd_plus_plus":
        params = gd_plus_plus_weights(config, d, n, parameters["step_sizes"], parameters["gammas"])
    else:
        a = parameters.get("preconditioner")
        a = None if a is None else np.asarray(a)
        params = gradient_descent_weights(config, d, n, parameters["step_sizes"], preconditioner=a)
    return Model(config, params, model.layout)


def layer_functions(circuits: Circuits) -> Array:
    """The function of every layer, `T[r, a, b, c]`: the update of slot r by slots a and b of G and slot c of a token.

    Returns:
      `[layer e e e e]`, symmetric in a and b.
    """
    tensor = jnp.einsum("lhra,lhbc->lrabc", circuits.W_PV, circuits.W_KQ)
    return 0.5 * (tensor + tensor.swapaxes(2, 3))


def needed(width: int, d: int, transforms: bool) -> np.ndarray:
    """The entries of a layer's function that a step of gradient descent or GD++ has: 1, and 0 elsewhere.

    The y slots are updated by G_xy and the x slots of a token; in GD++, also the x slots by G_xx.

    Args:
      width: width e of a token.
      d: number of x slots.
      transforms: whether the algorithm transforms the inputs, as GD++ does.

    Returns:
      `[e e e e]`.
    """
    mask, x, y = np.zeros((width,) * 4), slice(0, d), slice(d, None)
    mask[y, y, x, x] = mask[y, x, y, x] = 1.0
    if transforms:
        mask[x, x, x, x] = 1.0
    return mask


def layer_distances(own: Array, built: Array, d: int) -> list[float]:
    """Relative distances of the function of every layer from that of the construction's layer.

    In the last layer, only the y slots of the query are read. If it is also the first, those y slots are zero before.
    Everything else counts.

    Args:
      own: functions of the model's layers.
      built: functions of the construction's layers.
      d: number of x slots.

    Returns:
      `|T - T_built| / |T_built|` by layer, in Frobenius norm.
    """
    last = len(own) - 1
    distances = []
    for layer in range(last + 1):
        rows = slice(d, None) if layer == last else slice(None)
        columns = slice(0, d) if last == 0 else slice(None)
        first, second = (functions[layer][rows, ..., columns] for functions in (own, built))
        distances.append(float(jnp.linalg.norm((first - second).ravel()) / jnp.linalg.norm(second.ravel())))
    return distances


@jax.jit
def predictions(functions: Array, contexts: Array, queries: Array, exchanged: Array | int) -> Array:
    """The residuals of queries after all layers.

    Args:
      functions: of the layers, `[layer e e e e]`.
      contexts: Gram matrices `[prompt e e]`.
      queries: query tokens `[prompt e]`.
      exchanged: before this layer, every query gets the context of another prompt, as it is after the layers before.
        Give the number of layers to exchange nothing.

    Returns:
      `[prompt e]`; the prediction is minus the y slots.
    """

    def one_layer(state: tuple[Array, Array], layer: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (context, query), (function, number) = state, layer
        context = jnp.where(number == exchanged, jnp.roll(context, 1, axis=0), context)
        step = jnp.eye(query.shape[-1])[None] + jnp.einsum("rabc,pab->prc", function, context)
        context = jnp.einsum("prc,pcd,psd->prs", step, context, step, optimize=True)
        return (context, jnp.einsum("prc,pc->pr", step, query)), None

    (_, queries), _ = jax.lax.scan(one_layer, (contexts, queries), (functions, jnp.arange(len(functions))))
    return queries


@dataclass(frozen=True, eq=False)
class Opened:
    """The layers of a model beside those of the construction of its algorithm, and of a wrong construction.

    Attributes:
      own, built, wrong: functions of the layers, `[layer e e e e]` each.
      prompts: the prompts on which predictions are compared.
      d: number of x slots.
      transforms: whether the algorithm transforms the inputs.
    """

    own: Array
    built: Array
    wrong: Array
    prompts: Prompt
    d: int
    transforms: bool

    @cached_property
    def _gram(self) -> tuple[Array, Array]:
        x, y, x_query = self.prompts[:3]
        tokens = jnp.concatenate([x, y], axis=-1)
        queries = jnp.pad(x_query, ((0, 0), (0, y.shape[-1])))
        gram = jax.vmap(lambda tokens, query: Gram.of_first(len(tokens), tokens, query))(tokens, queries)
        return gram.context, gram.query

    def predict(self, functions: Array, exchanged: int | None = None) -> np.ndarray:
        """The predictions of layers, `[prompt m]`; `exchanged` is the layer before which contexts are exchanged.

        Returns:
          y_hat.
        """
        at = len(functions) if exchanged is None else exchanged
        return -np.asarray(predictions(functions, *self._gram, at))[:, self.d :]

    @cached_property
    def _zero_and_own(self) -> tuple[float, float]:
        return self._loss(np.zeros_like(self.prompts.y_query)), self._loss(self.predict(self.own))

    def _loss(self, y_hat: np.ndarray) -> float:
        return float(jnp.mean(prediction_losses(jnp.asarray(y_hat), self.prompts)))

    def share_kept(self, functions: Array) -> float:
        """The share of the model's improvement over predicting zero that is kept with other layers.

        Returns:
          The share; 1 is all of it, and a negative share is worse than predicting zero.
        """
        zero, own = self._zero_and_own
        return (zero - self._loss(self.predict(functions))) / (zero - own)

    @property
    def kept_by_layer(self) -> list[float]:
        """The improvement that is kept if one layer is replaced by the construction's, by layer."""
        return [self.share_kept(self.own.at[layer].set(self.built[layer])) for layer in range(len(self.own))]

    @property
    def kept_on_line(self) -> float:
        """The smallest improvement that is kept on the line from the model's layers to those of the construction."""
        return min(self.share_kept((1 - t) * self.own + t * self.built) for t in LINE)

    @property
    def kept_without_rest(self) -> float:
        """The improvement that is kept without all entries of the layers that the algorithm does not have."""
        mask = needed(self.own.shape[-1], self.d, self.transforms)
        return self.share_kept(self.own * mask[None])

    def exchange_unexplained(self, functions: Array) -> float:
        """How well other layers predict what the model does when contexts are exchanged between prompts.

        Before every layer but the first, each query gets the context of another prompt, as it is after the layers
        before. If the model runs the algorithm, the same exchange in the algorithm gives the same predictions.

        Returns:
          The share of the model's predictions that is unexplained, for the worst layer.
        """
        layers = range(1, len(self.own))
        return max(difference(self.predict(self.own, at), self.predict(functions, at)) for at in layers)


def beside_construction(model: Model, answer: Answer, prompts: Prompt, n: int) -> tuple[Opened, str]:
    """The layers of a model beside those of the construction of its algorithm, and beside wrong layers.

    Args:
      model: the model.
      answer: the algorithm.
      prompts: the prompts on which predictions are compared.
      n: number of examples.

    Returns:
      The layers, and what the wrong layers are: those of the best gradient descent for GD++, otherwise of half the step
      size.
    """
    steps, transforms = answer.parameters["step_sizes"], answer.name.verdict == "gd_plus_plus"
    own, built = (layer_functions(each.circuits) for each in (model, construction(model, answer, n)))
    one = Opened(own, built, built / 2, prompts, model.layout.d_input, transforms)
    if not transforms:
        return one, "layers with half the step size"
    zeros, ones = [0.0] * len(steps), [1.0] * len(steps)
    unit = layer_functions(construction(model, answer, n, step_sizes=ones, gammas=zeros).circuits)
    wrong = max((size * max(steps) * unit for size in np.geomspace(0.01, 2.0, 40)), key=one.share_kept)
    return replace(one, wrong=wrong), "layers of gradient descent with the best step size"


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
    one, wrong = beside_construction(model, answer, draw_prompts(task.sample, key, PROMPTS), n)
    is_deep, of = len(one.own) > 1, f"of {answer.words}"
    whose, worst, layers = "the layer's weights", "the layer", "the layer"
    if is_deep:
        whose, worst, layers = "the weights of the layer that differs most", "the worst layer", "all layers"
    distance, all_kept = max(layer_distances(one.own, one.built, one.d)), one.share_kept(one.built)
    kept = "improvement over zero that the model keeps"

    def keeps(name: str, says: str, value: float) -> Evidence:
        return Evidence("cause", name, f"{kept} {says}", value, KEPT, value >= KEPT)

    says = f"relative distance of {whose} from the construction, up to a gauge"
    rows = [Evidence("weights", "weight_distance", says, distance, NEAR, distance <= NEAR)]
    rows.append(keeps("kept_worst_layer", f"with {worst} replaced by that {of}", min(one.kept_by_layer)))
    if is_deep:
        rows.append(keeps("kept_all_layers", f"with all layers replaced by those {of}", all_kept))
    rows.append(keeps("kept_on_line", f"on the line from {layers} to the construction", one.kept_on_line))
    rows.append(
        keeps("kept_without_rest", "without all weights that the algorithm does not need", one.kept_without_rest)
    )
    value = one.share_kept(one.wrong)
    is_changed = abs(1 - value) > abs(1 - all_kept)  # better than the model is another function, too
    rows.append(Evidence("cause", "control_kept", f"control: {kept} with {wrong}", value, all_kept, is_changed))
    if is_deep:
        left, limit = one.exchange_unexplained(one.built), 1 - KEPT
        exchanged = "part of the predictions with contexts exchanged between layers that"
        says = f"{exchanged} {answer.words} leaves unexplained"
        rows.append(Evidence("cause", "exchange_unexplained", says, left, limit, left <= limit))
        value, says = one.exchange_unexplained(one.wrong), f"control: {exchanged} {wrong} leave unexplained"
        rows.append(Evidence("cause", "control_exchange_unexplained", says, value, left, value > left))
    return rows
