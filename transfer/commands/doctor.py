"""`moco-transfer doctor`."""

from __future__ import annotations

import argparse

HELP = "say what this machine has and lacks, with the cure for each fault"
EXAMPLE = "moco-transfer doctor"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--quick", action="store_true", help="leave out all that loads a framework (half a minute)")
    parser.add_argument("--json", action="store_true", help="print JSON: a list of name, state, found, cure")


def run(args: argparse.Namespace) -> int:
    """Look, and tell line by line as things are known.

    Returns:
        1 when something that is needed is broken; a note, as that there is no GPU, is none.
    """
    import json
    from itertools import chain

    from transfer.doctor import machine

    findings = machine.findings()
    if not args.quick:
        from transfer.doctor import frameworks

        findings = chain(findings, frameworks.findings())
    seen = []
    for finding in findings:
        seen.append(finding)
        if not args.json:
            print(finding.line(), flush=True)
    if args.json:
        print(json.dumps([finding.model_dump() for finding in seen], indent=2))
    return int(any(finding.state == "fault" for finding in seen))
