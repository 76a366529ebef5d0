"""The fields every training config has, with the settings of von Oswald et al. for one layer."""

from typing import Any

from ml_collections import ConfigDict, config_dict

from icl_gd.lab.config.asked import Config

OPTIMA = "optima of the rates on 2^17 prompts"  # where the targets of several steps' losses come from
BOUND = "a bound of the optimum, from an earlier search"


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """`{"task.d_input": 10, ...}`, in the form JSON gives values back."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def base_config() -> Config:
    """A complete config; the files in `configs/` change what their experiment needs."""
    config: Config = ConfigDict()
    config.recipe = "linear_attention"  # a module of icl_gd.lab.recipes
    config.seeds = 10  # members of the population
    config.seed = 0  # the seed of the first member
    config.precision = "float32"  # or "float64"
    config.analyses = ("alignment", "weights", "interpolation", "shifts")

    config.task = ConfigDict()
    config.task.name = "linear"
    config.task.d_input = 10
    config.task.d_output = 1
    config.task.n_context = 10
    config.task.inputs = "uniform"
    config.task.input_scale = 1.0
    config.task.eigenvalues = ()  # of the inputs' covariance, one per dimension; () for independent coordinates
    config.task.rotation_seed = config_dict.placeholder(int)  # draws the covariance's eigenvectors; None: the axes
    config.task.weight_scale = 1.0
    config.task.noise_std = 0.0
    config.task.corrupted_labels = 0  # of the context's, replaced by N(0, 1)
    config.task.pool = config_dict.placeholder(int)  # prompts that training recycles; None: every one is fresh
    config.task.faithful = False  # sine: amplitude and phase from one key, as published
    # Of function classes:
    config.task.family = "standard"  # of prompts, that training is on
    config.task.function_pool = config_dict.placeholder(int)  # functions that training recycles; None: all are fresh
    config.task.non_zeros = 3  # of sparse functions
    config.task.hidden = 100  # width of ReLU networks
    config.task.depth = 4  # of decision trees

    config.reference = ConfigDict()
    config.reference.learner = "gd"  # what is built, and interpolated with; a kind of GD++ adds all that deep ones have
    config.reference.steps = config_dict.placeholder(int)  # None: as many as layers
    config.reference.learning_rate = 3e-4  # sine: of the meta-learned learner
    config.reference.step_size = 0.1  # sine: of a gradient step on its head, fixed; features learn their scale
    config.reference.published_steps = 1000  # of Adam, by which the published code learns GD++

    config.model = ConfigDict()
    config.model.layout = "concatenated"  # of tokens; "interleaved" holds x and y apart
    config.model.attention = "linear"  # "softmax", "mixed", or one word a layer: "softmax,linear"
    config.model.n_layers = 1
    config.model.n_heads = 1
    config.model.d_head = config_dict.placeholder(int)  # None: the token width
    config.model.shared = False
    config.model.clip = config_dict.placeholder(float)  # of activations; None: not clipped
    config.model.init_scale = 0.002
    config.model.layer_norm = False
    config.model.normalised = False  # keys and queries are divided by their sums
    config.model.d_embed = config_dict.placeholder(int)  # None: tokens are the residual as they are
    config.model.mlp_width = config_dict.placeholder(int)  # of a perceptron before the first layer; None: there is none
    # "gpt2": causal, LayerNorms, biases, perceptrons of 4 d_embed, learned places and read-out; heads share the width
    config.model.style = "von_oswald"
    config.model.reads_query = False  # the query is read too, by itself and all others
    # Attention modified as its dual model suggests; None: it is not. Zero changes nothing.
    config.model.alpha = config_dict.placeholder(float)  # what the query's own token writes counts 1 - alpha
    config.model.beta = config_dict.placeholder(float)  # how much of the negative samples' mean value is taken away
    config.model.share = config_dict.placeholder(float)  # of the other demonstrations, that are negative samples
    config.model.augment_keys = config_dict.placeholder(float)  # how much of a perceptron of them is added
    config.model.augment_values = config_dict.placeholder(float)
    config.model.compute = "parameters"  # the type of activations, "float32" or "bfloat16"; or that of parameters

    config.train = ConfigDict()
    config.train.steps = 5000
    config.train.batch_size = 2048
    config.train.learning_rate = 1e-3
    config.train.schedule = "constant"
    config.train.clip = 1e-3  # of the gradient's global norm
    config.train.beta1 = 0.9
    config.train.beta2 = 0.98
    config.train.epsilon = 1e-9
    config.train.weight_decay = 0.0
    config.train.active_inputs = ()  # (start, increase, every so many steps) of a curriculum; (): all from the start
    config.train.active_points = ()  # of a prompt, likewise
    config.train.share_batches = False
    # Of the network: "tokens", "moments" (of linear layers), "query" (of one layer), or the fastest that is exact.
    config.train.form = "auto"
    config.train.parallel = "auto"  # over devices: "none", "jit", "pmap" or as many as divide the work
    config.train.log_every = 100
    config.train.checkpoint_every = 1000

    config.eval = ConfigDict()
    config.eval.prompts = 2**20  # of the final numbers
    config.eval.curve_prompts = 10_000  # of curves over training and of alignment
    config.eval.families = ()  # of prompts, that errors at every length are measured on
    config.eval.baselines = ()  # learners beside the trained model
    config.eval.suite_values = config_dict.placeholder(
        int
    )  # at most so many of shifts in a suite, or of steps; None: all

    config.claims = ()
    return config


def deep(config: Config, n_layers: int, shared: bool) -> Config:
    """Several layers, with the settings of von Oswald et al. for them: beside gradient descent and GD++."""
    config.seeds = 5
    config.model.n_layers = n_layers
    config.model.shared = shared
    config.train.share_batches = True
    config.train.steps = 5000 if shared else 50_000
    config.train.learning_rate = 1e-3 if n_layers <= 3 else 5e-4
    config.train.clip = 1e-3 if n_layers <= 2 else 10.0
    config.reference.learner = "gd_plus_plus" if shared else "gd_plus_plus_published"
    config.reference.published_steps = 1000 if shared else 30_000
    config.analyses = ("alignment", "layer_map", "curvature", "interpolation", "shifts")
    return config


def dual_models(config: Config) -> Config:
    """One layer of two softmax heads that read the query too, on linear functions, learned within a minute."""
    config.recipe = "dual_models"
    config.seeds = 5
    config.analyses = ()
    config.task.d_input = 5
    config.task.n_context = 15
    config.model.attention = "softmax"
    config.model.n_heads = 2
    config.model.reads_query = True
    config.model.init_scale = 0.3
    config.train.share_batches = True
    config.train.steps = 3000
    config.train.batch_size = 128
    config.train.learning_rate = 1e-2
    config.train.schedule = "cosine"
    config.train.clip = 1.0
    config.eval.prompts = 2**16
    config.eval.curve_prompts = 2048
    return config


def about_tails(prefix: str) -> tuple:
    """Claims about the prompts on which five layers without a clip, and their learners, diverge."""
    return (
        {"id": f"{prefix}.bounded", "statement": "GD++ with one pair a layer, at its best, on the prompts on which it "
         "does not diverge", "source": BOUND, "metric": "loss_bounded_gd_plus_plus_free_steps", "relation": "at_most",
         "target": 0.0215},
        {"id": f"{prefix}.diverging", "statement": "which are nearly all (share of those where it does)", "source":
         "found here", "metric": "diverging_share_gd_plus_plus_free_steps", "relation": "at_most", "target": 1e-4},
        {"id": f"{prefix}.diverging_trained", "statement": "and trained layers diverge on as few (largest share)",
         "source": "found here", "metric": "diverging_share_trained_untrapped", "reduce": "max",
         "relation": "at_most", "target": 1e-4},
    )  # fmt: skip


def smoke(config: Config) -> Config:
    """The same code path in seconds: a handful of steps, few prompts, two layers at most, no claims; steps and batches
    are not swept."""
    config.seeds = 2
    config.model.n_layers = min(config.model.n_layers, 2)
    with config.train.ignore_type():
        config.train.steps = 20
        config.train.batch_size = 64
    config.train.log_every = 10
    if config.reference.learner != "gd":
        config.reference.published_steps = 10
    config.train.checkpoint_every = 10
    config.eval.prompts = 512
    config.eval.curve_prompts = 256
    config.eval.suite_values = 2
    config.claims = ()
    return config


GPT2_SIZES = {"tiny": (64, 3, 2), "small": (128, 6, 4), "standard": (256, 12, 8)}  # width, layers, heads


def function_class(
    name: str, variant: str, variants: tuple[str, ...], n_context: int = 40, small: tuple = (8, 24, 60_000)
) -> Config:
    """A causal Transformer on a class of functions, with the settings of Garg et al., in the size its variant names.

    Args:
      variants: those the config has; without one it is `standard`.
      n_context: as published; labels of 40 examples are learned with another curriculum than those of 100.
      small: inputs, examples and steps of a task that the size `tiny` (of `toy`, `tiny` and `smoke`) learns in an hour
        or two on two cores.
    """
    if variant and variant not in variants:
        raise ValueError(f"unknown variant {variant!r}; choose from {', '.join(variants)}")
    is_small = variant in ("toy", "tiny", "smoke")
    config = base_config()
    config.recipe = "function_classes"
    config.seeds = 1
    config.analyses = ()
    config.task.name = name
    config.task.d_input = 20
    config.task.n_context = n_context
    config.model.style = "gpt2"
    config.model.layout = "alternating"
    config.model.attention = "softmax"
    config.model.init_scale = 4e-4
    size = "tiny" if is_small else variant or "standard"
    config.model.d_embed, config.model.n_layers, config.model.n_heads = GPT2_SIZES[size]
    config.train.steps = 500_000
    config.train.batch_size = 64
    config.train.learning_rate = 1e-4
    config.train.clip = 1e6  # published: none
    config.train.beta2 = 0.999
    config.train.epsilon = 1e-8
    config.train.log_every = 1000
    config.eval.families = ("standard",)
    config.eval.prompts = 1280
    config.eval.curve_prompts = 1280
    if is_small:
        config.task.d_input, config.task.n_context, config.train.steps = small
        config.train.learning_rate = 1e-3
        config.train.schedule = "cosine"
    if variant not in ("toy", "smoke"):
        # With eight inputs from the start `tiny` still predicts zero after 29,000 steps, and from five inputs on .89 of
        # the variance is left after 18,000; three are learned within the 2000 steps of their stage.
        config.train.active_inputs = (3 if is_small else 5, 1, 2000)
        config.train.active_points = (11, 2, 2000) if config.task.n_context <= 40 else (26, 5, 2000)
    if variant == "smoke":
        smoke(config)
        config.eval.prompts = 128
    return config


def untrained(prefix: str) -> dict:
    """The claim about the control of a function class."""
    return {"id": f"{prefix}.untrained", "statement": "an untrained model knows nothing (its least error)",
            "source": "control", "metric": "normalised_error_untrained", "reduce": "min", "relation": "at_least",
            "target": 0.9}  # fmt: skip
