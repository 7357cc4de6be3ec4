"""A machine for the instructions of pickles that makes plain values and records, and runs nothing.

What the pickle format calls a global is here a :class:`Name`, and a call of it is looked up in a table of
functions of ours (:mod:`lvgan.official.vocabulary`); nothing is ever imported or called by the word of a file. The
machine does not recurse, so that nesting has no depth to exhaust.

The instructions are those of Python's ``pickletools``, protocols 0 to 5. Those for what no published file has are
refused: Python 2's strings, its classes (INST, OBJ), registered extensions and out-of-band buffers.
"""

from __future__ import annotations

import codecs
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lvgan.official.streams import Budget, RefusedError, Stream

BLOCK = 4096  # bytes; longer byte strings become memory views, shorter ones bytes
_LONG_LIMIT = 1024  # bytes of an integer
_KEY_LIMIT = 2**60  # larger integers can be chosen so that all of them collide in a dict
_MARK = object()


@dataclass(frozen=True, slots=True)
class Name:
    """A global that a pickle names. It stands for nothing but itself."""

    text: str


@dataclass(slots=True, eq=False, repr=False)  # what it holds may be without end
class Record:
    """An object: what it was made from, and its state. `kind` is the class's full name."""

    kind: str
    args: tuple[Any, ...] = ()
    state: Any = None
    extra: dict[str, Any] = field(default_factory=dict)  # what a builder wants to remember


Builder = Callable[[tuple[Any, ...]], Any]


class Vocabulary:
    """Which names may occur, and what happens when a pickle calls or completes one.

    Attributes:
        calls: by name, what a call gives; it sees the arguments only.
        classes: by name, what a new object of it is before its state is set.
        states: by :attr:`Record.kind`, what looks at a state before it is set.
    """

    def __init__(
        self,
        calls: Mapping[str, Builder],
        classes: Mapping[str, Builder],
        states: Mapping[str, Callable[[Record, Any], None]],
        others: frozenset[str],
    ) -> None:
        self.calls, self.classes, self.states = calls, classes, states
        self.known = frozenset(calls) | frozenset(classes) | others


class Machine:
    """Reads one pickle from a stream.

    `persistent` gives the value for a persistent id, where there can be any.
    """

    def __init__(
        self,
        stream: Stream,
        vocabulary: Vocabulary,
        budget: Budget,
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        self._stream = stream
        self._vocabulary = vocabulary
        self._budget = budget
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """The pickle's value.

        Raises:
            RefusedError: it is damaged, or asks for what is not given.
        """
        while True:
            code = self._stream.read(1)
            if code == b".":
                return self._pop()
            self._budget.take_values(1)
            act = _INSTRUCTIONS.get(code)
            if act is None:
                raise RefusedError(f"it holds {_describe(code)}, which no published file has")
            act(self)

    # --- the stack ----------------------------------------------------------------------------------

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack or (self._marks and self._marks[-1] == len(self._stack)):
            raise RefusedError("it is damaged: an instruction lacks its operand")
        return self._stack.pop()

    def _top(self) -> Any:
        value = self._pop()
        self._stack.append(value)
        return value

    def _to_mark(self) -> list[Any]:
        if not self._marks:
            raise RefusedError("it is damaged: a mark is missing")
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _last(self, count: int) -> tuple[Any, ...]:
        return tuple(reversed([self._pop() for _ in range(count)]))

    def mark(self) -> None:
        self._marks.append(len(self._stack))

    def pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._pop()

    def pop_mark(self) -> None:
        self._to_mark()

    def duplicate(self) -> None:
        self._push(self._top())

    # --- the memo -----------------------------------------------------------------------------------

    def put(self, index: int) -> None:
        self._memo[index] = self._top()

    def get(self, index: int) -> None:
        if index not in self._memo:
            raise RefusedError(f"it is damaged: value {index} is used before it is made")
        self._push(self._memo[index])

    def memoize(self) -> None:
        self.put(len(self._memo))

    # --- plain values -------------------------------------------------------------------------------

    def text(self, size: int) -> None:
        self._stream.expect(size)
        self._budget.take_text(size)
        self._push(self._stream.read(size).decode("utf-8", "surrogatepass"))

    def text_line(self) -> None:
        line = self._stream.line()
        self._budget.take_text(len(line))
        self._push(codecs.raw_unicode_escape_decode(line)[0])

    def binary(self, size: int) -> None:
        self._push(self._stream.block(size) if size > BLOCK else self._stream.read(size))

    def integer_line(self) -> None:
        line = self._short_line()
        self._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line))

    def long_line(self) -> None:
        self._push(int(self._short_line().removesuffix(b"L")))

    def float_line(self) -> None:
        self._push(float(self._short_line()))

    def long(self, size: int) -> None:
        if not 0 <= size <= _LONG_LIMIT:
            raise RefusedError(f"it holds an integer of {size} bytes, which no published file has")
        self._push(int.from_bytes(self._stream.read(size), "little", signed=True))

    def double(self) -> None:
        self._push(struct.unpack(">d", self._stream.read(8))[0])

    def _short_line(self) -> bytes:
        line = self._stream.line()
        if len(line) > _LONG_LIMIT:
            raise RefusedError(f"it holds a number of {len(line)} digits, which no published file has")
        return line

    # --- containers ---------------------------------------------------------------------------------

    def make_tuple(self) -> None:
        self._push(tuple(self._to_mark()))

    def make_list(self) -> None:
        self._push(self._to_mark())

    def make_dict(self) -> None:
        values = self._to_mark()
        self._push({})
        self._set(values)

    def make_frozenset(self) -> None:
        self._push(frozenset(checked_key(value) for value in self._to_mark()))

    def append(self) -> None:
        self._extend([self._pop()])

    def appends(self) -> None:
        self._extend(self._to_mark())

    def _extend(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise RefusedError("it is damaged: something is appended to what is no list")
        target.extend(values)

    def add(self) -> None:
        values = self._to_mark()
        target = self._top()
        if not isinstance(target, set):
            raise RefusedError("it is damaged: something is added to what is no set")
        target.update(checked_key(value) for value in values)

    def set_one(self) -> None:
        self._set(list(self._last(2)))

    def set_many(self) -> None:
        self._set(self._to_mark())

    def _set(self, values: list[Any]) -> None:
        target = self._top()
        if not isinstance(target, dict) or len(values) % 2:
            raise RefusedError("it is damaged: an entry is set in what is no dict")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[checked_key(key)] = value

    # --- names and objects --------------------------------------------------------------------------

    def global_line(self) -> None:
        module, name = (self._stream.line() for _ in range(2))
        self._name(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"))

    def global_stack(self) -> None:
        module, name = self._last(2)
        if not isinstance(module, str) or not isinstance(name, str):
            raise RefusedError("it is damaged: a name is no text")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        text = f"{module}.{name}"
        if text not in self._vocabulary.known:
            raise RefusedError(f"it asks for {text[:200]!r}, which is not among the names that published files need")
        self._push(Name(text))

    def reduce(self) -> None:
        called, args = self._last(2)
        self._push(self._use(self._vocabulary.calls, called, args, "called"))

    def new(self) -> None:
        made, args = self._last(2)
        self._push(self._use(self._vocabulary.classes, made, args, "made"))

    def new_with_keywords(self) -> None:
        made, args, keywords = self._last(3)
        if keywords:
            raise RefusedError("it makes an object with keyword arguments, which no published file does")
        self._push(self._use(self._vocabulary.classes, made, args, "made"))

    def _use(self, table: Mapping[str, Builder], name: Any, args: Any, how: str) -> Any:
        if not isinstance(name, Name) or not isinstance(args, tuple):
            raise RefusedError(f"it is damaged: what is {how} is no name, or has no arguments")
        if name.text not in table:
            raise RefusedError(f"{name.text} is {how} in it, which no published file does")
        return table[name.text](args)

    def build(self) -> None:
        state = self._pop()
        target = self._top()
        if isinstance(target, dict) and isinstance(state, dict):
            return  # attributes of a dict, such as the versions in a state_dict: of no use
        if not isinstance(target, Record) or target.state is not None:
            raise RefusedError("it is damaged: a state is given to what has none, or has one already")
        check = self._vocabulary.states.get(target.kind)
        if check is not None:
            check(target, state)
        target.state = state

    def persistent_line(self) -> None:
        self._resolve(self._stream.line().decode("utf-8", "replace"))

    def persistent_stack(self) -> None:
        self._resolve(self._pop())

    def _resolve(self, key: Any) -> None:
        if self._persistent is None:
            raise RefusedError("it refers to values outside of the file, which no published file does")
        self._push(self._persistent(key))


def checked_key(value: Any) -> Any:
    """`value`, if it can be a key: nothing nested, whose hash would recurse.

    Raises:
        RefusedError: it cannot.
    """
    if value is None or isinstance(value, (str, Name, Record, Tensor)):  # the last two by identity
        return value
    if isinstance(value, int) and abs(value) < _KEY_LIMIT:
        return value
    raise RefusedError("it is damaged: a key is neither text nor a whole number")


def _describe(code: bytes) -> str:
    names = {op.code: op.name for op in pickletools.opcodes}
    known = names.get(code.decode("latin-1"))
    return f"the instruction {known}" if known else f"the byte {code[0]:#04x} for an instruction"


def _sized(form: str, act: Callable[[Machine, int], None]) -> Callable[[Machine], None]:
    """An instruction followed by a number."""
    return lambda machine: act(machine, machine._stream.number(form))


def _numbered(act: Callable[[Machine, int], None]) -> Callable[[Machine], None]:
    """An instruction followed by a line with a number."""
    return lambda machine: act(machine, int(machine._short_line()))


def _push_number(form: str) -> Callable[[Machine], None]:
    return lambda machine: machine._push(machine._stream.number(form))


def _constant(make: Callable[[], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine._push(make())


def _tuple_of(count: int) -> Callable[[Machine], None]:
    return lambda machine: machine._push(machine._last(count))


def _skip(form: str) -> Callable[[Machine], None]:
    """Protocol and frame: what they announce is not relied on."""

    def act(machine: Machine) -> None:
        machine._stream.number(form)

    return act


_INSTRUCTIONS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": _skip("<B"), b"\x95": _skip("<Q"),
    b"(": Machine.mark, b"0": Machine.pop, b"1": Machine.pop_mark, b"2": Machine.duplicate,
    b"p": _numbered(Machine.put), b"q": _sized("<B", Machine.put), b"r": _sized("<I", Machine.put),
    b"g": _numbered(Machine.get), b"h": _sized("<B", Machine.get), b"j": _sized("<I", Machine.get),
    b"\x94": Machine.memoize,
    b"N": _constant(lambda: None), b"\x88": _constant(lambda: True), b"\x89": _constant(lambda: False),
    b"I": Machine.integer_line, b"L": Machine.long_line, b"F": Machine.float_line, b"G": Machine.double,
    b"J": _push_number("<i"), b"K": _push_number("<B"), b"M": _push_number("<H"),
    b"\x8a": _sized("<B", Machine.long), b"\x8b": _sized("<i", Machine.long),
    b"V": Machine.text_line, b"X": _sized("<I", Machine.text),
    b"\x8c": _sized("<B", Machine.text), b"\x8d": _sized("<Q", Machine.text),
    b"B": _sized("<I", Machine.binary), b"C": _sized("<B", Machine.binary),
    b"\x8e": _sized("<Q", Machine.binary), b"\x96": _sized("<Q", Machine.binary),
    b")": _constant(tuple), b"t": Machine.make_tuple,
    b"\x85": _tuple_of(1), b"\x86": _tuple_of(2), b"\x87": _tuple_of(3),
    b"]": _constant(list), b"l": Machine.make_list, b"a": Machine.append, b"e": Machine.appends,
    b"}": _constant(dict), b"d": Machine.make_dict, b"s": Machine.set_one, b"u": Machine.set_many,
    b"\x8f": _constant(set), b"\x90": Machine.add, b"\x91": Machine.make_frozenset,
    b"c": Machine.global_line, b"\x93": Machine.global_stack,
    b"R": Machine.reduce, b"\x81": Machine.new, b"\x92": Machine.new_with_keywords, b"b": Machine.build,
    b"P": Machine.persistent_line, b"Q": Machine.persistent_stack,
}  # fmt: skip
