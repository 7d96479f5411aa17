"""What frozen-feature evaluation costs, one part after the other: each holds two ways side by side in one run.

    python -m benchmarks.frozen                  # (a) neighbours, (b) heads, (c) extraction, (d) memory
    python -m benchmarks.frozen --only b c

The parts are commands of their own, with options: `python -m benchmarks.neighbours --help`, likewise `heads` and
`extraction`.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

PARTS = {
    "a": ("benchmarks.neighbours",),
    "b": ("benchmarks.heads",),
    "c": ("benchmarks.extraction",),
    "d": ("benchmarks.neighbours", "--memory"),
}


def main() -> int:
    """Run the parts; each in a process of its own, so that none leaves its threads or memory to the next."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts (all)")
    codes = []
    for part in parser.parse_args().only:
        print(f"({part}) python -m {' '.join(PARTS[part])}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", *PARTS[part]], check=False).returncode)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())
