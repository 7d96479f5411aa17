"""Few-shot classification by class prototypes in feature space."""
