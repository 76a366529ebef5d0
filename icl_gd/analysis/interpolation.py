"""Between trained and constructed weights (von Oswald et al., Figure 2 "interpolated")."""

from icl_gd.analysis.weights import match_scale
from icl_gd.schema import checked
from icl_gd.types import Circuits, Scalar


@checked
def interpolate(circuits: Circuits, reference: Circuits, t: Scalar = 0.5) -> Circuits:
    """`(1 - t)` of the circuits, their scale matched to the reference, and `t` of the reference.

    Raises:
      ValueError: with more than one head: heads have no natural partner, their order is gauge.
    """
    if circuits.W_KQ.shape != reference.W_KQ.shape or circuits.W_KQ.shape[-3] != 1:
        raise ValueError(
            f"interpolation needs two single-head models of one size, got W_KQ {circuits.W_KQ.shape} and "
            f"{reference.W_KQ.shape}"
        )
    matched = match_scale(circuits, reference)
    mean = lambda a, b: (1 - t) * a + t * b
    return Circuits(mean(matched.W_KQ, reference.W_KQ), mean(matched.W_PV, reference.W_PV))
