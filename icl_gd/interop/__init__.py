"""Other people's weights, and ours for them: published parameters in, safetensors in and out; nothing is unpickled."""

from icl_gd.interop.garg import from_garg
from icl_gd.interop.pretrained import Pretrained, from_pretrained
from icl_gd.interop.von_oswald import from_von_oswald, to_von_oswald

__all__ = ["Pretrained", "from_garg", "from_pretrained", "from_von_oswald", "to_von_oswald"]
