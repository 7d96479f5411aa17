"""Keeps a framework's own output (logging, prints, warnings) in a file, so that a run's terminal stays readable."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def framework_log(file: Path, loggers: Sequence[str]) -> Iterator[None]:
    """Write to `file` what these loggers, `print` and `warnings` say inside the block; all is as before afterwards.

    A file that is there, of an earlier attempt, is replaced.

    Standard error stays as it is: progress is shown there.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(file.open("w", encoding="utf-8", buffering=1))
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s", "%m-%d %H:%M:%S"))
        for name in (*loggers, "py.warnings"):
            logger = logging.getLogger(name)
            stack.callback(_restore, logger, logger.handlers, logger.level, logger.propagate)
            logger.handlers, logger.propagate = [handler], False
            logger.setLevel(logging.INFO)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        logging.captureWarnings(True)
        stack.callback(logging.captureWarnings, False)
        stack.enter_context(contextlib.redirect_stdout(stream))
        yield


def _restore(logger: logging.Logger, handlers: list[logging.Handler], level: int, propagate: bool) -> None:
    logger.handlers, logger.level, logger.propagate = handlers, level, propagate
