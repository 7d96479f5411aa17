"""The benchmark: a suite becomes cells, cells are run, results become tables; and the command line."""

__version__ = "0.1.0"
