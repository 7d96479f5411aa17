from __future__ import annotations

import sys
from typing import Any

import pytest

from converters.child import answer
from transfer.doctor import child, frameworks
from transfer.doctor.finding import Finding

GPU = {"name": "H100", "capability": [9, 0], "memory": 80 << 30, "fault": None}
SOUND: dict[str, Any] = {
    "torch": "2.15",
    "torchvision": "0.29",
    "nms": True,
    "built for": "13.2",
    "archs": ["sm_80", "sm_90"],
    "gpus": [],
    "gloo": True,
    "nccl": True,
    "group": None,
}


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def test_torch_here_is_seen_as_it_is() -> None:
    """In this process: torch is loaded already."""
    said = child.torch()
    assert states(list(frameworks.torch((said, None)))) == {"torch": "ok", "processes": "ok"}
    found = states(list(frameworks.cuda((said, None), None)))
    assert found == {"GPU": "note", "SyncBN": "note"} or found["SyncBN"] == "ok"


def test_faiss_here_searches() -> None:
    said = answer([sys.executable, "-m", "transfer.doctor.child", "faiss"], 120)
    assert said[1] is None
    assert frameworks.faiss(said).state == "ok"
    wrong = dict(said[0], rows=[row[::-1] for row in said[0]["rows"]])
    assert frameworks.faiss((wrong, None)).found.endswith("a search found wrong neighbours")


@pytest.mark.parametrize(
    ("change", "driver", "name", "state", "cure"),
    [
        pytest.param({}, None, "GPU", "note", "", id="no GPU"),
        pytest.param({}, "driver 535 with H100", "GPU", "fault", "driver is too old", id="old driver"),
        pytest.param({"built for": None}, "driver 535 with H100", "GPU", "fault", "CUDA build", id="CPU wheel"),
        pytest.param({"gpus": [GPU]}, "driver 600 with H100", "GPU 0", "ok", "", id="sound"),
        pytest.param(
            {"gpus": [GPU | {"capability": [7, 0], "fault": "no kernel image"}]},
            "driver 600 with V100",
            "GPU 0",
            "fault",
            "get_arch_list",
            id="no code for it",
        ),
        pytest.param(
            {"gpus": [GPU | {"fault": "CUDA out of memory"}]}, None, "GPU 0", "fault", "nvidia-smi", id="full"
        ),
        pytest.param({"gpus": [GPU], "group": "nccl: no device"}, None, "SyncBN", "fault", "process group", id="NCCL"),
    ],
)
def test_gpus(change: dict[str, Any], driver: str | None, name: str, state: str, cure: str) -> None:
    found = {finding.name: finding for finding in frameworks.cuda((SOUND | change, None), driver)}
    assert found[name].state == state
    assert cure in (found[name].cure or "")
    assert (found[name].cure is None) == (cure == "")


@pytest.mark.parametrize(
    ("capability", "archs", "found"),
    [
        ((9, 0), ["sm_80", "sm_90"], True),
        ((8, 6), ["sm_80", "sm_90"], True),  # machine code runs on later minor versions
        ((8, 0), ["sm_86"], False),
        ((10, 0), ["sm_90"], False),
        ((10, 0), ["sm_90", "compute_90"], True),  # PTX is compiled for what comes later
        ((9, 0), ["sm_90a"], True),
        ((10, 0), ["sm_90a", "compute_90a"], False),
        ((12, 0), ["sm_100", "sm_120"], True),
        ((7, 0), [], False),
    ],
)
def test_which_code_runs_on_which_gpu(capability: tuple[int, int], archs: list[str], found: bool) -> None:
    assert frameworks.built_for(capability, archs) is found


def test_what_breaks_and_what_is_absent() -> None:
    broken = (None, "crashed (SIGSEGV)")
    assert states(list(frameworks.torch(broken))) == {"torch": "fault"}
    assert not list(frameworks.cuda(broken, None))
    assert frameworks.faiss(broken).found == "a search crashed (SIGSEGV)"
    (absent,) = frameworks.framework("nothing", ("no_such_package",), ("detection", "pip install it"), broken)
    assert (absent.state, absent.cure) == ("note", "for detection: pip install it")
    (fault,) = frameworks.framework("numpy", ("numpy",), ("detection", "pip install it"), broken)
    assert (fault.state, fault.found) == ("fault", "importing it crashed (SIGSEGV)")
    (wrong, group) = frameworks.torch((SOUND | {"nms": False, "group": "gloo: no network"}, None))
    assert (wrong.state, group.state) == ("fault", "fault")


def test_knn_does_without_faiss_on_gpus() -> None:
    built, none = {"built for GPUs": True}, {"built for GPUs": False}
    assert frameworks.faiss_gpu(built, 0, "FAISS sees no GPU").state == "note"
    assert frameworks.faiss_gpu(built, 2, None).state == "ok"
    crashed = frameworks.faiss_gpu(built, 1, "its trial search crashed (SIGABRT)")
    assert (crashed.state, crashed.found) == ("note", "its trial search crashed (SIGABRT)")
    assert crashed.cure is not None
    assert "torch on the GPU" in crashed.cure
    assert frameworks.faiss_gpu(none, 1, "…").found == "this FAISS is built without GPUs"


@pytest.mark.parametrize(
    ("code", "became"),
    [
        ("print('noise'); print('[1, 2]')", None),
        ("import os; os.abort()", "crashed (SIGABRT)"),
        ("raise ImportError('libcudart.so.13: cannot open')", "failed: ImportError: libcudart.so.13: cannot open"),
        ("raise SystemExit(3)", "ended with exit code 3"),
        ("pass", "gave no answer that can be read"),
        ("import time; time.sleep(60)", "gave no answer in 0.5 s"),
    ],
)
def test_a_child_is_asked_and_may_do_what_it_wants(code: str, became: str | None) -> None:
    patience = 0.5 if "sleep" in code else 60
    assert answer([sys.executable, "-c", code], patience) == ([1, 2] if became is None else None, became)
