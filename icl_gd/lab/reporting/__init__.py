"""What a run leaves: results, figures and report."""
