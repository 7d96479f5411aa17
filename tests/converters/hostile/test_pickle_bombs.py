"""Pickles that would keep the reader busy, overflow its stack or fill the memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.hostile import CONTAINERS, content, inside, named, numbers, refusal, text, whole, zipped

BOMBS: dict[str, tuple[bytes, str]] = {
    "a place of the memo": (b"Nr\xff\xff\xff\x7f", r"found place 2,147,483,647 after"),
    "a million places": (b"Nr\x40\x42\x0f\x00", r"found place 1,000,000 after"),
    "nested tuples": (b")" + b"\x85" * 100_000, "containers at most 64 deep"),
    "nested lists": (b"]" * 1000 + b"a" * 999, "containers at most 64 deep"),
    "nested from the inside": (
        # Each list is put into the one before while it is empty, and filled afterwards.
        b"]q\x00"
        + b"".join(b"]q" + bytes([i + 1]) + b"h" + bytes([i]) + b"h" + bytes([i + 1]) + b"a" for i in range(200)),
        "whole when they are put into others",
    ),
    "a list in itself": (b"]q\x00h\x00a", "found one that refers to itself"),
    "a dictionary in itself": (b"}q\x00" + text("x") + b"h\x00s", "found one that refers to itself"),
    "bytes by their number": (named("builtins.bytearray") + whole(10**12) + b"\x85R", "bytes in a call"),
    "a text longer than the file": (b"X\xff\xff\xff\x0f", "a length of 268,435,455 with"),
    "a text of gigabytes": (b"X\xff\xff\xff\x7f", "found one of 2,147,483,647"),
    "bytes longer than the file": (b"\x8e" + (1 << 40).to_bytes(8, "little"), "a length of 1,099,511,627,776 with"),
    "a frame longer than the file": (b"\x95" + (1 << 40).to_bytes(8, "little"), "a frame of 1,099,511,627,776 bytes"),
    "a long integer": (b"\x8a\xff" + b"\x01" * 255, "found one of 255"),
    "colliding keys": (b"}" + numbers(1, 2) + b"Ns", "found a tuple as a name"),
    "a long name": (b"}" + text("x" * 2000) + b"Ns", "found one of more than 1024 bytes"),
    "a name twice": (b"}(" + (text("x") + b"N") * 2 + b"u", "found 'x' twice"),
    "a name twice, in two steps": (b"}" + (text("x") + b"Ns") * 2, "found 'x' twice"),
    "a name as a number and as text": (b"}(K\x01N" + text("1") + b"Nu", "found '1' twice"),
    "a number of two types": (b"}(K\x01N\x88Nu", "found True twice"),
    "a name that is no text": (b"}" + text("\ud800") + b"Ns", "a damaged one"),
    "nothing on the stack": (b"a", "a damaged one"),
    "a place that was not filled": (b"h\x09", "a damaged one"),
    "a call of a number": (b"K\x01)R", "a call of 1"),
}


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("case", BOMBS)
def test_a_bomb_is_refused(tmp_path: Path, container: str, case: str) -> None:
    operations, message = BOMBS[case]
    assert message in refusal(tmp_path / "c.pth", inside(container, content(operations)))


@pytest.mark.parametrize("container", CONTAINERS)
def test_lists_each_twice_in_the_next_are_refused(tmp_path: Path, container: str) -> None:
    step = b"](h\x00h\x00eq\x00"
    # Each takes the other's place in the memo; all stay on the stack, and are gathered in one.
    stream = content(b"(]q\x00" + step * 50 + b"t")
    assert "values in a pickle, those counted twice" in refusal(tmp_path / "c.pth", inside(container, stream))


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_million_names_are_refused(tmp_path: Path, container: str) -> None:
    names = b"".join(text(str(number)) + b"N" for number in range(1_000_000))
    stream = content(b"}(" + names + b"u")
    assert "expected at most 1,000,000 operations in a pickle, found more" in refusal(
        tmp_path / "c.pth", inside(container, stream)
    )


@pytest.mark.parametrize("container", CONTAINERS)
def test_many_names_in_many_dictionaries_are_refused(tmp_path: Path, container: str) -> None:
    one = b"}(" + b"".join(text(str(number)) + b"N" for number in range(1000)) + b"u"
    stream = content(b"(" + one * 101 + b"t")
    assert "expected at most 100,000 names, found more" in refusal(tmp_path / "c.pth", inside(container, stream))


@pytest.mark.parametrize("protocol", [0, 1, 6, 255])
def test_an_unknown_protocol_is_named(tmp_path: Path, protocol: int) -> None:
    line = refusal(tmp_path / "c.pth", zipped(b"\x80" + bytes([protocol]) + b"}."))
    assert f"expected a pickle of protocol 2, found protocol {protocol}" in line
