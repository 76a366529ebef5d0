"""Questions asked of a trained population: a module for each, with its `ANALYSIS`, under the name it is asked by."""

from icl_gd.lab.config.questions import Analysis, find, shipped

__all__ = ["every", "find", "names"]


def names() -> tuple[str, ...]:
    """Of all analyses that ship; none is imported."""
    return shipped()


def every() -> list[Analysis]:
    """All analyses that ship, in the order of their names."""
    return [find(name) for name in names()]
