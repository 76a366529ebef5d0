"""How what earlier versions wrote is read: one step from every format to the next.

A file says in which format it is written; one that does not say is in the first. `migrated` takes what it holds through
the steps that are left. What was verified by a checksum is migrated after it.
"""

from collections.abc import Callable, Mapping
from typing import Any

Content = dict[str, Any]
Steps = Mapping[int, Callable[[Content], Content]]  # from a format to the next

NO_CLIP = 1e6  # how a gradient that is not clipped was written before there was None


def migrated(content: Mapping[str, Any], found: int, steps: Steps) -> Content:
    """What a file holds, as this version would have written it.

    Args:
      found: the format that it is in.

    Raises:
      ValueError: if it is none that can be read: a later version's, or a very old one's.
    """
    oldest, newest = min(steps, default=1), newest_of(steps)
    if not oldest <= found <= newest:
        newer = "; a newer version wrote it" * (found > newest)
        raise ValueError(f"it is written in format {found}, this version reads formats {oldest} to {newest}{newer}")
    content = dict(content)
    for at in range(found, newest):
        content = steps[at](content)
    return content


def newest_of(steps: Steps) -> int:
    """The format that this version writes."""
    return max(steps, default=0) + 1


def _checkpoint_3(about: Content) -> Content:
    """A gradient that is not clipped is clipped at None."""
    settings = about.get("settings", {})
    clip = {"clip": _no_clip(settings["clip"])} if "clip" in settings else {}
    return {**about, "settings": {**settings, **clip}} if settings else about


# Of flat configs, `{"task.name": ...}`. Recipes were what references are; their fields were there for everyone.
_REFERENCES = {"linear_attention": "gradient_descent", "sine": "deep_features", "function_classes": "prefix_learners",
               "dual_models": "one_step"}  # fmt: skip
_ANALYSES = {"sine": ["differences", "functions", "features"], "function_classes": ["predicted_functions"]}


def _config_1(flat: Content) -> Content:
    """Recipes become references and analyses, `parameters` and 1e6 become None, layers are listed."""
    flat = dict(flat)
    recipe = flat.pop("recipe", "linear_attention")
    flat["reference.name"] = _REFERENCES.get(recipe, recipe)
    flat["analyses"] = _ANALYSES.get(recipe, flat.get("analyses", []))
    if recipe == "function_classes":
        flat.pop("task.inputs", None)  # which only linear regression had, whatever the recipe
    if flat.get("model.compute") == "parameters":
        flat["model.compute"] = None
    if "," in (attention := flat.get("model.attention") or ""):
        flat["model.attention"] = [word.strip() for word in attention.split(",")]
    if "train.clip" in flat:
        flat["train.clip"] = _no_clip(flat["train.clip"])
    return flat


def _no_clip(value: Any) -> Any:
    return None if value == NO_CLIP else value


CHECKPOINTS: Steps = {3: _checkpoint_3}
CONFIGS: Steps = {1: _config_1}
PRETRAINED: Steps = {}
