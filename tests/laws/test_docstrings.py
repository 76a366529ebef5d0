"""Public functions say what they take and return, every module has an example that runs, and no old name is defined."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "icl_gd"
LAB = ROOT / "lab"
MODULES = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py") if path.name != "__init__.py")
LIBRARY = [path for path in MODULES if path.parts[1] != "lab"]
# What the package once called otherwise, by the name of today. Stored files are read by `icl_gd.migrations`.
OLD = {
    "Moments": "Gram",
    "has_moment_form": "has_gram_form",
    "apply_moments": "apply_gram",
    "read_moments": "read_gram",
    "sample_moments": "sample_gram",
    "FAMILIES": "INPUT_DISTRIBUTIONS",
    "Family": "InputDistribution",
    "PROMPT_FAMILIES": "PROMPT_DISTRIBUTIONS",
    "PROMPT_SUITE": "EVAL_SUITE",
    "families": "suite",
    "from_published": "from_von_oswald",
    "to_published": "to_von_oswald",
    "mlp_width": "input_mlp_width, block_mlp_width",
    "layer_mlp_width": "block_mlp_width",
    "compute": "dtype",
    "reads_query": "attend_to_query",
    "normalised": "sum_normalised",
    "Initial": "Initializers",
    "varied": "per_member",
    "in_blocks": "microbatched",
    "given": "frozen",
    "Member": "MemberState",
    "Members": "MemberSpecs",
    "State": "PopulationState",
    "lies": "sharding",
    "told_by_first": "broadcast_from_primary",
    "agreed": "any_signal",
    "is_first": "is_primary",
    "forget_broken": "delete_corrupt",
    "best_step_size": "fit_step_size",
    "best_step_sizes": "fit_step_sizes",
    "best_gd_plus_plus": "fit_gd_plus_plus",
    "best_gd_plus_plus_on": "fit_gd_plus_plus_on",
    "least": "minimise_risk",
    "Pairs": "GDPlusPlusRates",
    "zero": "predict_zero",
    "pull": "attention_weights",
    "own_pull": "self_influence",
    "Process": "Trajectory",
    "process": "trajectory",
    "routes": "label_paths",
    "Routes": "LabelPaths",
    "mean_share": "mean_pattern_residue",
    "without_common": "minimal_norm_qk",
    "errors_of": "squared_errors",
    "prefix_errors": "prefix_squared_errors",
    "Found": "Records",
    "Study": "Evaluation",
    "few": "subsample",
    "first": "take",
    "together": "merge_losses",
    "last": "final_iterate",
    "capped": "clip_losses",
    "BadInput": "ConfigError",
}
# Definitions that share an old name and mean another thing.
ANOTHER = {"together": "lab/config/experiment.py"}


def parsed(path):
    return ast.parse((ROOT.parent / path).read_text(encoding="utf-8"))


def public_functions(path):
    """Functions of a module, and methods of its classes, whose names have no underscore."""
    for node in parsed(path).body:
        inside = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for function in inside:
            if isinstance(function, ast.FunctionDef) and not function.name.startswith("_"):
                yield function


def is_property(function):
    words = [ast.unparse(decorator) for decorator in function.decorator_list]
    return any(word.endswith(("property", "setter")) for word in words)


def section(docstring, name):
    """The lines below `name:` in a docstring, down to the next section."""
    _, _, after = f"\n{docstring}".partition(f"\n{name}:\n")
    lines = []
    for line in after.splitlines():
        if line and not line.startswith(" "):
            break
        lines.append(line)
    return "\n".join(lines)


def missing(function):
    """What the docstring of a function lacks."""
    said = ast.get_docstring(function) or ""
    parameters = [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    parameters = [name for name in parameters if name not in ("self", "cls")]
    if not said:
        return ["a docstring"]
    lacks = []
    if len(parameters) >= 3:
        heads = [line.partition(":")[0] for line in section(said, "Args").splitlines()]
        named = {name.strip(" *`") for head in heads for name in head.split(",")}
        lacks += [f"Args: {name}" for name in parameters if name not in named]
    returns = ast.unparse(function.returns) if function.returns else "None"
    if returns not in ("None", "NoReturn") and not is_property(function):
        lacks += ["Returns"] * (not (section(said, "Returns") or section(said, "Yields")))
    return lacks


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_public_functions_say_what_they_take_and_return(path):
    lacking = {f"{function.name}:{function.lineno}": missing(function) for function in public_functions(path)}
    assert {name: lacks for name, lacks in lacking.items() if lacks} == {}


@pytest.mark.slow
@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_every_module_has_an_example_that_runs(path):
    module = importlib.import_module(".".join(path.with_suffix("").parts))
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried > 0
    assert failed == 0


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_old_name_is_defined(path):
    defined = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
    for node in parsed(path).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        defined |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.ClassDef):
            inside = (one.target for one in node.body if isinstance(one, ast.AnnAssign))
            defined |= {target.id for target in inside if isinstance(target, ast.Name)}
    old = {name for name in defined & OLD.keys() if not str(path).endswith(ANOTHER.get(name, "-"))}
    assert old == set(), [f"{name} is called {OLD[name]}" for name in old]


def test_the_check_finds_what_is_missing():
    """The law is seen to fail."""
    source = 'def f(a, b, c) -> int:\n    """Adds.\n\n    Args:\n      a, b: numbers.\n    """\n'
    assert missing(ast.parse(source).body[0]) == ["Args: c", "Returns"]
