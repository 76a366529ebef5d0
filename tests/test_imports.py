"""Packages import only packages of a lower layer (docs/architecture.md)."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import icl_gd

# `constructions` and `training` may import only these packages, although their layer would allow more.
EXCEPTIONS = {
    "constructions": {"types", "schema", "tokens", "models"},
    "training": {"types", "cores", "programs", "schema", "paths", "migrations", "trees", "models", "tokens"},
}
OUTSIDE = ("experiments", "configs", "absl")  # not imported by the package; only `lab` may import absl
ROOT = Path(icl_gd.__file__).parent
LAYERS = {
    "types": 0,
    "cores": 0,
    "programs": 0,
    "schema": 0,
    "paths": 0,
    "problems": 0,
    "migrations": 0,
    "trees": 0,
    "tasks": 1,
    "tokens": 1,
    "learners": 1,
    "models": 2,
    "constructions": 3,
    "dual": 3,
    "training": 3,
    "analysis": 4,
    "plots": 5,
    "interop": 5,
    "zoo": 5,
    "identification": 5,
    "__init__": 6,
    "lab": 7,
}


def imports_of(path: Path) -> set[str]:
    """The dotted names that a file imports. `from icl_gd import models` counts as icl_gd.models."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are absolute"
            plain = node.module == "icl_gd"
            names |= {f"icl_gd.{alias.name}" for alias in node.names} if plain else {node.module}
    return names


def violations(files: list[Path]) -> list[str]:
    result = []
    for path in files:
        package = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in imports_of(path):
            outside = OUTSIDE[:2] if package == "lab" else OUTSIDE
            if name.split(".")[0] in outside or (name == "icl_gd" and package != "lab"):
                result.append(f"{path}: {name}")
            if not name.startswith("icl_gd."):
                continue
            other = name.split(".")[1]
            if other != package and LAYERS[other] >= LAYERS[package]:
                result.append(f"{package} (layer {LAYERS[package]}) imports {name} (layer {LAYERS[other]})")
            if other != package and other not in EXCEPTIONS.get(package, LAYERS):
                result.append(f"{package} imports {name}, which is not in EXCEPTIONS")
    return result


# Layers within the runner. None of its modules imports the entry points, which are `__init__` and the command `cli`.
LAB_LAYERS = {
    "config": 0,
    "reporting": 1,
    "foreign": 1,
    "lifecycle": 2,
    "evaluation": 2,
    "pipeline": 3,
    "presets": 3,
    "command_line": 3,
    "doctor": 3,
    "command": 4,
    "notebook": 4,
    "inspection": 4,
}
ENTRY_POINTS = {"__init__", "cli"}


def in_lab(path: Path) -> str:
    return path.relative_to(ROOT / "lab").parts[0].removesuffix(".py")


def test_packages_of_the_runner_import_lower_ranks():
    result, files = [], sorted((ROOT / "lab").rglob("*.py"))
    for path in files:
        for name in imports_of(path):
            _, *parts = name.split(".")
            if parts[:1] != ["lab"] or parts[1:2] == [package := in_lab(path)]:
                continue
            if package not in ENTRY_POINTS:
                layer = LAB_LAYERS.get("".join(parts[1:2]), len(LAB_LAYERS))  # unknown: above all others
                if layer >= LAB_LAYERS[package]:
                    result.append(f"{path}: {name}")
    assert result == []
    assert {in_lab(path) for path in files} == {*LAB_LAYERS, *ENTRY_POINTS}
    assert len(set(LAB_LAYERS.values())) <= 5


def imported_at_once(path: Path, modules: set[str]) -> set[str]:
    """The names in `modules` that a file imports at import time, that is, outside its functions."""
    result, left = set(), list(ast.parse(path.read_text()).body)
    while left:
        node = left.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        left += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            result |= inside & modules or {node.module}
    return result & modules


def test_modules_of_the_runner_have_no_import_cycle():
    files = {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "lab").rglob("*.py")
    }
    graph = {name: imported_at_once(path, set(files)) for name, path in files.items()}
    assert "icl_gd.lab.pipeline" in graph["icl_gd.lab.command"]
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the cycle


def test_what_is_imported_is_what_is_needed():
    """Importing the library does not import the runner. Importing the runner imports neither Matplotlib nor SciPy."""
    code = """
import sys, icl_gd
assert not [name for name in sys.modules if name.startswith("icl_gd.lab")]
import icl_gd.lab
assert not {"matplotlib", "scipy"} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT.parent, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


def test_packages_import_lower_ranks():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 15
    assert violations(files) == []
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files} <= set(LAYERS)
