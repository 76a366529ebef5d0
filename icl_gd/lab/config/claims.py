"""Claims as a config states them: rows of data, judged by what a run measures."""

import math
from collections.abc import Mapping
from typing import Any

from icl_gd.lab.config.bad_input import nearest

# What a claim says, and what it may say beside it.
STATED = {"id": str, "statement": str, "source": str, "metric": str, "relation": str, "target": float}
MORE = {"reduce": str, "tolerance": float, "note": str}
WORDS = {"relation": ("within", "at_least", "at_most"), "reduce": ("mean", "min", "max", "lower", "upper")}


def wrong_with(claim: Any) -> str | None:
    """What is wrong with a claim as a config states it, in words; None if nothing is.

    A claim is a mapping of what `STATED` names, with or without what `MORE` names.
    """
    if not isinstance(claim, Mapping):
        return "it is no mapping"
    kinds = {**STATED, **MORE}
    if unknown := [part for part in claim if part not in kinds]:
        return f"it has {unknown[0]}; {nearest(unknown[0], kinds)}"
    if missing := [part for part in STATED if part not in claim]:
        return f"it lacks {', '.join(missing)}"
    for part, value in claim.items():
        if kinds[part] is str and not isinstance(value, str):
            return f"its {part}={value!r} must be words"
        if kinds[part] is float and not (type(value) in (int, float) and math.isfinite(float(value))):
            return f"its {part}={value!r} must be a finite number"
        if part in WORDS and value not in WORDS[part]:
            return f"its {part}={value}: {nearest(value, WORDS[part])}"
    return f"its tolerance={claim['tolerance']} must be at least 0" if claim.get("tolerance", 0.0) < 0 else None
