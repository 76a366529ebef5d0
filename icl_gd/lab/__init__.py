"""From an experiment to its report: what a run takes, does and leaves.

Imports everything below; nothing below imports it, nor does `icl_gd` itself.
"""
