"""Lists the models of the zoo, which ship with the package, or prints the card of one.

    icl-gd zoo              lists all models: name, loss, and what it is
    icl-gd zoo NAME         prints the card of a model: task, training, loss, claims with verdicts, checksum

In Python, `icl_gd.zoo.load(NAME)` loads a model and `icl_gd.zoo.task(NAME)` its task. Example:

    icl-gd zoo one_layer_0

    >>> main(["one_layer_0", "two_layers"])
    2
"""

import sys
from collections.abc import Sequence

from icl_gd.zoo.library import card, names


def main(words: Sequence[str] = ()) -> int:
    """Runs the command.

    Args:
      words: the command line after `icl-gd zoo`: nothing, a name, or --help.

    Returns:
      The exit code: 0, or 2 for bad input.
    """
    if list(words) in (["--help"], ["-h"]):
        print((__doc__ or "").partition("\n    >>> ")[0])
        return 0
    try:
        if len(words) > 1 or (words and words[0].startswith("-")):
            raise ValueError(f"{' '.join(words)}: zoo takes one name of a model, nothing, or --help")
        print("\n".join(_listed()) if not words else card(words[0]))
    except ValueError as error:
        print("error:", error, file=sys.stderr)
        return 2
    return 0


def _listed() -> list[str]:
    """A line for every model."""
    cards = list(map(card, names()))
    width = max((len(one.name) for one in cards), default=0)
    losses = [f"{one.loss.mean:.4g}" for one in cards]
    return [f"{one.name:<{width}}  {loss:<9}  {one.about}" for one, loss in zip(cards, losses, strict=True)]
