"""Classes and functions accept the values that their annotations allow, and refuse all others in a one-line error.

The cases are generated from the annotations. A new field or a new public function needs no new test; a new class must
be added to `BUILT`. Arguments of functions are checked if they are numbers, strings or booleans.
"""

import doctest
import importlib
import inspect
import math
import pkgutil
from dataclasses import fields, is_dataclass, replace

import annotated_types
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import icl_gd
from icl_gd import analysis, constructions, dual, identification, lab, learners, models, schema, tasks, tokens, training
from icl_gd.schema import OneOf, hints
from icl_gd.tasks import elementwise, functions, linear, nonlinear, pools, regression, tables

LINEAR = linear.LinearRegression()
BUILT = [
    LINEAR,
    elementwise.ElementwiseRegression(),
    nonlinear.SineRegression(),
    regression.FunctionRegression(functions.Linear()),
    functions.Linear(),
    functions.Sparse(),
    functions.Quadratic(),
    functions.Polynomial(),
    functions.Affine(),
    functions.Chebyshev(),
    functions.Signs(),
    functions.ReLUNetwork(),
    functions.DecisionTree(),
    functions.FunctionPool(functions.Linear(), 3),
    pools.FinitePool(LINEAR, 3),
    pools.FinitePrefixPool(regression.FunctionRegression(functions.Linear()), 3),
    tables.Table(np.ones((4, 2)), np.ones((4, 1)), 2),
    models.TransformerConfig(3, attend_to_query=True),
    models.Modification(negative_weight=0.5, negative_fraction=0.25),
    training.TrainSettings(),
    training.Ramp(1, 2),
    training.Curriculum(training.Ramp(1, 2), training.Ramp(1, 2)),
]
# Fields that must also agree with other fields, so a value at its bound may be refused.
TOGETHER = {"end", "d_input", "n_layers", "negative_weight", "negative_fraction", "warmup"}


def public_dataclasses():
    """All public dataclasses that are defined in tasks, models and training."""
    for package in (tasks, models, training):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for name, value in vars(importlib.import_module(module.name)).items():
                is_defined_here = isinstance(value, type) and value.__module__ == module.name and is_dataclass(value)
                if is_defined_here and not name.startswith("_"):
                    yield value


NOT_MADE_BY_USERS = {
    training.Population,
    training.mesh.Placement,
    models.attention.SelfAttention,
    models.Model,
    models.edits.Edit,
}


def test_every_class_is_covered():
    assert {type(one) for one in BUILT} == set(public_dataclasses()) - NOT_MADE_BY_USERS


def bad_values(hint):
    """Values that an annotation refuses, derived from its kinds and its rules."""
    kinds, rules = schema.kinds(hint), schema.rules(hint)
    yield [1, 2]
    yield {"a": 1}
    if type(None) not in kinds:
        yield None
    if not {int, float} & set(kinds):
        yield 3.5
    else:
        yield from ("three", True, math.nan, -math.inf, math.inf, np.float32("nan"), 1j, b"1")
        if float not in kinds:
            yield from (2.5, 2.0, np.float64(3.0))
    if str in kinds:
        yield 1
        if any(isinstance(rule, schema.OneOf) for rule in rules):
            yield "nonsense"
    elif not {int, float} & set(kinds):
        yield "nonsense"
    for rule in rules:
        match rule:
            case annotated_types.Ge(low):
                yield from (low - 1, np.int64(low - 1))
            case annotated_types.Gt(low):
                yield from (low, -1)
            case annotated_types.Le(high):
                yield from (2 * high + 1, np.float64(2 * high + 1)) if float in kinds else (2 * high + 1,)
            case annotated_types.Lt(high):
                yield from (high, high + 1)


def over(cases, group):
    """Decorator: a test of all cases, one pytest test per group. One pytest test per case would be slower."""

    def decorate(test):
        groups = {}
        for case in cases:
            groups.setdefault(group(*case), []).append(case)

        @pytest.mark.parametrize("name", groups)
        def each(name):
            for case in groups[name]:
                try:
                    test(*case)
                except BaseException as error:
                    error.add_note(f"of {case!r}")
                    raise

        each.__name__, each.__doc__ = test.__name__, test.__doc__
        return each

    return decorate


def by_class(one, *more):
    return type(one).__name__


def by_name(name, *more):
    return str(name)


CASES = [
    (one, field.name, value)
    for one in BUILT
    for field in fields(one)
    for value in bad_values(hints(type(one))[field.name])
]


def test_there_are_many_cases():
    assert len(CASES) >= 300


@over(CASES, by_class)
def test_bad_values_are_refused_in_one_line(one, field, value):
    with pytest.raises(ValueError) as refused:
        replace(one, **{field: value})
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"{field}={value!r} must be ")
    assert len(message) > len(f"{field}={value!r} must be ")


@pytest.mark.parametrize("one", BUILT, ids=lambda one: type(one).__name__)
def test_bounds_and_words_are_accepted(one):
    for field, hint in hints(type(one)).items():
        for rule in schema.rules(hint):
            values = rule.words if isinstance(rule, OneOf) else ()
            match rule:
                case annotated_types.Ge(limit) | annotated_types.Le(limit):
                    values = (float(limit) if float in schema.kinds(hint) else limit,)
            for value in values:
                schema.check_value(field, value, hint)
                if field not in TOGETHER:
                    assert getattr(replace(one, **{field: value}), field) == value


def test_what_is_not_known_yet_passes():
    """A traced value passes unchecked; a traced size is refused, because sizes must be known."""
    traced = jax.jit(lambda scale: jnp.zeros(()) * replace(LINEAR, input_scale=scale).input_scale)(-1.0)
    assert traced == 0.0
    with pytest.raises(ValueError, match="n_context="):
        jax.jit(lambda n: replace(LINEAR, n_context=n).n_context)(3)


def test_a_word_that_is_nearly_right_is_suggested():
    with pytest.raises(ValueError, match=r"inputs='nomal' must be one of uniform, .*; did you mean normal\?"):
        icl_gd.LinearRegression(inputs="nomal")


def test_every_item_of_a_tuple_is_checked_and_all_of_them_together():
    for values in ((), (0.1, -1.0), (0.1, "a"), (0.1, math.nan)):
        with pytest.raises(ValueError, match=r"learning_rate=\(.* must be a number above 0 .*, or a tuple of these"):
            training.TrainSettings(learning_rate=values)
    assert training.TrainSettings(learning_rate=(0.1, 0.2)).learning_rate == (0.1, 0.2)


# --- functions ---

PACKAGES = analysis, constructions, dual, identification, learners, models, tasks, tokens, training


def public_functions():
    """Yields the dotted name of each public function, the function, and whether its package exports it."""
    for package in PACKAGES:
        submodules = [
            importlib.import_module(module.name)
            for module in pkgutil.iter_modules(getattr(package, "__path__", ()), f"{package.__name__}.")
        ]
        for module in (package, *submodules):
            for name, value in vars(module).items():
                is_defined_here = inspect.isroutine(inspect.unwrap(value)) and value.__module__ == module.__name__
                if is_defined_here and not name.startswith("_"):
                    is_exported = getattr(getattr(package, name, None), "__module__", None) == module.__name__
                    yield f"{module.__name__}.{name}", value, is_exported


def is_restricted(hint):
    """Whether an annotation restricts the values of its type."""
    return len(schema.rules(hint)) > 0


def accepted_value(hint):
    """A value that an annotation accepts; a number is not at its bound."""
    words = [word for rule in schema.rules(hint) if isinstance(rule, OneOf) for word in rule.words]
    low = max((getattr(rule, "ge", getattr(rule, "gt", -math.inf)) for rule in schema.rules(hint)), default=-math.inf)
    values = *words, "word", True, max(low, 0) + 1, max(low, 0) + 0.5
    return next(value for value in values if schema.accepts(hint, value))


def arguments_with(function, name, value):
    """All required arguments: `value` for `name`, accepted values for other checked ones, `object()` for the rest."""
    hints_of = schema.scalars(function)
    parameters = inspect.signature(function).parameters.values()
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    arguments = {other: accepted_value(hints_of[other]) if other in hints_of else object() for other in required}
    return {**arguments, name: value}


CHECKED = {name: function for name, function, _ in public_functions() if getattr(function, "is_checked", False)}
CASES_OF_FUNCTIONS = [
    (name, argument, value)
    for name, function in CHECKED.items()
    for argument, hint in schema.scalars(function).items()
    for value in bad_values(hint)
    if not schema.accepts(hint, value)  # strings without a list of accepted ones accept every string
]


def test_every_function_with_numbers_or_words_is_checked():
    """Exported functions must be checked, and other functions if their annotations restrict values."""
    scalars_by_name = {
        name: (schema.scalars(function), is_exported) for name, function, is_exported in public_functions()
    }
    required = {
        name
        for name, (scalars, is_exported) in scalars_by_name.items()
        if scalars and (is_exported or any(map(is_restricted, scalars.values())))
    }
    assert required - set(CHECKED) == set()
    assert len(required) >= 60


def test_every_size_of_a_function_has_a_bound():
    """The only integers without a bound are positions, which may be negative: they count from the end."""
    unbounded = {
        argument
        for function in CHECKED.values()
        for argument, hint in schema.scalars(function).items()
        if schema.kinds(hint)[0] is int and not is_restricted(hint)
    }
    assert unbounded == {"offset", "query"}


def test_there_are_many_cases_of_functions():
    assert len(CASES_OF_FUNCTIONS) >= 1000


@over(CASES_OF_FUNCTIONS, by_name)
def test_functions_refuse_bad_values(name, argument, value):
    with pytest.raises(ValueError) as refused:
        CHECKED[name](**arguments_with(CHECKED[name], argument, value))
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(f"{argument}={value!r} must be ")
    assert len(message) > len(f"{argument}={value!r} must be ")


def test_a_checked_function_is_the_function():
    """`checked` does not change results, tracing, signature, cache or TypeErrors."""
    problem = jnp.eye(2), jnp.ones((2, 1)), jnp.ones(2)
    plain = learners.ridge(penalty=0.5)(*problem)
    np.testing.assert_array_equal(learners.ridge(0.5)(*problem), plain)
    np.testing.assert_allclose(jax.jit(lambda penalty: learners.ridge(penalty)(*problem))(0.5), plain)
    assert list(inspect.signature(learners.ridge).parameters) == ["penalty"]
    assert tokens.alternating(2, 1) is tokens.alternating(2, 1)  # results are cached
    for arguments, name in (({}, "penalty"), ({"penalty": 1.0, "nonsense": 1}, "nonsense")):
        with pytest.raises(TypeError, match=name):
            learners.ridge(**arguments)


def test_the_examples_are_true():
    for documented in (schema, schema.checked):
        example = doctest.DocTestParser().get_doctest(
            documented.__doc__, dict(vars(schema)), documented.__name__, None, None
        )
        assert example.examples
        assert doctest.DocTestRunner().run(example).failed == 0


# --- experiments and their parts ---

EXPERIMENT = lab.Experiment(lab.Regression(), lab.Network(), lab.GradientDescent())
CLAIM = {"id": "A", "statement": "it is small", "metric": "loss_trained", "source": "here", "at_most": 1.0}
PARTS = [
    lab.Regression(),
    lab.Regression(d_input=2, eigenvalues=(1.0, 2.0), rotation_seed=0, pool=3),
    lab.Elementwise(),
    lab.Sine(),
    lab.Functions(functions.Linear()),
    lab.Network(attend_to_query=True),
    lab.GPT2(),
    lab.Train(),
    lab.Train(active_inputs=(1, 1, 1)),
    lab.Eval(),
    lab.GradientDescent(),
    lab.DeepFeatures(),
    lab.PrefixLearners(),
    lab.OneStep(),
]
MADE_OF_FUNCTIONS = {lab.Analysis, lab.Picture, lab.Learners}  # their fields are functions that users write
CASES_OF_PARTS = [
    (one, field.name, value)
    for one in PARTS
    for field in fields(one)
    for value in bad_values(hints(type(one))[field.name])
]
CASES_OF_CLAIMS = [
    (name, value)
    for name, hint in hints(lab.Claim).items()
    if name not in ("relation", "target")  # derived from `within`, `at_least` and `at_most`
    for value in bad_values(hint)
    if not (isinstance(value, str) and schema.accepts(hint, value))  # every string is accepted
]
RELATIONS = [
    ({"at_most": None}, "states no relation; give one of within, at_least, at_most"),
    ({"at_least": 1.0}, "states at_least and at_most; give one of within, at_least, at_most"),
    ({"at_most": None, "within": 1.0}, "within=1.0 must be (target, tolerance)"),
    ({"at_most": None, "within": (1.0, 0.1, 0.2)}, "within=(1.0, 0.1, 0.2) must be (target, tolerance)"),
    ({"at_most": None, "within": (1.0, -0.1)}, "tolerance=-0.1 must be a number of at least 0"),
    *(({"at_most": value}, f"target={value!r} must be a ") for value in bad_values(float) if value is not None),
]
NO_SWEEPS = {"task.n_contxt": (1, 2)}, {3: (1, 2)}, {"depth": (1, 2)}, [1, 2], "a", 3.5, None
OF_EXPERIMENTS = [
    *(
        (name, value, "must be")
        for name in ("seeds", "seed", "precision")
        for value in bad_values(hints(lab.Experiment)[name])
    ),
    *((name, value, "must be") for name in ("model", "train", "eval", "reference") for value in (None, 3, lab.Sine())),
    *(("task", value, "Regression") for value in (None, 3, "a", lab.Sine(), lab.Network(), LINEAR)),
    *(("analyses", value, "alignment, by_steps") for value in ("a", ("a",), ["weights", "a"], (3,), 3.5, None)),
    *(("claims", value, "claim(") for value in ("a", ("a",), [3], ({},), (CLAIM,), 3.5, None)),
    *(("sweep", value, "field") for value in NO_SWEEPS),
]
OF_SWEEPS = [
    *((name, value, "at least one value") for name in EXPERIMENT.sweepable for value in ((), [], 3, 0.5, "a", None)),
    *(
        (name, (value, value), "once")
        for name in EXPERIMENT.sweepable
        for value in (EXPERIMENT[name],)
        if value is not None
    ),
    *(
        (name, (value,), "must be ")
        for name in EXPERIMENT.sweepable
        for value in bad_values(EXPERIMENT.fields[name].hint)
        if value is not None
    ),
    *(
        (name, (1, 2), "takes one value; the fields that can be swept over are task.name, ")
        for name in EXPERIMENT.fields
        if name not in EXPERIMENT.sweepable
    ),
]


def one_line(refused):
    """The message of an exception, which must be one line."""
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_every_part_is_covered():
    exported = [getattr(lab, name) for name in lab.__all__]
    public = {part for part in exported if is_dataclass(part) and isinstance(part, type)}
    assert public - MADE_OF_FUNCTIONS == {*map(type, PARTS), lab.Experiment, lab.Claim}


def test_there_are_many_cases_of_parts():
    assert len(CASES_OF_PARTS) >= 1000
    assert len(CASES_OF_CLAIMS) + len(RELATIONS) >= 50
    assert len(OF_EXPERIMENTS) + len(OF_SWEEPS) >= 300


@over(CASES_OF_PARTS, by_class)
def test_parts_refuse_bad_values(one, field, value):
    with pytest.raises(ValueError) as refused:
        replace(one, **{field: value})
    assert one_line(refused).startswith(f"{field}={value!r} must be ")


@over(CASES_OF_CLAIMS, by_name)
def test_claims_refuse_bad_values(name, value):
    with pytest.raises(ValueError) as refused:
        lab.claim(**CLAIM | {name: value})
    assert one_line(refused).startswith("claim ")
    assert f": {name}={value!r} must be " in one_line(refused)


@pytest.mark.parametrize(("changed", "expected"), RELATIONS, ids=str)
def test_a_claim_states_one_relation(changed, expected):
    with pytest.raises(ValueError) as refused:
        lab.claim(**CLAIM | changed)
    assert one_line(refused).startswith("claim 'A'")
    assert expected in one_line(refused)


@over(OF_EXPERIMENTS, by_name)
def test_experiments_refuse_bad_values(name, value, expected):
    with pytest.raises(ValueError) as refused:
        replace(EXPERIMENT, **{name: value})
    assert (name if name != "sweep" else "") in one_line(refused)
    assert expected in one_line(refused)


@over(OF_SWEEPS, by_name)
def test_sweeps_refuse_bad_values(name, values, expected):
    with pytest.raises(ValueError) as refused:
        replace(EXPERIMENT, sweep={name: values})
    assert one_line(refused).startswith(f"{name}=")
    assert expected in one_line(refused)


def test_an_unknown_field_is_refused_by_its_constructor_and_by_change():
    for one in (*PARTS, EXPERIMENT):
        with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
            replace(one, nonsense=1)
    for name in ("nonsense", "task.nonsense", "task", "reference.nonsense", "d_input", ""):
        with pytest.raises(lab.ConfigError, match=r"unknown field; (accepted: |did you mean )"):
            EXPERIMENT.change({name: 1})
