"""What a few bytes ask for is not given: files read under a limit of memory and of time, in a process of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.converters.hostile.test_storages import before
from tests.hostile import content, legacy, named, numbers, storage, tensor, text, whole, zipped

MEGABYTES = 300
"""Of private memory that the reader may take for any of the files, the largest of which has 13 MB. What they ask for
begins at 1 GB."""

CHILD = """
import resource, sys, time
from pathlib import Path
import torch
from converters import families
from converters.errors import UserError

torch.ones(1).sum()
pages = int(Path("/proc/self/statm").read_text().split()[5])
limit = pages * resource.getpagesize() + ({megabytes} << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
try:
    bytearray({megabytes} << 21)
except MemoryError:
    pass
else:
    sys.exit("the limit does not hold")
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.monotonic()
    try:
        families.read(path)
    except UserError as error:
        assert str(path) in str(error), error
        assert "memory" not in str(error).lower() and "alloc" not in str(error).lower(), error
    else:
        sys.exit(f"{{path}} was read")
    assert time.monotonic() - start < 60, path
    print(path.name)
"""


def bombs() -> dict[str, bytes]:
    """Files of at most 13 MB that ask for gigabytes."""
    four = bytes(16)
    million = b"}(" + b"".join(text(str(number)) + b"N" for number in range(1_000_000)) + b"u"
    objects = b"(" + b")" * 3_000_000 + b"t"
    gigantic = tensor(storage(items=1 << 31))
    spread = tensor(storage(), shape=(1 << 40,), strides=(0,))
    places = b"Nr\xff\xff\xff\x7f"
    by_number = named("builtins.bytearray") + whole(1 << 33) + b"\x85R"
    twice = b"(]q\x00" + b"](h\x00h\x00eq\x00" * 60 + b"t"
    array = b"\x80\x04}" + text("x") + named("numpy.ndarray") + b"(" + numbers(1 << 33) + text("<f8") + b"C\x00tRs."
    frame = b"\x80\x04\x95" + (1 << 36).to_bytes(8, "little") + b"}."
    either = {
        "places": places,
        "by_number": by_number,
        "twice": twice,
        "long": b"X\xff\xff\xff\x0f",
        "longer": b"\x8e" + (1 << 36).to_bytes(8, "little"),
    }
    files = {f"{name}.pkl": content(operations) for name, operations in either.items()}
    files |= {f"{name}.pth": zipped(content(operations), {"0": four}) for name, operations in either.items()}
    files |= {f"{name}.old.pth": legacy(content(operations), {"0": four}) for name, operations in either.items()}
    for name, operations in (("gigantic", gigantic), ("spread", spread)):
        files[f"{name}.pth"] = zipped(content(operations), {"0": four})
        files[f"{name}.old.pth"] = legacy(content(before(operations)), {"0": four})
    return files | {
        "array.pkl": array,
        "names.pkl": content(million),
        "objects.pth": zipped(content(objects)),
        "frame.pkl": frame,
        "header.safetensors": (1 << 36).to_bytes(8, "little") + b"{",
        "rows.safetensors": (12 << 20).to_bytes(8, "little") + b'{"a":[' + b"[]," * (4 << 20),
        "shape.safetensors": b"\x3a\0\0\0\0\0\0\0"
        + b'{"a":{"dtype":"F32","shape":[9999999999],"data_offsets":[0,0]}}'[:58],
    }


def test_what_a_few_bytes_ask_for_is_not_given(tmp_path: Path) -> None:
    folder = tmp_path / "bombs"
    folder.mkdir()
    files = bombs()
    for name, data in files.items():
        assert len(data) < 14 << 20
        (folder / name).write_bytes(data)
    code = CHILD.format(megabytes=MEGABYTES)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=Path(__file__).parents[3],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == sorted(files)
