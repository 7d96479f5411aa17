"""Two network namespaces joined by a cable stand for two machines, which pretrain together."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.pretrain.made_images import make_images

ROOT = Path(__file__).parents[2]
RECIPE = ["quickstart-moco-v2@1", "--seed", "5", "--device", "cpu", "--bn-groups", "2"]
RECIPE += [
    word
    for assignment in ("epochs=1", "batch_size=8", "image_size=32", "queue_size=32")
    for word in ("--set", assignment)
]
PORT = 29400  # of the namespaces' own: no other test can hold it


@dataclass(frozen=True)
class Machine:
    """A network namespace with one interface, beside its loopback."""

    namespace: str
    interface: str
    address: str

    def start(self, words: list[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, sys.executable, *words],
            cwd=ROOT,
            # The name of this host means nothing in there: gloo must be told its interface.
            env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": self.interface},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def machines() -> Iterator[tuple[Machine, Machine]]:
    if shutil.which("ip") is None:
        pytest.skip("two network namespaces need the command `ip`")
    mark = uuid.uuid4().hex[:6]  # an interface's name has 15 characters at most
    pair = (Machine(f"a-{mark}", f"va-{mark}", "10.99.0.1"), Machine(f"b-{mark}", f"vb-{mark}", "10.99.0.2"))
    one, two = pair
    try:
        try:
            for machine in pair:
                ip("netns", "add", machine.namespace)
            ip(
                "link",
                "add",
                one.interface,
                "netns",
                one.namespace,
                "type",
                "veth",
                "peer",
                two.interface,
                "netns",
                two.namespace,
            )
            for machine in pair:
                inside = ("-n", machine.namespace)
                ip(*inside, "address", "add", f"{machine.address}/24", "dev", machine.interface)
                ip(*inside, "link", "set", machine.interface, "up")
                ip(*inside, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
        yield pair
    finally:
        for machine in pair:
            subprocess.run(["ip", "netns", "delete", machine.namespace], check=False, capture_output=True)


def run_all(processes: list[subprocess.Popen[str]]) -> list[str]:
    """What each said, once all have ended well."""
    try:
        said = [process.communicate(timeout=200)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(said)
    return said


def weights(out: Path) -> dict[str, torch.Tensor]:
    content = torch.load(out / "checkpoint_0000.pth.tar", weights_only=True)
    assert content["group"]["processes"] == 2
    state: dict[str, torch.Tensor] = content["state_dict"]
    return state


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_images(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture(scope="module")
def alone(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of the same two processes on this one machine."""
    out = tmp_path_factory.mktemp("alone") / "run"
    words = [sys.executable, "-m", "pretrain", *RECIPE, "--data", str(images), "-o", str(out), "--processes", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return weights(out)


@pytest.mark.parametrize("launcher", ["torchrun", "our own"])
def test_two_machines_train_as_two_processes_do(
    machines: tuple[Machine, Machine], images: Path, alone: dict[str, torch.Tensor], tmp_path: Path, launcher: str
) -> None:
    rendezvous = f"{machines[0].address}:{PORT}"
    work = ["-m", "pretrain", *RECIPE, "--data", str(images), "-o", str(tmp_path / "run")]
    started = []
    for number, machine in enumerate(machines):
        if launcher == "torchrun":
            torchrun = ["-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
            torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", rendezvous, "--local-addr", machine.address]
            torchrun += ["--rdzv-conf", f"is_host={1 - number}"]  # it would compare this host's name, which all share
            words = [*torchrun, *work]
        else:
            words = [*work, "--nodes", "2", "--rendezvous", rendezvous]
        started.append(machine.start(words))
    said = run_all(started)
    assert sum("batch: 8 over 2 processes on cpu" in text for text in said) == 1
    found = weights(tmp_path / "run")
    assert found.keys() == alone.keys()
    for name, value in found.items():
        assert torch.equal(value, alone[name]), name
