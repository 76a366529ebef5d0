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
    "lab": 6,
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
            if name.split(".")[0] in OUTSIDE[: 2 if room == "lab" else None] or (name == "icl_gd" and room != "lab"):
                found.append(f"{path}: {name}")
            if not name.startswith("icl_gd."):
                continue
            other = name.split(".")[1]
            if other != room and RANKS[other] >= RANKS[room]:
                found.append(f"{room} (rank {RANKS[room]}) imports {name} (rank {RANKS[other]})")
            if other != room and other not in EXCEPTIONS.get(room, RANKS):
                found.append(f"{room} imports {name}, which its list leaves out")
    return found


# The runner's own rooms, and what stands above them.
LAB = {
    "config": 0,
    "reporting": 1,
    "lifecycle": 2, "evaluation": 2,
    "command_line": 3, "doctor": 3, "populations": 3, "recorded": 3, "watched": 3,
    "recipes": 4,
    "run": 5,
}  # fmt: skip


def test_rooms_of_the_runner_import_downwards():
    found, files = [], sorted((ROOT / "lab").rglob("*.py"))
    rooms = {path: path.relative_to(ROOT / "lab").parts[0].removesuffix(".py") for path in files}
    for path, room in rooms.items():
        for name in imports_of(path):
            _, *parts = name.split(".")
            if parts[:1] != ["lab"] or parts[1:2] in ([], [room]):
                continue
            if LAB[parts[1]] >= LAB[room]:
                found.append(f"{path}: {name}")
    assert found == []
    assert set(rooms.values()) - {"__init__"} == set(LAB)


def test_rooms_import_downwards():
    files = sorted(ROOT.rglob("*.py"))
    assert len(files) > 15
    assert violations(files) == []
    assert {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in files} <= set(RANKS)
