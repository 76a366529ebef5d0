"""Importing and exporting weights: published checkpoints, Haiku parameters, safetensors. No file is ever unpickled."""

from icl_gd.interop.garg import from_garg
from icl_gd.interop.pretrained import Pretrained, from_pretrained
from icl_gd.interop.von_oswald import from_von_oswald, to_von_oswald

__all__ = ["Pretrained", "from_garg", "from_pretrained", "from_von_oswald", "to_von_oswald"]
