"""Linear support vector machines on frozen features, one a class, and their average precision."""
