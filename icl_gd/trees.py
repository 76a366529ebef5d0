"""Pytrees as flat mappings from dotted names to arrays, the form in which files store them.

>>> leaves = flatten({"block_0": {"W_K": np.zeros((2, 3))}, "step": np.asarray(7)})
>>> {name: leaf.shape for name, leaf in leaves.items()}
{'block_0.W_K': (2, 3), 'step': ()}
>>> sorted(nested(leaves))
['block_0', 'step']
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

Leaves = dict[str, np.ndarray]


def by_name(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree, keyed by dotted name.

    Returns:
      A flat dict, in the order of the leaves.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def flatten(tree: Any) -> Leaves:
    """The leaves of a pytree as NumPy arrays, keyed by dotted name.

    Returns:
      A flat dict, in the order of the leaves.
    """
    return {name: np.asarray(leaf) for name, leaf in by_name(tree).items()}


def nested(leaves: Mapping[str, Any]) -> dict[str, Any]:
    """Builds a nested dict from leaves keyed by dotted name: the inverse of `by_name`.

    Returns:
      The nested dict.
    """
    tree: dict[str, Any] = {}
    for name, leaf in leaves.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree
