"""Results of fits, kept as they come: a job that was cut off goes on behind them, with any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter

from converters import files
from converters.distributed import gather_values, rank, together
from evaluators.job import Job

T = TypeVar("T")


class Kept(Generic[T]):
    """The results of one list of tasks in the job's folder of unfinished work, by their place in the list.

    Every process writes a file of its own. What an attempt with other settings, backbone, data or seed left is ignored,
    and replaced.

    Args:
        job: whose tasks they are. A job that is done afresh ignores what it finds.
        data_fingerprint: of the images.
        name: of the list, which with the job decides what each task is.
        kind: of a result, made of plain values.
    """

    def __init__(self, job: Job, data_fingerprint: str, name: str, kind: type[T]) -> None:
        self._folder, self._name = job.unfinished, name
        self._identity, self._fresh = job.identity(data_fingerprint), job.fresh
        self._results: TypeAdapter[dict[int, T]] = TypeAdapter(dict[int, kind])  # type: ignore[valid-type]
        self._mine: dict[int, T] = {}

    def load(self) -> dict[int, T]:
        """What all processes of earlier attempts kept, the same in every process.

        Raises:
            UserError, CheckFailed: in every process, where the main process cannot write.
        """

        def action() -> None:
            # Before a process replaces a file of an earlier attempt, all that such files hold is in the main one's.
            if rank() == 0:
                found = sorted(self._folder.glob(f"{self._name}-*.json"))
                for path in found if not self._fresh else ():
                    self._mine |= self._read(path)
                self._write()
                for path in found:
                    if path != self._path:
                        path.unlink()

        together(action)
        return dict(gather_values(self._mine)[0])

    def add(self, index: int, result: T) -> None:
        """Keep another result.

        Raises:
            UserError, CheckFailed: in this process, where it cannot write.
        """
        self._mine[index] = result
        self._write()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._name}-{rank()}.json"

    def _write(self) -> None:
        content = {"identity": self._identity, "results": self._results.dump_python(self._mine, mode="json")}
        with files.whole(self._path) as partial:
            partial.write_text(json.dumps(content))

    def _read(self, path: Path) -> dict[int, T]:
        try:
            saved = json.loads(path.read_text())
            return self._results.validate_python(saved["results"]) if saved["identity"] == self._identity else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # what can be computed again is no loss
