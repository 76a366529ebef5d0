"""Output of a run: results, the result in one sentence, and the report."""
