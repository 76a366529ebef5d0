"""The parts of an experiment: the dataclasses of the library, extended by the fields that only a run needs.

The class attribute `in_config` of a part describes how its attributes become fields of the command line and of
config.json.
"""

import re
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
from icl_gd.models.modifications import UNMODIFIED, Modification, Values
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
    """How the attributes of a part become fields of the command line and of config.json.

    Attributes:
      names: for every attribute whose field has another name: the name of the field. A name without a section
        (`weight_scale`) is in the section of the part; `eval.suite` is in the section `eval`.
      hidden: attributes without a field, because their values follow from other fields.
      free: attributes that do not change the trained weights. A run may be resumed with other values.
      unions: for every attribute that accepts instances of several classes: a mapping from the word that selects a
        class on the command line to the class. The attributes of the value become fields of the section.
      parts: for every attribute whose value is a dataclass: its class, and the names of fields as in `names`. The
        attributes of the value become fields of the section.
    """

    names: Mapping[str, str] = MappingProxyType({})
    hidden: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    unions: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    parts: Mapping[str, tuple[type, Mapping[str, str]]] = MappingProxyType({})


def in_config(of: type) -> InConfig:
    """The `in_config` of a class. If the class has none, the default `InConfig()`."""
    return getattr(of, "in_config", InConfig())


def plain(value: Any, of: type, **changed: Any) -> Any:
    """Converts a part to the library class that it extends, with some fields changed.

    Args:
      value: the part.
      of: the library class.
      changed: new values of fields.

    Returns:
      An instance of `of`.
    """
    return of(**{field.name: getattr(value, field.name) for field in fields(of)} | changed)


@dataclass(frozen=True)
class Regression(LinearRegression):
    """Linear regression.

    Attributes:
      eigenvalues: eigenvalues of the covariance of the inputs, one per input dimension; () for independent coordinates.
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
    def library_task(self) -> LinearRegression:
        """The library task from which prompts are drawn."""
        if not self.eigenvalues:
            return plain(self, LinearRegression)
        basis = np.eye(self.d_input)
        if self.rotation_seed is not None:
            basis, _ = np.linalg.qr(np.random.default_rng(self.rotation_seed).normal(size=basis.shape))
        covariance = ((basis * np.asarray(self.eigenvalues)) @ basis.T).tolist()
        return plain(self, LinearRegression, covariance=tuple(map(tuple, covariance)))

    def training_source(self, seed: int) -> LinearRegression | FinitePool:
        """The task that training draws from: `library_task`, or a pool of its prompts.

        Args:
          seed: determines the prompts of the pool.

        Returns:
          A library task.
        """
        return self.library_task if self.pool is None else FinitePool(self.library_task, self.pool, seed)


@dataclass(frozen=True)
class Elementwise(ElementwiseRegression):
    """Regression on labels that are linear in a function of each input coordinate."""

    in_config: ClassVar[InConfig] = InConfig({"function": "name"})

    @property
    def library_task(self) -> ElementwiseRegression:
        """The library task from which prompts are drawn."""
        return plain(self, ElementwiseRegression)


@dataclass(frozen=True)
class Sine(SineRegression):
    """Regression on sine waves."""

    name: ClassVar[str] = "sine"

    @property
    def library_task(self) -> SineRegression:
        """The library task from which prompts are drawn."""
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
                "their functions; give only one of the two"
            )

    @property
    def library_task(self) -> FunctionRegression:
        """The library task from which prompts are drawn."""
        return plain(self, FunctionRegression)

    def training_source(self, seed: int) -> FunctionRegression | FinitePrefixPool:
        """The task that training draws from: `library_task`, with a pool of functions if set, or a pool of its prompts.

        Args:
          seed: determines the functions or prompts of the pool.

        Returns:
          A library task.
        """
        if self.function_pool is not None:
            return replace(self.library_task, functions=FunctionPool(self.functions, self.function_pool, seed))
        return self.library_task if self.pool is None else FinitePrefixPool(self.library_task, self.pool, seed)


TASKS = (Regression, Elementwise, Sine, Functions)
# The config names of the attention modifications are those of Ren & Liu.
MODIFICATION = MappingProxyType({"query_damping": "alpha", "negative_weight": "beta", "negative_fraction": "share"})
# Attributes of GPT2 that are passed to the TransformerConfig unchanged.
_PASSED_ON = ("clip", "shared", "init_scale", "attention", "dtype", "modification")


def with_config_names(message: str) -> str:
    """Replaces names such as `query_damping=` in an error message of the library by the names of the config fields."""
    return re.sub(rf"\b({'|'.join(MODIFICATION)})=", lambda match: f"{MODIFICATION[match[1]]}=", message)


@dataclass(frozen=True)
class Network(TransformerConfig):
    """Self-attention as in von Oswald et al. (2212.07677).

    Attributes:
      layout: how a prompt is encoded as tokens: "concatenated" has one token (x, y) per example, "interleaved" has
        separate tokens for x and y.
    """

    name: ClassVar[str] = "von_oswald"
    in_config: ClassVar[InConfig] = InConfig(
        {"name": "style"},
        parts={"modification": (Modification, MODIFICATION)},
        hidden=("d_token", "init", "causal", "pre_norm", "block_mlp_width", "biases", "n_positions", "d_read_out"),
    )
    d_token: Size | None = None  # pyright: ignore[reportIncompatibleVariableOverride] - set by the layout
    layout: Annotated[str, OneOf(("concatenated", "interleaved"))] = "concatenated"

    def transformer(self, task: Any, **swept: Any) -> TransformerConfig:
        """The Transformer for a task.

        Args:
          task: the library task.
          swept: tuples of values for the fields in which the members of a population differ.

        Returns:
          The config of the Transformer.
        """
        d_token = LAYOUTS[self.layout](task.d_input, task.d_output).d_token
        return plain(self, TransformerConfig, d_token=d_token).with_values(swept)


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
      modification: strengths of the attention modifications.
      dtype: type of the activations, "float32" or "bfloat16"; None for the type of the parameters.
    """

    name: ClassVar[str] = "gpt2"
    in_config: ClassVar[InConfig] = InConfig({"name": "style"}, parts={"modification": (Modification, MODIFICATION)})
    layout: ClassVar[str] = "alternating"
    d_embed: Size = 256
    n_layers: Annotated[int, Ge(1), Le(MOST_LAYERS)] = 12
    n_heads: Size = 8
    shared: bool = False
    clip: Annotated[float, Gt(0)] | None = None
    init_scale: Annotated[Values, Gt(0), Le(LARGEST)] = 4e-4
    attention: Annotated[str | tuple[str, ...], OneOf(KINDS)] = "softmax"
    modification: Modification = UNMODIFIED
    dtype: Annotated[str, OneOf(DTYPES)] | None = None

    def __post_init__(self):
        check(self)
        if self.d_embed % self.n_heads:
            raise ValueError(
                f"d_embed={self.d_embed} must be a multiple of model.n_heads={self.n_heads}, because every head gets "
                "an equal part"
            )
        self.transformer(_ANY_TASK)

    def transformer(self, task: Any, **swept: Any) -> TransformerConfig:
        """The Transformer for a task.

        Args:
          task: the library task.
          swept: tuples of values for the fields in which the members of a population differ.

        Returns:
          The config of the Transformer.
        """
        config = gpt2_config(
            LAYOUTS[self.layout](task.d_input, task.d_output).d_token,
            2 * task.n_context + 1,
            self.d_embed,
            self.n_layers,
            self.n_heads,
            d_read_out=task.d_output,
        )
        return replace(config, **{name: getattr(self, name) for name in _PASSED_ON}).with_values(swept)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of attention of each layer."""
        return self.transformer(_ANY_TASK).kinds


_ANY_TASK = FunctionRegression(FUNCTIONS["linear"](1), 1)  # sufficient for a GPT2, whose layers do not depend on it
MODELS: Mapping[str, type] = {each.name: each for each in (Network, GPT2)}


@dataclass(frozen=True)
class Train(TrainSettings):
    """Training settings of a population.

    Attributes:
      active_inputs: curriculum over the number of input coordinates that are not set to zero: (start, increase, steps
        between increases); () for no curriculum. Needs model.style=gpt2.
      active_points: curriculum over the number of points of a prompt (the examples and the query), in the same form;
        () for no curriculum. Needs model.style=gpt2.
      parallel: how several devices are used: "none" for one device, "jit", "pmap", or "auto" for jit on as many devices
        as divide the work evenly.
      log_every: steps between two rows of metrics.
      checkpoint_every: steps between two checkpoints.
      keep_checkpoints: which checkpoints are kept: "last" for the last two, "all" for all including step 0, or "log"
        for steps 0, 1, 2, 4, 8, ...
      start: where the initial weights are read from: a workdir, one of its checkpoints, or a directory written by
        `Model.save`; None for random weights.
      wandb: the Weights & Biases project to which metrics are also logged; None for no project.
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

    def ramps(self, task: Any) -> dict[str, tuple[Any, int]]:
        """The enabled curricula by name: ((start, increase, steps between increases), the value at which it ends)."""
        ends = {"active_inputs": task.d_input, "active_points": task.n_context + 1}
        return {name: (getattr(self, name), end) for name, end in ends.items() if getattr(self, name)}

    def settings(self, task: Any, **swept: Any) -> TrainSettings:
        """The training settings for a task.

        Args:
          task: the library task.
          swept: tuples of values for the fields in which the members of the population differ.

        Returns:
          Settings for `icl_gd.train`.
        """
        return plain(self, TrainSettings, curriculum=self._curriculum(task), **swept)

    def _curriculum(self, task: Any) -> Curriculum | None:
        if not (ramps := self.ramps(task)):
            return None
        inputs, points = Ramp(task.d_input, task.d_input), Ramp(task.n_context + 1, task.n_context + 1)
        ramp_of = {"active_inputs": inputs, "active_points": points}
        ramp_of |= {name: Ramp(stage[0], end, *stage[1:]) for name, (stage, end) in ramps.items()}
        return Curriculum(ramp_of["active_inputs"], ramp_of["active_points"])


@dataclass(frozen=True)
class Eval:
    """Evaluation settings of a population.

    Attributes:
      prompts: number of prompts for the final metrics.
      curve_prompts: number of prompts for curves over training and for alignment.
      suite_values: the largest number of evaluated values per suite (shifts, prompt distributions or steps); None for
        all values.
      n_context: number of examples in an evaluation prompt; None for the number in training. Only references that
        predict after every prefix accept a number. Means over prompt lengths include all evaluated lengths.
    """

    prompts: Annotated[int, Ge(1), Le(10**9)] = 2**20
    curve_prompts: Size = 10_000
    suite_values: Size | None = None
    n_context: Size | None = None

    def __post_init__(self):
        check(self)
