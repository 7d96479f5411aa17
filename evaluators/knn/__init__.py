"""kNN: one exact search, and the votes of every k and T."""
