"""Analyses of a trained population. Each analysis is a module of the same name that defines `ANALYSIS`."""

from icl_gd.lab.config.questions import Analysis, find, shipped

__all__ = ["every", "find", "names"]


def names() -> tuple[str, ...]:
    """Names of the analyses that ship with the package, without importing them."""
    return shipped()


def every() -> list[Analysis]:
    """All analyses that ship with the package, sorted by name."""
    return [find(name) for name in names()]
