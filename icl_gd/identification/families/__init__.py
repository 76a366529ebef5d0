"""The algorithms that a Predictor is compared with, one file per family."""

from icl_gd.identification.families import (
    conjugate_gradient,
    exact,
    finite_pool,
    gd_plus_plus,
    gradient_descent,
    kernels,
    momentum,
    neighbours,
    newton,
    sparse,
)
from icl_gd.identification.families.base import Candidate, Direct, Name

# Simpler candidates come first: fits of later ones start from theirs.
FILTERS = (
    *exact.CANDIDATES,
    *gradient_descent.CANDIDATES,
    *newton.CANDIDATES,
    *momentum.CANDIDATES,
    *gd_plus_plus.CANDIDATES,
)
DIRECT = (
    conjugate_gradient.fits,
    sparse.fits,
    finite_pool.fits,
    neighbours.fits,
    kernels.fits_regression,
    kernels.fits_ridge,
)

__all__ = ["DIRECT", "FILTERS", "Candidate", "Direct", "Name"]
