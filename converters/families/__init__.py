"""How each family of checkpoints is read: a table of layouts, and small code that matches it on keys and shapes.

The file name says nothing here. Every tensor of a file is used, or dropped under a rule with a name, or the read fails
and names it. What the file says of itself comes before guesses, and where it leaves several readings open the read
fails and lists them.
"""

from __future__ import annotations

from converters.families.reading import Reading
from converters.families.source import Kind, identify, names, random_backbone, read, read_source

__all__ = ["Kind", "Reading", "identify", "names", "random_backbone", "read", "read_source"]
