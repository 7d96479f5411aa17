"""What stops a report: a record or a run folder that cannot be read as it must."""

from __future__ import annotations


class ReportError(Exception):
    """A record or a run that cannot be reported on: expected, found, where and cure in one line."""
