"""Starts the processes of a group, on this machine or as this machine's share of several, and sees them to their end.

Several machines meet through torchrun's own rendezvous. Its agent is not used: it reports a failure as its own exit
code 1 with tracebacks, and after a signal it throws the workers' exit codes away, on which a scheduler requeues.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import NoReturn

from converters.child import die_with_parent
from converters.errors import EXIT_REQUEUE, CheckFailed, Stopped, UserError

GRACE = 300.0
"""Seconds that processes have after a signal to finish their step and write a checkpoint, before they are killed."""

GRACE_AFTER_FAILURE = 15.0
"""Seconds for the others when one has failed: with those that the watchdog takes to see it, still within a minute."""

_MEETING = 600
"""Seconds that may lie between the starts of two machines."""

_FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)
_WRONG_USE = 2
_LAUNCHER = "MOCO_TRANSFER_LAUNCHER"
"""Environment variable of the started processes: the process id of what started them."""


def is_worker() -> bool:
    """Whether this process was started by `launch`."""
    return _LAUNCHER in os.environ


def begin_worker() -> None:
    """Tie a process that `launch` started to the life of its launcher."""
    if is_worker():
        die_with_parent(int(os.environ[_LAUNCHER]))


def launched_rank() -> int:
    """The rank that `launch` or `torchrun` gave to this process, 0 without; known before and after the group lives."""
    return int(os.environ.get("RANK", "0"))


def tell_once(act: Callable[[], int]) -> int:
    """The result of `act`; of a mistake that all processes of a group meet, the first alone tells."""
    try:
        return act()
    except (UserError, CheckFailed) as error:
        from converters.distributed import HereFailed, HereOnly

        if launched_rank() and not isinstance(error, (HereOnly, HereFailed)):
            return 2 if isinstance(error, UserError) else 1
        raise
    except (Stopped, KeyboardInterrupt) as error:
        if launched_rank():
            return EXIT_REQUEUE if isinstance(error, Stopped) else 128 + signal.SIGINT
        raise


def launch(
    command: Sequence[str],
    processes: int,
    nodes: int = 1,
    rendezvous: str | None = None,
    program: str = "pretrain",
) -> int:
    """Run `command` in `processes` processes here, as one group with those of the other machines.

    SIGTERM, SIGUSR1, SIGINT and SIGHUP are passed on to the processes, which then have `GRACE` seconds. They die with
    this process, even when that is killed, if they call `begin_worker`.

    Args:
        command: of each process; torch's `env://` finds its place in the group.
        processes: on this machine.
        nodes: machines; the same must be started on each.
        rendezvous: HOST:PORT on one of the machines, where several meet.
        program: what its own messages begin with.

    Returns:
        0 if all processes end well; 75 if some ended on request and none failed; the exit code of the first that
        failed, 1 if that was killed; 128 + its number if a signal to this process ended them.

    Raises:
        UserError: for numbers or a rendezvous that make no sense, or in a process that a launcher has started already.
    """
    _check(processes, nodes, rendezvous)
    with _meeting_place(nodes, rendezvous) as place:
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, _cores() // processes))),
            # torch warns of each broken connection with the stack of its C++; what it means is told by the watchdog.
            "TORCH_CPP_LOG_LEVEL": os.environ.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
            "MASTER_ADDR": place.host,
            "MASTER_PORT": str(place.port),
            "TORCHELASTIC_USE_AGENT_STORE": str(place.in_launcher),
            "TORCHELASTIC_RESTART_COUNT": "0",
            "WORLD_SIZE": str(processes * nodes),
            "LOCAL_WORLD_SIZE": str(processes),
            _LAUNCHER: str(os.getpid()),
        }
        received: list[signal.Signals] = []
        with _collecting(received):
            workers = [
                _Worker(rank, _start(command, {**environment, "RANK": str(rank), "LOCAL_RANK": str(local)}))
                for local, rank in enumerate(range(place.node * processes, (place.node + 1) * processes))
            ]
            try:
                return _see_to_the_end(workers, received, program)
            finally:
                for worker in workers:
                    worker.process.kill()
                    worker.process.wait()


def _check(processes: int, nodes: int, rendezvous: str | None) -> None:
    for option, value in (("--processes", processes), ("--nodes", nodes)):
        if value < 1:
            raise UserError(expected="a whole number above 0", found=str(value), where=option)
    if "RANK" in os.environ:
        raise UserError(
            expected="one launcher",
            found="two: a process of torchrun's, which is told to start more",
            where="--processes, --nodes",
            cure="leave these options out, or torchrun",
        )
    if nodes == 1 and rendezvous is not None:
        raise UserError(expected="--nodes above 1", found="1", where="--rendezvous", cure="say how many machines meet")
    if nodes > 1:
        host, _, port = (rendezvous or "").rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise UserError(
                expected="HOST:PORT of one of the machines",
                found=repr(rendezvous) if rendezvous else "none",
                where="--rendezvous",
                cure=f"give the same to all {nodes}, as --rendezvous gpu01:29400",
            )


@dataclass(frozen=True)
class _Place:
    """Where the processes of all machines find each other."""

    host: str
    port: int
    node: int
    """This machine's number."""
    in_launcher: bool = True
    """Whether a launcher is the store's host already; else rank 0 becomes it."""


@contextmanager
def _meeting_place(nodes: int, rendezvous: str | None) -> Iterator[_Place]:
    if nodes == 1 or rendezvous is None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported in a way that mypy misses

        here = "127.0.0.1"
        store = TCPStore(here, 0, is_master=True, wait_for_workers=False)
        yield _Place(here, store.port, 0)
        return
    from torch.distributed.elastic.rendezvous import RendezvousHandler, RendezvousParameters
    from torch.distributed.elastic.rendezvous.api import RendezvousConnectionError, RendezvousError
    from torch.distributed.elastic.rendezvous.registry import get_rendezvous_handler

    # It warns about machines that are gone by the end, as they may be.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)
    logging.getLogger("torch.distributed.elastic.rendezvous.dynamic_rendezvous").setLevel(logging.CRITICAL)
    address, is_host = _own_address(rendezvous)

    def handler_of(**host: bool) -> RendezvousHandler:
        parameters = RendezvousParameters(
            "c10d", rendezvous, "moco-transfer", nodes, nodes, address, read_timeout=_MEETING, **host
        )
        return get_rendezvous_handler(parameters)

    try:
        try:
            handler = handler_of() if is_host is None else handler_of(is_host=is_host)
        except RendezvousConnectionError:
            if not is_host:
                raise
            handler = handler_of(is_host=False)  # another launcher on this machine was faster
        found = handler.next_rendezvous()
    except (RendezvousError, ValueError, RuntimeError) as error:
        _refuse(nodes, rendezvous, error)
    try:
        where = found.bootstrap_store_info
        assert where is not None, "this kind of rendezvous tells where"
        yield _Place(where.master_addr, where.master_port, found.rank, in_launcher=handler.use_agent_store)
    finally:
        with contextlib.suppress(RuntimeError):  # the others may be gone, and the rendezvous with them
            handler.shutdown()


def _refuse(nodes: int, rendezvous: str, error: Exception) -> NoReturn:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    raise UserError(
        expected=f"{nodes} machines to meet",
        found=reason,
        where=f"--rendezvous {rendezvous}",
        cure="start the same command on each, and let the port through",
    ) from None


def _own_address(rendezvous: str) -> tuple[str | None, bool | None]:
    """This machine's address on the way to the rendezvous, and whether it is that machine; None where only names tell.

    torch compares names instead, which fails where a machine's own name does not lead to its address in the cluster.
    """
    host, _, port = rendezvous.rpartition(":")
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # a datagram socket sends nothing to connect
            probe.connect((host, int(port)))
            own: str = probe.getsockname()[0]
            other: str = probe.getpeername()[0]
    except OSError:
        return None, None
    return (None if own.startswith("127.") else own), own == other


@dataclass
class _Worker:
    rank: int
    process: subprocess.Popen[bytes]


def _start(command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        # Ctrl-C comes to all processes of a terminal; in a session of its own, a worker meets it once, from here.
        start_new_session=True,
    )


@contextmanager
def _collecting(received: list[signal.Signals]) -> Iterator[None]:
    """Append the signals that come, instead of ending by them."""

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number))

    former = {each: signal.signal(each, note) for each in _FORWARDED}
    try:
        yield
    finally:
        for each, handler in former.items():
            signal.signal(each, signal.SIG_DFL if handler is None else handler)


def _see_to_the_end(workers: Sequence[_Worker], received: Sequence[signal.Signals], program: str) -> int:
    """Wait for all, pass signals on, and kill what does not end in time."""
    passed_on = 0
    first: _Worker | None = None
    deadline = float("inf")
    while True:
        running = [worker for worker in workers if worker.process.poll() is None]
        for number in received[passed_on:]:
            passed_on += 1
            deadline = min(deadline, time.monotonic() + GRACE)
            for worker in running:
                worker.process.send_signal(number)
        failed = [worker for worker in workers if worker.process.poll() not in (None, 0, EXIT_REQUEUE)]
        if failed and first is None:
            # Of several at once, a mistake is the cause and a broken connection the consequence.
            first = max(failed, key=lambda worker: worker.process.returncode)
            deadline = min(deadline, time.monotonic() + GRACE_AFTER_FAILURE)
            if first.process.returncode < 0 and not received:
                _tell(program, f"process {first.rank} was killed by {signal.Signals(-first.process.returncode).name}")
        if not running:
            # Who made a mistake may take longer to end than those who lose their group by it.
            mistaken = [worker for worker in workers if worker.process.returncode == _WRONG_USE]
            return _code(workers, mistaken[0] if first and mistaken else first, received)
        if time.monotonic() > deadline:
            ranks = ", ".join(str(worker.rank) for worker in running)
            _tell(program, f"killed, because they did not end in time: {ranks}")
            for worker in running:
                worker.process.kill()
                worker.process.wait()
            first = first or running[0]
        time.sleep(0.05)


def _code(workers: Sequence[_Worker], first: _Worker | None, received: Sequence[signal.Signals]) -> int:
    if first is not None:
        code = first.process.returncode
        if code < 0:
            return 128 + received[-1] if received else 1
        return code
    return max(worker.process.returncode for worker in workers)


def _tell(program: str, what: str) -> None:
    print(f"{program}: {what}", file=sys.stderr)  # noqa: T201 - the launcher speaks for processes that cannot


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
