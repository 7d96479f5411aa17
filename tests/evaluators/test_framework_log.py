from __future__ import annotations

import logging
import sys
from pathlib import Path

from evaluators.framework_log import framework_log


def test_a_second_attempt_starts_a_new_log(tmp_path: Path) -> None:
    file = tmp_path / "framework.log"
    for attempt in ("first", "second"):
        with framework_log(file, ("some.framework",)):
            logging.getLogger("some.framework").info("the %s attempt", attempt)
            sys.stdout.write(f"printed by the {attempt}\n")
    text = file.read_text()
    assert "the second attempt" in text
    assert "printed by the second" in text
    assert "first" not in text
