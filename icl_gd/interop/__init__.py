"""Imports and exports weights: published checkpoints, Haiku parameters, safetensors. No code in a file is executed."""

from icl_gd.interop.garg import from_garg
from icl_gd.interop.pretrained import Pretrained, from_pretrained
from icl_gd.interop.von_oswald import from_von_oswald, to_von_oswald

__all__ = ["Pretrained", "from_garg", "from_pretrained", "from_von_oswald", "to_von_oswald"]
