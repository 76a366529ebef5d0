"""A package imports packages of lower rank only (docs/architecture.md)."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import icl_gd

# `training` and `constructions` may import these packages only, whatever the ranks allow.
EXCEPTIONS = {
    "constructions": {"types", "schema", "models"},
    "training": {"types", "cores", "programs", "schema", "paths", "migrations", "models", "tokens"},
}
OUTSIDE = ("experiments", "configs", "absl")
ROOT = Path(icl_gd.__file__).parent
RANKS = {
    "types": 0,
    "cores": 0,
    "programs": 0,
    "schema": 0,
    "paths": 0,
    "problems": 0,
    "migrations": 0,
    "tasks": 1,
    "tokens": 1,
    "models": 1,
    "learners": 1,
    "constructions": 2,
    "dual": 2,
    "training": 2,
    "analysis": 3,
    "plots": 4,
    "interop": 4,
    "__init__": 5,
    "lab": 6,
}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, `from icl_gd import models` counted as icl_gd.models."""
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
            if other != package and RANKS[other] >= RANKS[package]:
                result.append(f"{package} (rank {RANKS[package]}) imports {name} (rank {RANKS[other]})")
            if other != package and other not in EXCEPTIONS.get(package, RANKS):
                result.append(f"{package} imports {name}, which its list leaves out")
    return result


# Ranks within the runner. Nothing in it imports its entry points, `__init__` and the console command `cli`.
LAB = {
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
            if package not in ENTRY_POINTS and LAB.get("".join(parts[1:2]), len(LAB)) >= LAB[package]:
                result.append(f"{path}: {name}")
    assert result == []
    assert {in_lab(path) for path in files} == {*LAB, *ENTRY_POINTS}
    assert len(set(LAB.values())) <= 5


def imported_at_once(path: Path, modules: set[str]) -> set[str]:
    """The modules among these that a file imports when it is imported itself, not in its functions."""
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
    TopologicalSorter(graph).prepare()  # raises a CycleError that names the circle


def test_what_is_imported_is_what_is_needed():
    """The library does not import its runner, nor the runner what it draws and tests with."""
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
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files} <= set(RANKS)
