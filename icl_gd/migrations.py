"""How what earlier versions wrote is read: one step from every format to the next.

A file says in which format it is written; one that does not say is in the first. `migrated` takes what it holds through
the steps that are left. What was verified by a checksum is migrated after it.
"""

from collections.abc import Callable, Mapping
from typing import Any

Content = dict[str, Any]
LEAVES = "leaves"  # of a checkpoint or a saved model: its arrays by dotted name
Steps = Mapping[int, Callable[[Content], Content]]  # from a format to the next

# Fields and words of today by those of before: of a `TransformerConfig` and of an experiment.
MODEL = {
    "compute": "dtype",
    "layer_mlp_width": "block_mlp_width",
    "mlp_width": "input_mlp_width",
    "normalised": "sum_normalised",
    "reads_query": "attend_to_query",
}
FIELDS = {"eval.families": "eval.suite", **{f"model.{old}": f"model.{new}" for old, new in MODEL.items()}}
FORMS = {"moments": "gram"}
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


def _checkpoint_4(content: Content) -> Content:
    """Fields of the model are renamed, frozen blocks were given ones, and the read-out was a head."""
    content = _model_renamed(content)
    if "given" in content:
        content["frozen"] = content.pop("given")
    if "form" in (settings := content.get("settings", {})):
        content["settings"] = {**settings, "form": FORMS.get(settings["form"], settings["form"])}
    return content


def _model_renamed(content: Content) -> Content:
    """Of a checkpoint or a saved model: the names of its Transformer's fields and of its leaves."""
    content = dict(content)
    if "model" in content:
        content["model"] = {MODEL.get(name, name): value for name, value in content["model"].items()}
    if LEAVES in content:
        content[LEAVES] = {_leaf_renamed(name): leaf for name, leaf in content[LEAVES].items()}
    return content


def _leaf_renamed(name: str) -> str:
    """`unembed.W_U` for `head.W_O`, at any depth."""
    before, head, of_head = ("." + name).rpartition(".head.")
    if not head:
        return name
    renamed = {"W_O": "W_U", "b_O": "b_U"}.get(of_head, of_head)
    return f"{before}.unembed.{renamed}".removeprefix(".")


# Of flat configs, `{"task.name": ...}`. Recipes were what references are; their fields were there for everyone.
_REFERENCES = {
    "linear_attention": "gradient_descent",
    "sine": "deep_features",
    "function_classes": "prefix_learners",
    "dual_models": "one_step",
}
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


def _config_2(flat: Content) -> Content:
    """Fields are renamed, and the moment form is the Gram form."""
    flat = {FIELDS.get(name, name): value for name, value in flat.items()}
    if "train.form" in flat:
        flat["train.form"] = FORMS.get(flat["train.form"], flat["train.form"])
    return flat


def _no_clip(value: Any) -> Any:
    return None if value == NO_CLIP else value


CHECKPOINTS: Steps = {3: _checkpoint_3, 4: _checkpoint_4}
CONFIGS: Steps = {1: _config_1, 2: _config_2}
PRETRAINED: Steps = {1: _model_renamed}
