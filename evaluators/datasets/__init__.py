"""One file a data-set layout: read, check, and say which data it is."""
