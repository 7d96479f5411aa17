"""What lint says of a configuration: findings, each with the rule it comes from and the change that cures it."""

from __future__ import annotations

from typing import Any, Literal

from converters.lint.rules import RULES
from converters.settings import Settings

Severity = Literal["error", "warning"]
Framework = Literal["detectron2", "mmseg", "mmdet", "mmpretrain"]

Path = tuple[str | int, ...]
"""Where a value stands in a configuration: names of keys, and places in lists."""


class Change(Settings):
    """One value to put into the configuration."""

    path: Path
    value: Any


class Finding(Settings):
    """One trap."""

    rule: str
    """An id of `converters.lint.rules.RULES`."""
    key: str
    """The configuration's key, with dots."""
    found: str
    expected: str
    why: str
    fix: str
    """What to do about it, in one line."""
    severity: Severity = "error"
    """An error spoils the number; a warning makes it another one than the protocols' and does not fail the check."""
    changes: tuple[Change, ...] = ()
    """What `--fix` writes; empty where only the user can know the right value."""

    def lines(self) -> list[str]:
        """For people."""
        return [
            f"{self.severity:<7}  {self.rule}: {self.key} is {self.found}, expected {self.expected}",
            f"         why: {self.why}",
            f"         fix: {self.fix}",
        ]


class Report(Settings):
    """All of them."""

    config: str
    framework: Framework
    arch: str
    """Of the backbone that the configuration was held against."""
    fingerprint: str
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()
    """What is no fault, but must be known."""

    @property
    def errors(self) -> int:
        """How many findings spoil the number."""
        return sum(finding.severity == "error" for finding in self.findings)

    @property
    def clean(self) -> bool:
        """True without any error; warnings do not count."""
        return self.errors == 0

    def lines(self) -> list[str]:
        """For people: findings, notes, and a last line that sums up."""
        shown = [line for finding in self.findings for line in finding.lines()]
        shown += [f"note     {note}" for note in self.notes]
        warnings = len(self.findings) - self.errors
        verdict = "clean" if not self.findings else f"{_count(self.errors, 'error')}, {_count(warnings, 'warning')}"
        return [*shown, f"{self.config}: {verdict} for {self.arch} in {self.framework}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def dotted(path: Path) -> str:
    """A path as people write it: `model.backbone.depth`, `param_scheduler[1].end`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


class Findings:
    """Gathers findings while the rules of one framework run; `why` comes from the rule book where none is given."""

    def __init__(self) -> None:
        self.found: list[Finding] = []
        self.notes: list[str] = []

    def add(
        self,
        rule: str,
        path: Path,
        found: object,
        expected: object,
        *,
        fix: str | None = None,
        why: str | None = None,
        severity: Severity = "error",
        changes: dict[Path, Any] | None = None,
    ) -> None:
        """Add one.

        Args:
            rule: an id of `RULES`.
            path: where the value stands.
            found: the value itself, or words in a `Text`.
            expected: likewise.
            fix: one line; made from `changes` where None.
            why: the rule's own reason where None.
            severity: see `Finding`.
            changes: path -> value that cures it.
        """
        changes = changes or {}
        if fix is None:
            fix = "; ".join(f"set {shown(Text(dotted(place)))} to {shown(v)}" for place, v in changes.items())
        assert fix, f"{rule} says how it is cured"
        self.found.append(
            Finding(
                rule=rule,
                key=shown(Text(dotted(path))),
                found=shown(found),
                expected=shown(expected),
                why=why or RULES[rule].why,
                fix=fix,
                severity=severity,
                changes=tuple(Change(path=place, value=value) for place, value in changes.items()),
            )
        )

    def note(self, text: str) -> None:
        """Add a note, once."""
        text = printable(text)
        if text not in self.notes:
            self.notes.append(text)


class Text(str):
    """Words for `found` and `expected`, which are shown as they are; anything else is shown as a Python literal."""

    __slots__ = ()


def shown(value: object) -> str:
    """A value, or words, in a line's space."""
    if isinstance(value, Text):
        return printable(value)
    try:
        return printable(repr(value))
    except (ValueError, RecursionError):  # Python shows no whole number of more than 4300 digits
        return f"a {type(value).__name__} too large to show"


def printable(text: str) -> str:
    """Words without the characters that a terminal would obey, in a line's space."""
    text = "".join(one if one.isprintable() else repr(one)[1:-1] for one in text[:1000])
    return text if len(text) <= 160 else text[:157] + "..."
