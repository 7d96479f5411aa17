"""A regular package: a distribution that installs a `tests` of its own would hide a folder without this file."""
