"""Bytes of a pickle, handed out only where they exist: nothing is allocated on a file's word alone."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from typing import BinaryIO

ALIGNMENT = 16  # bytes; the end of a large block lies at a multiple, and with it whatever fills its end
_PIECE = 1 << 20  # bytes read at once
LINE_LIMIT = 4 << 20  # bytes of one line of text (protocol 0)


class RefusedError(Exception):
    """A pickle that is damaged, or asks for what is not given; the text says what, without the file's name."""


class Budget:
    """What one file may make besides its own bytes: values, text (which grows when decoded), copies of bytes.

    Published files need some ten thousand values, some hundred kilobytes of text and no copies.
    """

    def __init__(self, file_size: int) -> None:
        self.values, self.text = 1_000_000, 32 << 20
        self.copies = 2 * file_size + (1 << 20)

    def take_values(self, count: int) -> None:
        """Count instructions, or values that one of them copies."""
        self.values -= count
        if self.values < 0:
            raise RefusedError("it makes more than a million values, many times as many as a published file")

    def take_text(self, size: int) -> None:
        """Count `size` bytes of text."""
        self.text -= size
        if self.text < 0:
            raise RefusedError("it holds more than 32 MB of text, many times as much as a published file")

    def take_copy(self, size: int) -> None:
        """Count `size` bytes that are held a second time."""
        self.copies -= size
        if self.copies < 0:
            raise RefusedError("it uses the same bytes for many storages, which no published file does")


class Stream(ABC):
    """Reads forwards; every length is compared with what is left before memory is taken."""

    remaining: int  # bytes

    @abstractmethod
    def read(self, count: int) -> bytes:
        """The next `count` bytes, which are few."""

    @abstractmethod
    def block(self, count: int) -> memoryview:
        """The next `count` bytes, which may be many: writable, and aligned at their end where they are copied."""

    @abstractmethod
    def line(self) -> bytes:
        """Up to the next line feed, without it."""

    def number(self, form: str) -> int:
        """The next integer, in a form of :mod:`struct`."""
        value: int
        (value,) = struct.unpack(form, self.read(struct.calcsize(form)))
        return value

    def expect(self, count: int) -> None:
        """Refuse a stream in which fewer than `count` bytes follow."""
        if count < 0 or count > self.remaining:
            raise RefusedError(f"it is cut short or damaged: {count} bytes should follow, but {self.remaining} do")

    def _take(self, count: int) -> None:
        self.expect(count)
        self.remaining -= count


class FileStream(Stream):
    """A file from its position on; `size` bytes of it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.remaining = size

    def read(self, count: int) -> bytes:
        self._take(count)
        found = self._file.read(count)
        if len(found) != count:
            raise RefusedError("it was cut short while it was read")
        return found

    def block(self, count: int) -> memoryview:
        self._take(count)
        # A storage fills the end of its block, so that tensors can lie on these bytes without a copy.
        padding = -count % ALIGNMENT
        view = memoryview(bytearray(padding + count))[padding:]
        done = 0
        while done < count:
            got = self._file.readinto(view[done : done + _PIECE])  # type: ignore[attr-defined]
            if not got:
                raise RefusedError("it was cut short while it was read")
            done += got
        return view

    def line(self) -> bytes:
        found = self._file.readline(min(self.remaining, LINE_LIMIT))
        self.remaining -= len(found)
        return _whole_line(found)


class MemoryStream(Stream):
    """A stretch of memory; blocks are views of it."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._position = 0
        self.remaining = len(memory)

    def read(self, count: int) -> bytes:
        return bytes(self.block(count))

    def block(self, count: int) -> memoryview:
        self._take(count)
        self._position += count
        return self._memory[self._position - count : self._position]

    def line(self) -> bytes:
        window = 256  # grows, so that little is copied in vain
        while True:
            ahead = bytes(self._memory[self._position : self._position + min(self.remaining, window)])
            end = ahead.find(b"\n") + 1
            if end or window >= min(self.remaining, LINE_LIMIT):
                return _whole_line(self.read(end))
            window *= 4


def _whole_line(found: bytes) -> bytes:
    if not found.endswith(b"\n"):
        raise RefusedError("it is cut short or damaged: a line does not end")
    return found[:-1]
