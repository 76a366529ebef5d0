"""Converts files of earlier versions to the current format.

The format of a file is a number that the file records; a file without this record has format 1. Each migration step
converts one format to the next. Checksums are verified before the migration.

    >>> migrated({"eval.families": ["standard"]}, 2, CONFIGS)
    {'eval.suite': ['standard']}
"""

from collections.abc import Callable, Mapping
from typing import Any

Content = dict[str, Any]
LEAVES = "leaves"  # key of the arrays in a checkpoint or saved model; their names are dotted
Steps = Mapping[int, Callable[[Content], Content]]  # by format, the function that converts to the next format

# Old name -> new name, for fields of `TransformerConfig`, `Modification` and `Experiment`, and for values of `form`.
MODEL = {
    "compute": "dtype",
    "layer_mlp_width": "block_mlp_width",
    "mlp_width": "input_mlp_width",
    "normalised": "sum_normalised",
    "reads_query": "attend_to_query",
}
MODIFICATION = {"alpha": "query_damping", "beta": "negative_weight", "share": "negative_fraction"}
FIELDS = {"eval.families": "eval.suite", **{f"model.{old}": f"model.{new}" for old, new in MODEL.items()}}
FORMS = {"moments": "gram"}
NO_CLIP = 1e6  # value of `clip` that disabled gradient clipping; now None disables it


def migrated(content: Mapping[str, Any], file_format: int, steps: Steps) -> Content:
    """Converts the content of a file to the current format.

    Args:
      content: the content of the file; it is not changed.
      file_format: the format of the file.
      steps: the migration steps of this kind of file: `CHECKPOINTS`, `CONFIGS` or `PRETRAINED`.

    Returns:
      The content as this version would have written it.

    Raises:
      ValueError: if the format is newer than this version, or too old to be read.
    """
    oldest, newest = min(steps, default=1), newest_of(steps)
    if not oldest <= file_format <= newest:
        message = f"it is written in format {file_format}, this version reads formats {oldest} to {newest}"
        raise ValueError(message + ("; a newer version wrote it" if file_format > newest else ""))
    content = dict(content)
    for step in range(file_format, newest):
        content = steps[step](content)
    return content


def newest_of(steps: Steps) -> int:
    """The format in which this version writes a kind of file.

    Returns:
      One more than the last format that has a migration step.
    """
    return max(steps, default=0) + 1


def _checkpoint_3(content: Content) -> Content:
    """Replaces the clip 1e6 by None."""
    settings = content.get("settings", {})
    if "clip" not in settings:
        return content
    return {**content, "settings": {**settings, "clip": _no_clip(settings["clip"])}}


def _checkpoint_4(content: Content) -> Content:
    """Renames model fields and parameters, the entry `given` (now `frozen`) and the value `moments` of `form`."""
    content = _model_renamed(content)
    if "given" in content:
        content["frozen"] = content.pop("given")
    settings = content.get("settings", {})
    if "form" in settings:
        content["settings"] = {**settings, "form": FORMS.get(settings["form"], settings["form"])}
    return content


def _modification_nested(content: Content) -> Content:
    """Moves the attention modifications of a checkpoint or saved model to `model.modification`, with new names."""
    content = dict(content)
    if "model" in content:
        old_names = (*MODIFICATION, "augment_keys", "augment_values")
        modification = {MODIFICATION.get(name, name): content["model"].get(name) for name in old_names}
        other_fields = {name: value for name, value in content["model"].items() if name not in old_names}
        content["model"] = {**other_fields, "modification": modification}
    if LEAVES in content:
        content[LEAVES] = {_strength_renamed(name): leaf for name, leaf in content[LEAVES].items()}
    return content


def _strength_renamed(name: str) -> str:
    """Renames a parameter `PREFIX.attention.NAME` if NAME is the old name of a modification strength."""
    prefix, attention, leaf = name.rpartition(".attention.")
    return f"{prefix}{attention}{MODIFICATION.get(leaf, leaf)}" if attention else name


def _model_renamed(content: Content) -> Content:
    """Renames the model fields and the parameters of a checkpoint or saved model."""
    content = dict(content)
    if "model" in content:
        content["model"] = {MODEL.get(name, name): value for name, value in content["model"].items()}
    if LEAVES in content:
        content[LEAVES] = {_leaf_renamed(name): leaf for name, leaf in content[LEAVES].items()}
    return content


def _leaf_renamed(name: str) -> str:
    """Renames `head.W_O` to `unembed.W_U` and `head.b_O` to `unembed.b_U`, after any prefix."""
    prefix, head, leaf = ("." + name).rpartition(".head.")
    if not head:
        return name
    leaf = {"W_O": "W_U", "b_O": "b_U"}.get(leaf, leaf)
    return f"{prefix}.unembed.{leaf}".removeprefix(".")


# Old `recipe` -> new `reference.name`, and old `recipe` -> the analyses that it implied.
_REFERENCES = {
    "linear_attention": "gradient_descent",
    "sine": "deep_features",
    "function_classes": "prefix_learners",
    "dual_models": "one_step",
}
_ANALYSES = {"sine": ["differences", "functions", "features"], "function_classes": ["predicted_functions"]}


def _config_1(flat: Content) -> Content:
    """Converts a flat config, {"task.name": ...}, from format 1 to format 2.

    The recipe becomes a reference and analyses, the values "parameters" and 1e6 become None, and a comma-separated
    string of attention kinds becomes a list.
    """
    flat = dict(flat)
    recipe = flat.pop("recipe", "linear_attention")
    flat["reference.name"] = _REFERENCES.get(recipe, recipe)
    flat["analyses"] = _ANALYSES.get(recipe, flat.get("analyses", []))
    if recipe == "function_classes":
        flat.pop("task.inputs", None)  # every recipe wrote this field, but only linear regression used it
    if flat.get("model.compute") == "parameters":
        flat["model.compute"] = None
    attention = flat.get("model.attention") or ""
    if "," in attention:
        flat["model.attention"] = [word.strip() for word in attention.split(",")]
    if "train.clip" in flat:
        flat["train.clip"] = _no_clip(flat["train.clip"])
    return flat


def _config_2(flat: Content) -> Content:
    """Renames fields, and the value `moments` of `train.form` to `gram`."""
    flat = {FIELDS.get(name, name): value for name, value in flat.items()}
    if "train.form" in flat:
        flat["train.form"] = FORMS.get(flat["train.form"], flat["train.form"])
    return flat


def _no_clip(value: Any) -> Any:
    return None if value == NO_CLIP else value


CHECKPOINTS: Steps = {3: _checkpoint_3, 4: _checkpoint_4, 5: _modification_nested}
CONFIGS: Steps = {1: _config_1, 2: _config_2}
PRETRAINED: Steps = {1: _model_renamed, 2: _modification_nested}
