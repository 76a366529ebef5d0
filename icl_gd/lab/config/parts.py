"""The parts of an experiment: the dataclasses of the library, with the fields that only a run needs.

The class attribute `in_config` of a part says where the names of its fields on the command line and in config.json
differ from those of the dataclass.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from annotated_types import Ge, Gt, Le

from icl_gd.models import TransformerConfig, gpt2_config
from icl_gd.models.attention import KINDS
from icl_gd.models.config import DTYPES, MOST_LAYERS
from icl_gd.models.modifications import Alpha, Fraction, Modification, Share, Values
from icl_gd.schema import LARGEST, OneOf, PoolSize, Size, check
from icl_gd.tasks import (
    FUNCTIONS,
    PROMPT_DISTRIBUTIONS,
    ElementwiseRegression,
    FinitePool,
    FinitePrefixPool,
    FunctionPool,
    FunctionRegression,
    LinearRegression,
    SineRegression,
)
from icl_gd.tokens import LAYOUTS
from icl_gd.training import Curriculum, Ramp, TrainSettings
from icl_gd.training.checkpoint import KEEP
from icl_gd.training.mesh import MODES

Stage = tuple[Size, Size, Size] | tuple[()]  # (start, increase, steps between increases)


class InConfig(NamedTuple):
    """How the fields of a part are named on the command line and in config.json.

    Attributes:
      names: the name of an attribute, in the section of the part (`weight_scale`) or with a section (`eval.suite`).
      hidden: attributes that cannot be given, because they follow from others.
      free: attributes that do not change the trained weights; they may differ between a run and its resume.
      unions: attributes whose value is of one of several classes, with these classes by word; its fields are listed as
        fields of the section.
    """

    names: Mapping[str, str] = MappingProxyType({})
    hidden: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    unions: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def in_config(of: type) -> InConfig:
    """The `in_config` of a class; the default if the class has none."""
    return getattr(of, "in_config", InConfig())


def plain(value: Any, of: type, **changed: Any) -> Any:
    """Converts a part to the class of the library that it extends, with some fields changed.

    Args:
      value: the part.
      of: the dataclass of the library.
      changed: new values of fields.

    Returns:
      An instance of `of`.
    """
    return of(**{field.name: getattr(value, field.name) for field in fields(of)} | changed)


@dataclass(frozen=True)
class Regression(LinearRegression):
    """Linear regression.

    Attributes:
      eigenvalues: eigenvalues of the covariance of the inputs, one per input; () for independent coordinates.
      rotation_seed: seed of the eigenvectors of the covariance; None for the coordinate axes.
      pool: number of distinct training prompts; None for unlimited fresh prompts.
    """

    name: ClassVar[str] = "linear"
    in_config: ClassVar[InConfig] = InConfig(hidden=("covariance",))
    eigenvalues: tuple[Annotated[float, Gt(0), Le(LARGEST)], ...] | tuple[()] = ()
    rotation_seed: Annotated[int, Ge(0)] | None = None
    pool: PoolSize | None = None

    def __post_init__(self):
        check(self)
        if self.eigenvalues and len(self.eigenvalues) != self.d_input:
            raise ValueError(
                f"eigenvalues has {len(self.eigenvalues)} values, but task.d_input={self.d_input}; give one eigenvalue "
                "per input"
            )
        if self.rotation_seed is not None and not self.eigenvalues:
            raise ValueError(
                f"rotation_seed={self.rotation_seed}: there is no covariance to rotate; give task.eigenvalues too, or "
                "task.rotation_seed=None"
            )
        super().__post_init__()

    @cached_property
    def law(self) -> LinearRegression:
        """The task of the library that prompts are drawn from."""
        if not self.eigenvalues:
            return plain(self, LinearRegression)
        basis = np.eye(self.d_input)
        if self.rotation_seed is not None:
            basis, _ = np.linalg.qr(np.random.default_rng(self.rotation_seed).normal(size=basis.shape))
        covariance = ((basis * np.asarray(self.eigenvalues)) @ basis.T).tolist()
        return plain(self, LinearRegression, covariance=tuple(map(tuple, covariance)))

    def trained_on(self, seed: int) -> LinearRegression | FinitePool:
        """The task that training draws from: `law`, or a pool of its prompts.

        Args:
          seed: determines the prompts of the pool.

        Returns:
          A task of the library.
        """
        return self.law if self.pool is None else FinitePool(self.law, self.pool, seed)


@dataclass(frozen=True)
class Elementwise(ElementwiseRegression):
    """Regression on labels that are linear in a function of each input coordinate."""

    in_config: ClassVar[InConfig] = InConfig({"function": "name"})

    @property
    def law(self) -> ElementwiseRegression:
        """The task of the library that prompts are drawn from."""
        return plain(self, ElementwiseRegression)


@dataclass(frozen=True)
class Sine(SineRegression):
    """Regression on sine waves."""

    name: ClassVar[str] = "sine"

    @property
    def law(self) -> SineRegression:
        """The task of the library that prompts are drawn from."""
        return plain(self, SineRegression)


@dataclass(frozen=True)
class Functions(FunctionRegression):
    """Regression on a class of functions, with a prediction after every prefix of the prompt.

    Attributes:
      pool: number of distinct training prompts; None for unlimited fresh prompts.
      function_pool: number of distinct training functions; None for unlimited fresh functions.
    """

    in_config: ClassVar[InConfig] = InConfig(
        {"label_scale": "weight_scale"}, hidden=("renormalised",), unions={"functions": FUNCTIONS}
    )
    # Training uses only distributions whose queries are the next inputs of the prompt.
    family: Annotated[
        str, OneOf(tuple(name for name, distribution in PROMPT_DISTRIBUTIONS.items() if distribution.in_order))
    ] = "standard"
    pool: PoolSize | None = None
    function_pool: PoolSize | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.pool is not None and self.function_pool is not None:
            raise ValueError(
                f"function_pool={self.function_pool} cannot be combined with task.pool={self.pool}, whose prompts fix "
                "their functions; give only one of both"
            )

    @property
    def law(self) -> FunctionRegression:
        """The task of the library that prompts are drawn from."""
        return plain(self, FunctionRegression)

    def trained_on(self, seed: int) -> FunctionRegression | FinitePrefixPool:
        """The task that training draws from: `law`, `law` on a pool of functions, or a pool of its prompts.

        Args:
          seed: determines the functions or prompts of the pool.

        Returns:
          A task of the library.
        """
        if self.function_pool is not None:
            return replace(self.law, functions=FunctionPool(self.functions, self.function_pool, seed))
        return self.law if self.pool is None else FinitePrefixPool(self.law, self.pool, seed)


TASKS = (Regression, Elementwise, Sine, Functions)
_MODEL = ("clip", "shared", "init_scale", "attention", "dtype", *Modification._fields)


@dataclass(frozen=True)
class Network(TransformerConfig):
    """Self-attention as in von Oswald et al. (2212.07677).

    Attributes:
      layout: how a prompt is encoded as tokens: "concatenated" has one token (x, y) per example, "interleaved" has
        separate tokens x and y.
    """

    name: ClassVar[str] = "von_oswald"
    in_config: ClassVar[InConfig] = InConfig(
        {"name": "style"},
        hidden=("d_token", "init", "causal", "pre_norm", "block_mlp_width", "biases", "n_positions", "d_read_out"),
    )
    d_token: Size | None = None  # pyright: ignore[reportIncompatibleVariableOverride] - set by the layout
    layout: Annotated[str, OneOf(("concatenated", "interleaved"))] = "concatenated"

    def transformer(self, law: Any, **swept: Any) -> TransformerConfig:
        """The Transformer for a task.

        Args:
          law: the task of the library.
          swept: tuples of values for the fields in which the members of a population differ.

        Returns:
          The configuration of the Transformer.
        """
        d_token = LAYOUTS[self.layout](law.d_input, law.d_output).d_token
        return plain(self, TransformerConfig, d_token=d_token, **swept)


@dataclass(frozen=True)
class GPT2:
    """A causal Transformer like GPT-2: pre-LayerNorm, biases, MLPs of width 4 d_embed, learned positions and read-out.

    Attributes:
      d_embed: width of the residual stream; a multiple of n_heads.
      n_layers: number of layers.
      n_heads: number of heads per layer.
      shared: one set of weights for all layers instead of one per layer.
      clip: residuals are clipped to [-clip, clip] after every layer; None for no clipping.
      init_scale: variance of the initial weights.
      attention: a kind of attention for all layers, or one per layer; "mixed" learns the fraction of softmax.
      alpha: regularisation: attention to the own token is multiplied by 1 - alpha; None disables it.
      beta: negative samples: beta times the mean value of the negative samples is subtracted from every value; None
        disables them. Needs share.
      share: fraction of the other examples that are negative samples, those with the lowest scores. Needs beta.
      augment_keys: augmentation: every key z is replaced by z + augment_keys * MLP(z); None disables it.
      augment_values: augmentation of values, likewise; None disables it.
      dtype: type of the activations, "float32" or "bfloat16"; None for the type of the parameters.
    """

    name: ClassVar[str] = "gpt2"
    in_config: ClassVar[InConfig] = InConfig({"name": "style"})
    layout: ClassVar[str] = "alternating"
    d_embed: Size = 256
    n_layers: Annotated[int, Ge(1), Le(MOST_LAYERS)] = 12
    n_heads: Size = 8
    shared: bool = False
    clip: Annotated[float, Gt(0)] | None = None
    init_scale: Annotated[Values, Gt(0), Le(LARGEST)] = 4e-4
    attention: Annotated[str | tuple[str, ...], OneOf(KINDS)] = "softmax"
    alpha: Alpha = None
    beta: Fraction = None
    share: Share = None
    augment_keys: Fraction = None
    augment_values: Fraction = None
    dtype: Annotated[str, OneOf(DTYPES)] | None = None

    def __post_init__(self):
        check(self)
        if self.d_embed % self.n_heads:
            raise ValueError(
                f"d_embed={self.d_embed} must be a multiple of model.n_heads={self.n_heads}, because every head gets "
                "an equal part"
            )
        self.transformer(_ANY)

    def transformer(self, law: Any, **swept: Any) -> TransformerConfig:
        """The Transformer for a task.

        Args:
          law: the task of the library.
          swept: tuples of values for the fields in which the members of a population differ.

        Returns:
          The configuration of the Transformer.
        """
        of_style = gpt2_config(
            LAYOUTS[self.layout](law.d_input, law.d_output).d_token,
            2 * law.n_context + 1,
            self.d_embed,
            self.n_layers,
            self.n_heads,
            d_read_out=law.d_output,
        )
        return replace(of_style, **{name: getattr(self, name) for name in _MODEL} | swept)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of attention of each layer."""
        return self.transformer(_ANY).kinds


_ANY = FunctionRegression(FUNCTIONS["linear"](1), 1)  # the layers of a GPT-2 do not depend on the task
MODELS: Mapping[str, type] = {each.name: each for each in (Network, GPT2)}


@dataclass(frozen=True)
class Train(TrainSettings):
    """How a population is trained.

    Attributes:
      active_inputs: curriculum over the number of non-zero inputs: (start, increase, steps between increases); () for
        no curriculum. Needs model.style=gpt2.
      active_points: curriculum over the number of points of a prompt, in the same form; () for no curriculum.
      parallel: use of several devices: "none", "jit", "pmap", or "auto", as many devices as divide the work evenly.
      log_every: steps between two rows of metrics.
      checkpoint_every: steps between two checkpoints.
      keep_checkpoints: which checkpoints are kept: "last" for the last two, "all" for all including step 0, or "log"
        for steps 0, 1, 2, 4, 8, ...
      start: a workdir, a checkpoint of it, or a directory written by `save_pretrained`, from whose weights training
        starts; None for random weights.
      wandb: the Weights & Biases project that metrics are also logged to; None for no logging there.
    """

    in_config: ClassVar[InConfig] = InConfig(
        hidden=("curriculum",), free=("parallel", "log_every", "checkpoint_every", "wandb")
    )
    active_inputs: Stage = ()
    active_points: Stage = ()
    parallel: Annotated[str, OneOf(MODES)] = "auto"
    log_every: Size = 100
    checkpoint_every: Size = 1000
    keep_checkpoints: Annotated[str, OneOf(KEEP)] = "last"
    start: str | None = None
    wandb: str | None = None

    def ramps(self, law: Any) -> dict[str, tuple[Any, int]]:
        """The curricula that are set: (start, increase, steps between increases), and the value at which each ends."""
        ends = {"active_inputs": law.d_input, "active_points": law.n_context + 1}
        return {name: (getattr(self, name), end) for name, end in ends.items() if getattr(self, name)}

    def settings(self, law: Any, **swept: Any) -> TrainSettings:
        """The training settings for a task.

        Args:
          law: the task of the library.
          swept: tuples of values for the fields in which the members of the population differ.

        Returns:
          Settings for `icl_gd.train`.
        """
        return plain(self, TrainSettings, curriculum=self._curriculum(law), **swept)

    def _curriculum(self, law: Any) -> Curriculum | None:
        if not (ramps := self.ramps(law)):
            return None
        inputs, points = Ramp(law.d_input, law.d_input), Ramp(law.n_context + 1, law.n_context + 1)
        ramp_of = {"active_inputs": inputs, "active_points": points}
        ramp_of |= {name: Ramp(stage[0], end, *stage[1:]) for name, (stage, end) in ramps.items()}
        return Curriculum(ramp_of["active_inputs"], ramp_of["active_points"])


@dataclass(frozen=True)
class Eval:
    """What a population is evaluated on.

    Attributes:
      prompts: number of prompts for the final metrics.
      curve_prompts: number of prompts for curves over training and for alignment.
      suite_values: the largest number of values per evaluation suite (shifts, prompt distributions or steps); None for
        all values.
      n_context: number of examples before the last query of an evaluation prompt, for references that predict after
        every prefix; None for the number in training. Means over prompt lengths include all evaluated lengths.
    """

    prompts: Annotated[int, Ge(1), Le(10**9)] = 2**20
    curve_prompts: Size = 10_000
    suite_values: Size | None = None
    n_context: Size | None = None

    def __post_init__(self):
        check(self)
