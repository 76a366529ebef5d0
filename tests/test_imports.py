"""The house's rooms may import from rooms of lower rank only (docs/architecture.md)."""

import ast
from pathlib import Path

import icl_gd

# Rank allows these; `training` and `constructions` name them here, and may import nothing else of the house.
EXCEPTIONS = {
    "constructions": {"types", "models"},
    "training": {"types", "cores", "programs", "schema", "models", "tokens"},
}
OUTSIDE = ("experiments", "configs", "ml_collections", "absl")
ROOT = Path(icl_gd.__file__).parent
RANKS = {
    "types": 0, "cores": 0, "programs": 0, "schema": 0,
    "tasks": 1, "tokens": 1, "models": 1, "learners": 1,
    "constructions": 2, "dual": 2, "training": 2,
    "analysis": 3,
    "plots": 4, "interop": 4,
    "__init__": 5,
}  # fmt: skip


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
    found = []
    for path in files:
        room = path.relative_to(ROOT).parts[0].removesuffix(".py")
        for name in imports_of(path):
            if name.split(".")[0] in OUTSIDE or name == "icl_gd":
                found.append(f"{path}: {name}")
            if not name.startswith("icl_gd."):
                continue
            other = name.split(".")[1]
            if other != room and RANKS[other] >= RANKS[room]:
                found.append(f"{room} (rank {RANKS[room]}) imports {name} (rank {RANKS[other]})")
            if other != room and other not in EXCEPTIONS.get(room, RANKS):
                found.append(f"{room} imports {name}, which its list leaves out")
    return found


def test_rooms_import_downwards():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 15
    assert violations(files) == []
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files} <= set(RANKS)
