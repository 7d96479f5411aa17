"""The backbone and a classifier on top of it, tuned end to end."""
