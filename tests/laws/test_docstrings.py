"""Public functions document arguments and return values, modules have examples that run, no old name is defined."""

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "icl_gd"
LAB = ROOT / "lab"
MODULES = sorted(path.relative_to(ROOT.parent) for path in ROOT.rglob("*.py") if path.name != "__init__.py")
LIBRARY = [path for path in MODULES if path.parts[1] != "lab"]
# Old names of the package and their replacements. `icl_gd.migrations` reads stored files that contain old names.
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
    "alpha": "query_damping",
    "beta": "negative_weight",
    "share": "negative_fraction",
    "there": "enabled",
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
    "law": "eval_task, library_task",
    "law_of_training": "train_task",
    "trained_on": "training_source",
    "in_turn": "populations",
    "asked": "analysis_names",
    "beside_linear": "beyond_linear",
    "said": "description",
    "wanted": "requirement",
    "kept": "cached_by_value",
    "brief": "quick_jit",
    "forget": "clear_caches",
    "apart": "has_separate_tokens",
    "reads_normalised": "has_norm",
    "weighted": "program_config",
    "of_program": "program_settings",
    "is_read": "is_attended",
    "EVERY": "GROUPS",
    "looked_at": "evaluated_values",
    "set_for": "jax_settings",
    "why_nothing": "idle_warning",
    "members_of": "member_specs",
    "weights_to_start": "start_weights",
    "of_pool": "base_functions",
    "held": "locked, unwrapped",
}
# Old names that still have another meaning, and the files that define them.
ANOTHER = {
    "alpha": ("dual/kernel.py",),
    "share": ("identification/evidence.py", "identification/probe.py"),
    "zero": ("models/edits.py", "identification/identify.py"),
}


def parsed(path):
    return ast.parse((ROOT.parent / path).read_text(encoding="utf-8"))


def public_functions(path):
    """Public functions of a module, and public methods of its public classes."""
    for node in parsed(path).body:
        definitions = node.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_") else [node]
        for function in definitions:
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
    """What the docstring of a function does not contain: "Args: NAME", "Returns", or "a docstring"."""
    docstring = ast.get_docstring(function) or ""
    parameters = [
        argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
    ]
    parameters = [name for name in parameters if name not in ("self", "cls")]
    if not docstring:
        return ["a docstring"]
    missing_parts = []
    if len(parameters) >= 3:
        heads = [line.partition(":")[0] for line in section(docstring, "Args").splitlines()]
        documented = {name.strip(" *`") for head in heads for name in head.split(",")}
        missing_parts += [f"Args: {name}" for name in parameters if name not in documented]
    returns = ast.unparse(function.returns) if function.returns else "None"
    if returns not in ("None", "NoReturn") and not is_property(function):
        missing_parts += ["Returns"] * (not (section(docstring, "Returns") or section(docstring, "Yields")))
    return missing_parts


@pytest.mark.parametrize("path", LIBRARY, ids=str)
def test_public_functions_say_what_they_take_and_return(path):
    missing_by_function = {
        f"{function.name}:{function.lineno}": missing(function) for function in public_functions(path)
    }
    assert {name: missing_parts for name, missing_parts in missing_by_function.items() if missing_parts} == {}


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
            fields = (line.target for line in node.body if isinstance(line, ast.AnnAssign))
            defined |= {target.id for target in fields if isinstance(target, ast.Name)}
    old = {name for name in defined & OLD.keys() if not str(path).endswith(ANOTHER.get(name, ()))}
    assert old == set(), [f"{name} is called {OLD[name]}" for name in old]


def test_the_check_finds_what_is_missing():
    """`missing` reports an undocumented argument and a missing Returns section."""
    source = 'def f(a, b, c) -> int:\n    """Adds.\n\n    Args:\n      a, b: numbers.\n    """\n'
    assert missing(ast.parse(source).body[0]) == ["Args: c", "Returns"]
