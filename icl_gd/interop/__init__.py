"""Imports and exports weights: published checkpoints, Haiku parameters, safetensors. No code in a file is executed."""

from icl_gd.interop.garg import from_garg
from icl_gd.interop.von_oswald import from_von_oswald, to_von_oswald
from icl_gd.models import load_model as from_pretrained

__all__ = ["from_garg", "from_pretrained", "from_von_oswald", "to_von_oswald"]
