"""Migration of files that earlier versions wrote: one step from every format to the next.

A file records its format; a file without that record is in the first format. `migrated` applies the remaining steps
to its content. Checksums are verified before the migration.

    >>> migrated({"eval.families": ["standard"]}, 2, CONFIGS)
    {'eval.suite': ['standard']}
"""

from collections.abc import Callable, Mapping
from typing import Any

Content = dict[str, Any]
LEAVES = "leaves"  # entry of a checkpoint or saved model that holds its arrays by dotted name
Steps = Mapping[int, Callable[[Content], Content]]  # by format, the step to the next format

# Old name -> new name: fields of a `TransformerConfig`, fields of an experiment, and values of `form`.
MODEL = {
    "compute": "dtype",
    "layer_mlp_width": "block_mlp_width",
    "mlp_width": "input_mlp_width",
    "normalised": "sum_normalised",
    "reads_query": "attend_to_query",
}
FIELDS = {"eval.families": "eval.suite", **{f"model.{old}": f"model.{new}" for old, new in MODEL.items()}}
FORMS = {"moments": "gram"}
NO_CLIP = 1e6  # old value of `clip` for gradients that are not clipped; the new value is None


def migrated(content: Mapping[str, Any], file_format: int, steps: Steps) -> Content:
    """Converts the content of a file to the current format.

    Args:
      content: the content of the file; it is not changed.
      file_format: the format in which it was written.
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
    """The format that this version writes.

    Returns:
      One more than the last format that has a migration step.
    """
    return max(steps, default=0) + 1


def _checkpoint_3(about: Content) -> Content:
    """Replaces the clip 1e6 by None."""
    settings = about.get("settings", {})
    if "clip" not in settings:
        return about
    return {**about, "settings": {**settings, "clip": _no_clip(settings["clip"])}}


def _checkpoint_4(content: Content) -> Content:
    """Renames model fields, parameters, and the entry `given` to `frozen`."""
    content = _model_renamed(content)
    if "given" in content:
        content["frozen"] = content.pop("given")
    if "form" in (settings := content.get("settings", {})):
        content["settings"] = {**settings, "form": FORMS.get(settings["form"], settings["form"])}
    return content


def _model_renamed(content: Content) -> Content:
    """Renames the model fields and the parameters of a checkpoint or saved model."""
    content = dict(content)
    if "model" in content:
        content["model"] = {MODEL.get(name, name): value for name, value in content["model"].items()}
    if LEAVES in content:
        content[LEAVES] = {_leaf_renamed(name): leaf for name, leaf in content[LEAVES].items()}
    return content


def _leaf_renamed(name: str) -> str:
    """Renames `head.W_O` to `unembed.W_U` and `head.b_O` to `unembed.b_U`, below any prefix."""
    prefix, head, leaf = ("." + name).rpartition(".head.")
    if not head:
        return name
    leaf = {"W_O": "W_U", "b_O": "b_U"}.get(leaf, leaf)
    return f"{prefix}.unembed.{leaf}".removeprefix(".")


# Old `recipe` -> new `reference.name`, and the analyses that a recipe implied. Configs are flat: {"task.name": ...}.
_REFERENCES = {
    "linear_attention": "gradient_descent",
    "sine": "deep_features",
    "function_classes": "prefix_learners",
    "dual_models": "one_step",
}
_ANALYSES = {"sine": ["differences", "functions", "features"], "function_classes": ["predicted_functions"]}


def _config_1(flat: Content) -> Content:
    """Replaces recipes by references and analyses, `parameters` and 1e6 by None, and a string of layers by a list."""
    flat = dict(flat)
    recipe = flat.pop("recipe", "linear_attention")
    flat["reference.name"] = _REFERENCES.get(recipe, recipe)
    flat["analyses"] = _ANALYSES.get(recipe, flat.get("analyses", []))
    if recipe == "function_classes":
        flat.pop("task.inputs", None)  # every recipe wrote this field, but only linear regression used it
    if flat.get("model.compute") == "parameters":
        flat["model.compute"] = None
    if "," in (attention := flat.get("model.attention") or ""):
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


CHECKPOINTS: Steps = {3: _checkpoint_3, 4: _checkpoint_4}
CONFIGS: Steps = {1: _config_1, 2: _config_2}
PRETRAINED: Steps = {1: _model_renamed}
