"""A run on a machine: devices, processes, workdir, checkpoints gone on from, what is printed as it goes."""
