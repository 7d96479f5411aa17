"""What every command line of the toolkit does with errors: one line, an exit code, no traceback for a mistake."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable

from converters.errors import EXIT_REQUEUE, CheckFailed, Stopped, UserError
from converters.seed import parse_seed


def seed(text: str) -> int:
    """The type of every `--seed` (see `converters.seed`)."""
    try:
        return parse_seed(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def exit_code(program: str, run: Callable[[], int], wrong_use: tuple[type[Exception], ...] = (UserError,)) -> int:
    """The result of `run`, or the exit code of its error, which is shown as one line.

    Args:
        program: the name before the message.
        run: the command.
        wrong_use: what else counts as a user's mistake.

    Returns:
        What `run` returns (0 when done); 1 when a check failed or the system refused, as a full disk does; 2 for wrong
        use; 75 when stopped on request with all work saved; 130 when interrupted, 141 when nobody reads the output.
    """
    try:
        return run()
    except wrong_use as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - this is the command line's voice
        return 2
    except (CheckFailed, Stopped) as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return EXIT_REQUEUE if isinstance(error, Stopped) else 1
    except KeyboardInterrupt:
        message = "interrupted; what was finished is kept"
        print(f"{program}: {message}", file=sys.stderr)  # noqa: T201 - likewise
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away (`… | head`): end as the shell's own tools do.
        sys.stderr.close()
        return 128 + signal.SIGPIPE
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"{program}: {place}{error.strerror or error}", file=sys.stderr)  # noqa: T201 - likewise
        return 1
