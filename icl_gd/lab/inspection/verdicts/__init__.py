"""The command `icl-gd identify`, which names the algorithm of a model, a run or any function."""
