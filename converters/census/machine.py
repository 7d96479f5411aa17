"""A pickle's operations, followed without executing them: what would be built, and whether that can be let happen.

Operations are those of CPython's Lib/pickletools.py, of protocols 2 to 5. What no writer of checkpoints uses is
refused, so that the readers that come after meet nothing else: text operations of protocols 0 and 1, the extension
registry, duplicated and popped values, containers that change after they were put into another (whence cycles).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Callable
from typing import Any

from converters.census import limits
from converters.census.limits import Refused, clip, not_admitted, too_many
from converters.census.things import Rules, Tally, Thing

_KEY_TYPES = (str, bytes, int, float, bool, type(None))


class Machine:
    """Follows one pickle.

    Args:
        data: the file's bytes.
        rules: what is admitted.
        tally: counts that go on over several pickles.
        position: where the pickle starts.
        protocols: those that the reader knows.
    """

    def __init__(
        self, data: bytes | mmap.mmap, rules: Rules, tally: Tally, position: int = 0, protocols: tuple[int, ...] = (2,)
    ) -> None:
        self._data, self._rules, self._tally, self._protocols = data, rules, tally, protocols
        self._end = len(data)
        self.position = position
        """After `run`: where the pickle ended."""
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._started = position

    def run(self) -> Any:
        """What would be built: a number, a short text, None, or a `Thing`.

        Raises:
            Refused: if it is damaged, or would do what is not admitted.
        """
        tally, data = self._tally, self._data
        if data[self.position : self.position + 1] != b"\x80":
            raise self._damaged("no protocol at its start")
        try:
            while True:
                operation = data[self.position]
                self.position += 1
                tally.operations += 1
                if tally.operations > limits.MAX_OPERATIONS:
                    raise too_many("operations in a pickle", limits.MAX_OPERATIONS)
                if operation == _STOP:
                    break
                handler = _HANDLERS[operation]
                if handler is None:
                    raise Refused("operations that writers of checkpoints use", f"0x{operation:02x} in a pickle")
                handler(self)
            if len(self._stack) != 1 or self._marks:
                raise self._damaged("more or less than one value at its end")
            root = self._stack[0]
            if type(root) is Thing and root.weight > limits.MAX_VALUES:
                raise too_many("values in a pickle, those counted twice that it refers to twice", limits.MAX_VALUES)
            return root
        except (IndexError, struct.error, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
            raise self._damaged(type(error).__name__) from None

    def _damaged(self, reason: str) -> Refused:
        return Refused("a whole pickle", f"a damaged one ({reason} at byte {self.position})")

    # The bytes of an operation

    def _take(self, count: int) -> bytes:
        start = self.position
        self._skip(count)
        return self._data[start : start + count]

    def _skip(self, count: int) -> None:
        if count > self._end - self.position:
            raise self._damaged(f"a length of {count:,} with {self._end - self.position:,} bytes left")
        self.position += count

    def _length(self, size: int) -> int:
        return int.from_bytes(self._take(size), "little")

    def _line(self) -> str:
        found = self._data.find(b"\n", self.position, self.position + limits.MAX_NAME_BYTES)
        if found < 0:
            raise self._damaged("a name without an end")
        text = self._data[self.position : found].decode("utf-8")
        self.position = found + 1
        return text

    # Plain values

    def _protocol(self) -> None:
        protocol = self._data[self.position]
        self.position += 1
        if protocol not in self._protocols:
            known = " or ".join(map(str, self._protocols))
            raise Refused(
                f"a pickle of protocol {known}", f"protocol {protocol}", "save it anew, without pickle_protocol"
            )
        if self.position != self._started + 2:
            raise self._damaged("a protocol in its midst")

    def _frame(self) -> None:
        size = self._length(8)
        if size > self._end - self.position:
            raise self._damaged(f"a frame of {size:,} bytes with {self._end - self.position:,} left")

    def _long(self) -> None:
        size = self._length(1)
        if size > limits.MAX_INTEGER_BYTES:
            raise Refused(f"integers of at most {limits.MAX_INTEGER_BYTES} bytes", f"one of {size}")
        self._stack.append(int.from_bytes(self._take(size), "little", signed=True))

    def _text(self, size: int, encoding: str = "utf-8") -> None:
        if size > limits.MAX_TEXT_BYTES:
            raise Refused(f"strings of at most {limits.MAX_TEXT_BYTES:,} bytes", f"one of {size:,}")
        if size <= limits.MAX_NAME_BYTES:
            self._stack.append(self._take(size).decode(encoding))
        else:
            self._skip(size)
            self._stack.append(Thing("text", 0, weight=1 + size // limits.MAX_NAME_BYTES))

    def _bytes(self, size: int) -> None:
        if size <= limits.MAX_NAME_BYTES:
            self._stack.append(self._take(size))
        else:
            self._bytearray(size)

    def _bytearray(self, size: int) -> None:
        self._skip(size)
        self._stack.append(Thing("bytes", 0, weight=1 + size // limits.MAX_NAME_BYTES))

    # Containers

    def _since_mark(self) -> list[Any]:
        items = self._stack
        self._stack = self._marks.pop()
        return items

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def place(self, items: list[Any], target: Thing) -> None:
        """Put these into a container, and count its depth and weight."""
        deepest, weight = 0, len(items)
        for item in items:
            if type(item) is Thing:
                item.placed = True
                weight += item.weight
                deepest = max(deepest, item.depth)
        if target.placed:
            raise Refused("containers that are whole when they are put into others", "one that refers to itself")
        if deepest >= limits.MAX_DEPTH:
            raise Refused(f"containers at most {limits.MAX_DEPTH} deep", "deeper ones in a pickle")
        target.depth = max(target.depth, deepest + 1)
        target.weight = min(target.weight + weight, _HEAVY)

    def _tuple(self, items: list[Any]) -> None:
        made = Thing("tuple", parts=tuple(items))
        self.place(items, made)
        self._stack.append(made)

    def _last(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _changed(self, *kinds: str) -> Thing:
        """The container on top of the stack, to which something is added."""
        target = self._stack[-1]
        if type(target) is not Thing or target.kind not in kinds:
            if type(target) is Thing and target.name:
                raise not_admitted(target.name)
            raise self._damaged(f"no {kinds[0]} to add to")
        return target

    def _extend(self, items: list[Any]) -> None:
        target = self._changed("list")
        self.place(items, target)
        assert isinstance(target.parts, list)
        target.parts += items

    def _add_to_set(self) -> None:
        items = self._since_mark()
        target = self._changed("set")
        for item in items:
            self.key(item)
        self.place(items, target)

    def _set_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self._damaged("a key without a value")
        self.fill(self._changed("dict"), items[::2], items[1::2])

    def fill(self, target: Thing, keys: list[Any], values: list[Any]) -> None:
        """Put keys and values into a dictionary."""
        self.place(values, target)
        target.keys = set() if target.keys is None else target.keys
        for key in keys:
            self.key(key)
            # 1 and True are one key of a dictionary, and 1 and "1" one name of a tensor.
            forms = {key} if type(key) is str else {key, str(key)}
            if not forms.isdisjoint(target.keys):
                raise Refused("every name once", f"{clip(key)} twice")
            target.keys |= forms

    def key(self, key: Any) -> None:
        """Count a key of a dictionary or set, and refuse what is none.

        Python hashes tuples recursively, and those of a stranger can be made to collide.
        """
        self.count_names(1)
        if type(key) is str:
            return
        self._tally.number_names += 1
        if self._tally.number_names > limits.MAX_NUMBER_NAMES:
            raise too_many("names that are no strings", limits.MAX_NUMBER_NAMES)
        if type(key) in (int, float) and not abs(key) < limits.MAX_NUMBER_NAME:
            raise Refused(f"numbers below {limits.MAX_NUMBER_NAME:,} as names", clip(key))
        if type(key) in _KEY_TYPES or (type(key) is Thing and key.kind == "global"):
            return
        long = type(key) is Thing and key.kind == "text"
        found = f"one of more than {limits.MAX_NAME_BYTES} bytes" if long else f"{key!r} as a name"
        raise Refused(f"names of at most {limits.MAX_NAME_BYTES} bytes, or numbers", found)

    def count_names(self, count: int) -> None:
        """Count keys that a reader will hash."""
        self._tally.names += count
        if self._tally.names > limits.MAX_NAMES:
            raise too_many("names", limits.MAX_NAMES)

    # The memo

    def _put(self, index: int) -> None:
        # C's unpickler allocates as many places as the largest index says.
        if index > self._tally.operations:
            raise Refused(
                "places of the memo in their order", f"place {index:,} after {self._tally.operations:,} steps"
            )
        self._memo[index] = self._stack[-1]

    def _get(self, index: int) -> None:
        self._stack.append(self._memo[index])

    # Names, calls and states

    def _global(self, name: str) -> None:
        self._stack.append(self._rules.named(name))

    def _stack_global(self) -> None:
        module, name = self._last(2)
        if type(module) is not str or type(name) is not str:
            raise self._damaged("a global that is no name")
        self._global(f"{module}.{name}")

    def _count_call(self) -> None:
        self._tally.calls += 1
        if self._tally.calls > limits.MAX_CALLS:
            raise too_many("calls and states in a pickle", limits.MAX_CALLS)

    def _call(self) -> None:
        self._count_call()
        function, arguments = self._last(2)
        if type(function) is not Thing or function.kind != "global":
            raise self._damaged(f"a call of {clip(function)}")
        if type(arguments) is not Thing or arguments.kind != "tuple":
            raise self._damaged("a call without arguments")
        if len(arguments.parts) > limits.MAX_ARGUMENTS:
            raise too_many("arguments in a call", limits.MAX_ARGUMENTS)
        self._stack.append(self._rules.called(function.name, arguments))

    def _build(self) -> None:
        self._count_call()
        state = self._stack.pop()
        target = self._stack[-1]
        if type(target) is not Thing or target.kind in ("global", "tuple", "list", "set", "text", "bytes"):
            raise self._damaged(f"a state for {clip(target)}")
        self._rules.restored(target, state)

    def _persistent(self) -> None:
        self._stack.append(self._rules.persistent(self._stack.pop()))


_HEAVY = 1 << 62
_STOP = ord(".")
_HANDLERS: list[Callable[[Machine], None] | None] = [None] * 256


def _on(operation: bytes, handler: Callable[[Machine], None]) -> None:
    _HANDLERS[operation[0]] = handler


_on(b"\x80", lambda m: m._protocol())
_on(b"\x95", lambda m: m._frame())
_on(b"N", lambda m: m._stack.append(None))
_on(b"\x88", lambda m: m._stack.append(True))
_on(b"\x89", lambda m: m._stack.append(False))
_on(b"J", lambda m: m._stack.append(int.from_bytes(m._take(4), "little", signed=True)))
_on(b"K", lambda m: m._stack.append(m._take(1)[0]))
_on(b"M", lambda m: m._stack.append(m._length(2)))
_on(b"\x8a", lambda m: m._long())
_on(b"G", lambda m: m._stack.append(struct.unpack(">d", m._take(8))[0]))
_on(b"X", lambda m: m._text(m._length(4)))
_on(b"\x8c", lambda m: m._text(m._length(1)))
_on(b"\x8d", lambda m: m._text(m._length(8)))
_on(b"U", lambda m: m._text(m._length(1), "latin1"))
_on(b"T", lambda m: m._text(m._length(4), "latin1"))
_on(b"B", lambda m: m._bytes(m._length(4)))
_on(b"C", lambda m: m._bytes(m._length(1)))
_on(b"\x8e", lambda m: m._bytes(m._length(8)))
_on(b"\x96", lambda m: m._bytearray(m._length(8)))
_on(b"(", lambda m: m._mark())
_on(b")", lambda m: m._tuple([]))
_on(b"t", lambda m: m._tuple(m._since_mark()))
_on(b"\x85", lambda m: m._tuple(m._last(1)))
_on(b"\x86", lambda m: m._tuple(m._last(2)))
_on(b"\x87", lambda m: m._tuple(m._last(3)))
_on(b"]", lambda m: m._stack.append(Thing("list")))
_on(b"a", lambda m: m._extend(m._last(1)))
_on(b"e", lambda m: m._extend(m._since_mark()))
_on(b"}", lambda m: m._stack.append(Thing("dict")))
_on(b"s", lambda m: m._set_items(m._last(2)))
_on(b"u", lambda m: m._set_items(m._since_mark()))
_on(b"\x8f", lambda m: m._stack.append(Thing("set")))
_on(b"\x90", lambda m: m._add_to_set())
_on(b"q", lambda m: m._put(m._length(1)))
_on(b"r", lambda m: m._put(m._length(4)))
_on(b"\x94", lambda m: m._put(len(m._memo)))
_on(b"h", lambda m: m._get(m._length(1)))
_on(b"j", lambda m: m._get(m._length(4)))
_on(b"c", lambda m: m._global(f"{m._line()}.{m._line()}"))
_on(b"\x93", lambda m: m._stack_global())
_on(b"R", lambda m: m._call())
_on(b"\x81", lambda m: m._call())
_on(b"b", lambda m: m._build())
_on(b"Q", lambda m: m._persistent())
