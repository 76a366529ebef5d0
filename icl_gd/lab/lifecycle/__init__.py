"""A run on a machine: devices, processes, work directory, resuming and progress output."""
