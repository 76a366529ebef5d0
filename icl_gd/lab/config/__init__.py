"""The configuration of a run: fields, accepted values, consistency checks, and estimates of memory and disk."""
