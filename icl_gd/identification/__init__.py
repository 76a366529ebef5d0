"""Names the algorithm of an in-context learner: `identify` gives a `Verdict`."""

from icl_gd.identification.embedding import after_embedding
from icl_gd.identification.identify import identify
from icl_gd.identification.verdict import Evidence, Hypothesis, Verdict

__all__ = ["Evidence", "Hypothesis", "Verdict", "after_embedding", "identify"]
