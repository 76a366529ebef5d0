"""The parts of an experiment: the library's own dataclasses, with what a run adds to them.

A part says by `in_config` what a command line and config.json have otherwise than its dataclass does.
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

Stage = tuple[Size, Size, Size] | tuple[()]  # (start, increase, every so many steps)


class InConfig(NamedTuple):
    """What a command line and config.json have otherwise than the dataclass of a part.

    Attributes:
      names: attribute -> name, in the section of the part (`weight_scale`), or with its section (`eval.suite`).
      hidden: attributes that follow from others, and cannot be given.
      free: attributes that do not change the weights, and may differ between a run and its resume.
      unions: attributes that hold a part of one of several classes, by the word that chooses it; its fields are those
        of the section.
    """

    names: Mapping[str, str] = MappingProxyType({})
    hidden: tuple[str, ...] = ()
    free: tuple[str, ...] = ()
    unions: Mapping[str, Mapping[str, Any]] = MappingProxyType({})


def in_config(of: type) -> InConfig:
    """What a class says of its fields; nothing, if it is not one of ours."""
    return getattr(of, "in_config", InConfig())


def plain(value: Any, of: type, **changed: Any) -> Any:
    """A part as the class of the library that it extends."""
    return of(**{field.name: getattr(value, field.name) for field in fields(of)} | changed)


@dataclass(frozen=True)
class Regression(LinearRegression):
    """Linear regression.

    Attributes:
      eigenvalues: of the inputs' covariance, one per dimension; () for independent coordinates.
      rotation_seed: draws the covariance's eigenvectors; None takes the axes.
      pool: prompts that training recycles; None draws every prompt afresh.
    """

    name: ClassVar[str] = "linear"
    in_config: ClassVar[InConfig] = InConfig(hidden=("covariance",))
    eigenvalues: tuple[Annotated[float, Gt(0), Le(LARGEST)], ...] | tuple[()] = ()
    rotation_seed: Annotated[int, Ge(0)] | None = None
    pool: PoolSize | None = None

    def __post_init__(self):
        check(self)
        if self.eigenvalues and len(self.eigenvalues) != self.d_input:
            raise ValueError(f"eigenvalues has {len(self.eigenvalues)} values, task.d_input={self.d_input}")
        if self.rotation_seed is not None and not self.eigenvalues:
            raise ValueError(
                f"rotation_seed={self.rotation_seed} rotates a covariance: give task.eigenvalues, or leave it None"
            )
        super().__post_init__()

    @cached_property
    def law(self) -> LinearRegression:
        """What prompts are drawn from."""
        if not self.eigenvalues:
            return plain(self, LinearRegression)
        basis = np.eye(self.d_input)
        if self.rotation_seed is not None:
            basis, _ = np.linalg.qr(np.random.default_rng(self.rotation_seed).normal(size=basis.shape))
        covariance = ((basis * np.asarray(self.eigenvalues)) @ basis.T).tolist()
        return plain(self, LinearRegression, covariance=tuple(map(tuple, covariance)))

    def trained_on(self, seed: int) -> LinearRegression | FinitePool:
        """What training draws from: the law, or a pool of its prompts."""
        return self.law if self.pool is None else FinitePool(self.law, self.pool, seed)


@dataclass(frozen=True)
class Elementwise(ElementwiseRegression):
    """Regression that is linear in a function of every input."""

    in_config: ClassVar[InConfig] = InConfig({"function": "name"})

    @property
    def law(self) -> ElementwiseRegression:
        return plain(self, ElementwiseRegression)


@dataclass(frozen=True)
class Sine(SineRegression):
    """Sine waves."""

    name: ClassVar[str] = "sine"

    @property
    def law(self) -> SineRegression:
        return plain(self, SineRegression)


@dataclass(frozen=True)
class Functions(FunctionRegression):
    """A class of functions, whose prompts are problems at every length.

    Attributes:
      pool: prompts that training recycles; None draws every prompt afresh.
      function_pool: functions that training recycles; None draws every function afresh.
    """

    in_config: ClassVar[InConfig] = InConfig(
        {"label_scale": "weight_scale"}, hidden=("renormalised",), unions={"functions": FUNCTIONS}
    )
    # Training predicts inputs to come.
    family: Annotated[str, OneOf(tuple(name for name, its in PROMPT_DISTRIBUTIONS.items() if its.in_order))] = (
        "standard"
    )
    pool: PoolSize | None = None
    function_pool: PoolSize | None = None

    def __post_init__(self):
        super().__post_init__()
        if self.pool is not None and self.function_pool is not None:
            raise ValueError(
                f"function_pool={self.function_pool}: the prompts of task.pool have their functions; give one of both"
            )

    @property
    def law(self) -> FunctionRegression:
        return plain(self, FunctionRegression)

    def trained_on(self, seed: int) -> FunctionRegression | FinitePrefixPool:
        """What training draws from: the law, that of a pool of functions, or a pool of its prompts."""
        if self.function_pool is not None:
            return replace(self.law, functions=FunctionPool(self.functions, self.function_pool, seed))
        return self.law if self.pool is None else FinitePrefixPool(self.law, self.pool, seed)


TASKS = (Regression, Elementwise, Sine, Functions)
_MODEL = ("clip", "shared", "init_scale", "attention", "dtype", *Modification._fields)


@dataclass(frozen=True)
class Network(TransformerConfig):
    """Self-attention as in von Oswald et al.

    Attributes:
      layout: how a prompt becomes tokens: "concatenated" (x, y), or "interleaved", which holds x and y apart.
    """

    name: ClassVar[str] = "von_oswald"
    in_config: ClassVar[InConfig] = InConfig(
        {"name": "style"},
        hidden=("d_token", "init", "causal", "pre_norm", "block_mlp_width", "biases", "n_positions", "d_read_out"),
    )
    d_token: Size | None = None  # pyright: ignore[reportIncompatibleVariableOverride] - follows from the layout
    layout: Annotated[str, OneOf(("concatenated", "interleaved"))] = "concatenated"

    def transformer(self, law: Any, **swept: Any) -> TransformerConfig:
        """The Transformer for a task, with tuples for what members of a population differ in."""
        d_token = LAYOUTS[self.layout](law.d_input, law.d_output).d_token
        return plain(self, TransformerConfig, d_token=d_token, **swept)


@dataclass(frozen=True)
class GPT2:
    """A causal Transformer like GPT-2: LayerNorms, biases, perceptrons of 4 d_embed, learned positions and read-out.

    Attributes:
      d_embed: width of the residual, which the heads share.
      n_layers, n_heads: sizes of the stack.
      shared: one set of weights for all layers instead of one per layer.
      clip: residuals are clipped to [-clip, clip] after every layer; None leaves them alone.
      init_scale: standard deviation of weights at the start, squared.
      attention: a kind in `attention.KINDS` ("mixed" learns how much of it is softmax), or one per layer.
      alpha, beta, share, augment_keys, augment_values: of attention, see `models.Modification`.
      dtype: the type of activations, "float32" or "bfloat16"; None takes that of the parameters.
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
                f"d_embed={self.d_embed}: a width that model.n_heads={self.n_heads} divides: heads share it"
            )
        self.transformer(_ANY)

    def transformer(self, law: Any, **swept: Any) -> TransformerConfig:
        """The Transformer for a task, with tuples for what members of a population differ in."""
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
        """The attention of each layer."""
        return self.transformer(_ANY).kinds


_ANY = FunctionRegression(FUNCTIONS["linear"](1), 1)  # whatever the task, a GPT-2 has the same layers
MODELS: Mapping[str, type] = {its.name: its for its in (Network, GPT2)}


@dataclass(frozen=True)
class Train(TrainSettings):
    """How a population is trained.

    Attributes:
      active_inputs: (start, increase, every so many steps) of a curriculum over inputs; () has all from the start.
      active_points: likewise of the points of a prompt.
      parallel: over devices: "none", "jit", "pmap", or "auto", as many as divide the work.
      log_every: steps from one row of metrics to the next.
      checkpoint_every: steps from one checkpoint to the next.
      keep_checkpoints: which stay: the "last" two; "all", the initial weights too; or "log", at 0, 1, 2, 4, 8, ...
        steps.
      start: a workdir, one of its checkpoints, or a directory of `save_pretrained`, whose weights training starts from;
        None draws them.
      wandb: the project of Weights & Biases that metrics are logged to as well; None logs to none.
    """

    in_config: ClassVar[InConfig] = InConfig(
        hidden=("curriculum",), free=("parallel", "log_every", "checkpoint_every", "keep_checkpoints", "wandb")
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
        """The stages of every curriculum that is asked for, with the value that it ends at."""
        every = {"active_inputs": law.d_input, "active_points": law.n_context + 1}
        return {name: (getattr(self, name), end) for name, end in every.items() if getattr(self, name)}

    def settings(self, law: Any, **swept: Any) -> TrainSettings:
        """How a population is trained on a task, with tuples for what its members differ in."""
        return plain(self, TrainSettings, curriculum=self._curriculum(law), **swept)

    def _curriculum(self, law: Any) -> Curriculum | None:
        if not (ramps := self.ramps(law)):
            return None
        whole = {"active_inputs": law.d_input, "active_points": law.n_context + 1}
        ramp_of = {name: Ramp(end, end) for name, end in whole.items()}
        ramp_of |= {name: Ramp(stage[0], end, *stage[1:]) for name, (stage, end) in ramps.items()}
        return Curriculum(ramp_of["active_inputs"], ramp_of["active_points"])


@dataclass(frozen=True)
class Eval:
    """What a population is measured on.

    Attributes:
      prompts: of the final numbers.
      curve_prompts: of curves over training and of alignment.
      suite_values: at most so many of the shifts in a suite, of families, or of steps; None takes all.
      n_context: examples before the last query of a prompt, where the reference is of prefixes; None has those of
        training. Means over lengths are over all that are measured.
    """

    prompts: Annotated[int, Ge(1), Le(10**9)] = 2**20
    curve_prompts: Size = 10_000
    suite_values: Size | None = None
    n_context: Size | None = None

    def __post_init__(self):
        check(self)
