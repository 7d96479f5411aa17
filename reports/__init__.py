"""Records -> tables, pages and plots. Imports no sibling package and no torch."""
