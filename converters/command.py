"""What every command line of the toolkit does with errors: one line, an exit code, no traceback for a mistake."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from converters.errors import CheckFailed, UserError


def exit_code(program: str, run: Callable[[], int], wrong_use: tuple[type[Exception], ...] = (UserError,)) -> int:
    """The result of `run`, or the exit code of its error, which is shown as one line.

    Args:
        program: the name before the message.
        run: the command.
        wrong_use: what else counts as a user's mistake.

    Returns:
        What `run` returns (0 when done); 1 when a check failed, 2 for wrong use, 130 when interrupted.
    """
    try:
        return run()
    except wrong_use as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - this is the command line's voice
        return 2
    except CheckFailed as error:
        print(f"{program}: {error}", file=sys.stderr)  # noqa: T201 - likewise
        return 1
    except KeyboardInterrupt:
        message = "interrupted; what was finished is kept, the same command goes on"
        print(f"{program}: {message}", file=sys.stderr)  # noqa: T201 - likewise
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # The reader of our output went away (`… | head`): that is no failure of ours.
        sys.stderr.close()
        return 0
