"""Pickles that would keep the reader busy, overflow its stack or fill the memory."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from converters import untrusted
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
    "integers that hash alike": (
        b"}(" + b"".join(whole(number * (2**61 - 1) + 5) + b"N" for number in range(1, 30_000)) + b"u",
        "numbers below 1,152,921,504,606,846,976 as names, found 2305843009213693956",
    ),
    "a negative one": (b"}" + whole(-(1 << 60)) + b"Ns", "as names, found -1152921504606846976"),
    "a float that is no number": (b"}G\x7f\xf8\0\0\0\0\0\0Ns", "as names, found nan"),
    "an infinite name": (b"}G\x7f\xf0\0\0\0\0\0\0Ns", "as names, found inf"),
    "many numbers for names": (
        b"(" + b"".join(b"}" + whole(number) + b"Ns" for number in range(8193)) + b"t",
        "at most 8,192 names that are no strings",
    ),
    "a tuple for many arguments": (
        named("collections.OrderedDict") + b"q\x00(" + b"K\x01" * 65 + b"tq\x01" + b"h\x00h\x01R",
        "at most 64 arguments in a call",
    ),
    "many calls": (
        named("collections.OrderedDict") + b"q\x00(" + b"h\x00)R" * 100_001 + b"t",
        "at most 100,000 calls and states in a pickle",
    ),
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


SETS: dict[str, tuple[bytes, str]] = {
    "a set of integers that hash alike": (
        named("builtins.set") + b"](" + b"".join(whole(n * (2**61 - 1) + 5) for n in range(1, 30_000)) + b"e\x85R",
        "numbers below 1,152,921,504,606,846,976 as names",
    ),
    "a set of many names": (
        named("builtins.set") + b"](" + b"".join(text(str(number)) for number in range(100_001)) + b"e\x85R",
        "at most 100,000 names",
    ),
    "a set made of one list again and again": (
        b"(]("
        + b"".join(text(str(number)) for number in range(1000))
        + b"eq\x00"
        + named("builtins.set")
        + b"q\x01"
        + b"h\x01h\x00\x85R" * 101
        + b"t",
        "at most 100,000 names",
    ),
    "a counter made of one dictionary again and again": (
        b"(}("
        + b"".join(text(str(number)) + b"K\x01" for number in range(1000))
        + b"uq\x00"
        + named("collections.Counter")
        + b"q\x01"
        + b"h\x01h\x00\x85R" * 101
        + b"t",
        "at most 100,000 names",
    ),
    "a size of many dimensions": (
        named("torch.Size") + b"(" + b"K\x01" * 17 + b"t\x85R",
        "plain arguments of torch.Size",
    ),
    "classes without end": (
        b"(" + b"".join(named(f"argparse.a{number}") for number in range(3000)) + b"t",
        "at most 64 classes of hyper-parameters and logs",
    ),
}


@pytest.mark.parametrize("container", CONTAINERS[:2])
@pytest.mark.parametrize("case", SETS)
def test_a_bomb_of_what_torch_admits_is_refused(tmp_path: Path, container: str, case: str) -> None:
    operations, message = SETS[case]
    assert message in refusal(tmp_path / "c.pth", inside(container, content(operations)))


def test_items_added_to_a_set_are_names(tmp_path: Path) -> None:
    alike = b"".join(whole(number * (2**61 - 1) + 5) for number in range(1, 30_000))
    many = b"".join(text(str(number)) for number in range(100_001))
    for items, message in ((alike, "numbers below"), (many, "at most 100,000 names")):
        stream = content(b"\x8f(" + items + b"\x90").replace(b"\x80\x02", b"\x80\x04")
        assert message in refusal(tmp_path / "c.pkl", stream)


@pytest.mark.parametrize("protocol", [2, 4])
def test_arrays_made_of_the_same_bytes_again_and_again_are_refused(tmp_path: Path, protocol: int) -> None:
    one = b"B" + struct.pack("<I", 100_000) + bytes(100_000)
    call = b"h\x01" + whole(25_000) + b"h\x02h\x00\x87R"
    made = named("numpy.ndarray") + b"q\x01" + text("<f4") + b"q\x02" + call * 9
    stream = content(b"(" + one + b"q\x00" + made + b"t").replace(b"\x80\x02", bytes([0x80, protocol]))
    assert "arrays of at most 8 times the file's" in refusal(tmp_path / "c.pkl", stream)


@pytest.mark.parametrize("container", CONTAINERS)
def test_parameters_named_by_their_addresses_are_read(tmp_path: Path, container: str) -> None:
    # As optimizers of torch before 1.6 name them; on some machines, an address has 56 bits.
    names = [139_637_976_727_552 + 64 * number for number in range(4000)] + [(1 << 56) - 8, -1, 0]
    path = tmp_path / "c.pth"
    path.write_bytes(inside(container, content(b"}(" + b"".join(whole(name) + b"N" for name in names) + b"u")))
    assert list(untrusted.load(path).content["state_dict"]) == names


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
