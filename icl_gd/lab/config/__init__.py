"""The configuration of a run: its fields, their accepted values and consistency, and the resources it needs."""
