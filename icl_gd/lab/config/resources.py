"""What a run needs of a machine, estimated from its config before anything is compiled: memory and disk."""

from icl_gd.lab.config import sweeps
from icl_gd.lab.config.asked import Config
from icl_gd.lab.config.recipe_fields import beside_linear

D_POSITIONS = 10  # of interleaved tokens
FIT_FLOATS = 2**27  # at most, in the prompts that step sizes are tuned on
FIGURES = 4 * 2**20  # bytes of a run's figures, report and metrics
BYTES_PER_FLOAT = {"float32": 4, "float64": 8}


def memory_needed(config: Config) -> float:
    """Bytes of the larger of a training step and an evaluation, within a factor of about two, of one population."""
    floats = _floats_of_prefixes(config) if config.model.style == "gpt2" else _floats_of_attention(config)
    return BYTES_PER_FLOAT[config.precision] * floats


def _floats_of_prefixes(config: Config) -> float:
    """A step holds weights, gradients and the optimiser's moments of all members, and, forward and backward, some
    twenty vectors and three maps of attention a layer and token."""
    task, model = config.task, config.model
    t, e = 2 * task.n_context + 1, model.d_embed
    tokens = t * (20 * e + 3 * model.n_heads * t)
    members = config.seeds * len(sweeps.together(config))
    at_once = members if config.train.share_batches else 1
    step = config.train.batch_size * at_once * model.n_layers * tokens
    prompts = (
        max(config.eval.prompts, config.eval.curve_prompts) * t * (task.d_input + task.d_output + 1) * (3 + members)
    )
    return float(4 * members * _weights(config) + step + prompts + 64 * tokens)


def _weights(config: Config) -> float:
    """Of one member, within a factor of about two."""
    model, e = config.model, _width(config)
    if model.style == "gpt2":
        task = config.task
        return float(model.n_layers * 12 * e * e + e * (2 * task.n_context + 1 + task.d_input + task.d_output))
    return float(model.n_layers * model.n_heads * 4 * e * (model.d_head or e))


def _floats_of_attention(config: Config) -> float:
    """A step holds two batches (the next is drawn beside it), once if shared or run member by member, and, forward and
    backward, some six vectors or, below the last layer, second-moment matrices a layer, member and prompt. An
    evaluation holds the same without gradients, for a chunk of prompts and those of the curves.
    """
    task, model = config.task, config.model
    e, layers, n = _width(config), model.n_layers, task.n_context * (2 if model.layout == "interleaved" else 1)
    members = config.seeds * len(sweeps.together(config))
    width = e if model.d_head is None else model.d_head
    context = (n + 1) * e + e * e
    tokenwise, hidden = bool(beside_linear(config)), model.mlp_width or 0
    per_layer = 3 * model.n_heads * (n + 1) * (n + 1 + width) if tokenwise else e * e
    inner = 6 * model.n_heads * (layers * per_layer if layers > 1 or tokenwise else e) + 3 * (n + 1) * hidden
    at_once = members if config.train.share_batches else 1
    step = config.train.batch_size * (3 * context + at_once * inner)
    weights = members * layers * model.n_heads * 48 * e * max(e, width)
    evaluated = max(config.eval.curve_prompts, min(config.eval.prompts, 8192))
    evaluation = evaluated * (3 * context + min(members, 16) * 6 * layers * per_layer)
    fit = 3 * min(config.eval.prompts * (n + 1) * e, FIT_FLOATS)
    return float(weights + max(step, evaluation, fit))


def _width(config: Config) -> int:
    """Of the residual."""
    task, model = config.task, config.model
    tokens = task.d_input + (D_POSITIONS if model.layout == "interleaved" else task.d_output)
    return tokens if model.d_embed is None else model.d_embed


def disk_needed(config: Config) -> float:
    """Bytes that a run writes, within a factor of about two: three checkpoints (one is written before one goes), each
    of the weights and the optimiser's two moments of them, and figures and report."""
    weights = 0.0
    for _, one in sweeps.in_turn(config):
        weights += one.seeds * len(sweeps.together(one)) * _weights(one)
    return 3 * 3 * BYTES_PER_FLOAT[config.precision] * weights + FIGURES
