"""The answer to a POST out of the bytes of a connection (RFC 9112). No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

_MAX_HEAD_BYTES = 32 << 10
_MAX_BODY_BYTES = 64 << 10
_MAX_LINE_BYTES = 1 << 10
_MAX_DIGITS = 18
_NO_BODY = frozenset({204, 304})
_SMALL_HEAD_BYTES = 1 << 10

_Head = tuple[bytes, int, Mapping[str, str]]
"""Version, status and headers."""


class NotHttpError(OSError):
    """What came is no answer of HTTP/1.1, or the connection ended before the answer did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A whole answer.

    Attributes:
        status: the final one; informational answers are skipped.
        headers: by name in lower case; of several with one name, the last.
        body: all of it, or its first 64 KiB.
        reusable: the connection can take the next request.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    reusable: bool


class ReplyReader:
    """Reads one answer. A talkative target gets no more than 64 KiB of our time, and loses its connection.

    Each byte is looked at once, in however many pieces it comes: targets may be hostile.
    """

    def __init__(self) -> None:
        self.begun = False
        self._data = bytearray()
        """Behind the head, once that is read."""
        self._head: _Head | None = None
        self._chunks = bytearray()
        self._at = 0
        """Where the next chunk, or trailer, begins."""
        self._trailing = False

    def feed(self, data: bytes) -> Reply | None:
        """Read on; None while the answer is not whole.

        Raises:
            NotHttpError: it is none.
        """
        self.begun = True
        self._data += data
        head = self._head = self._head or self._final_head()
        if head is None:
            return None
        version, status, headers = head
        found = self._body(status, headers)
        if found is None:
            return None
        body, whole = found
        kept = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        return Reply(status=status, headers=headers, body=body[:_MAX_BODY_BYTES], reusable=kept and whole)

    def end(self, error: Exception | None) -> Reply:
        """The connection ended, with an error or without: an answer that says no length ends with it.

        Raises:
            OSError: it ended too early.
        """
        if self._head is not None and error is None:
            _, status, headers = self._head
            if not {"content-length", "transfer-encoding"} & headers.keys():
                return Reply(status=status, headers=headers, body=bytes(self._data), reusable=False)
        if isinstance(error, OSError):
            raise error
        raise NotHttpError("the target closed the connection before its answer was whole")

    def _final_head(self) -> _Head | None:
        """Version, status and headers of the answer that is no informational one."""
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head = (_head if end > _SMALL_HEAD_BYTES else _small_head)(bytes(self._data[:end]))
            del self._data[: end + 4]
            if head[1] >= 200:
                return head
            if head[1] == 101:
                raise NotHttpError("the answer changes the protocol, which was not asked for")
        if len(self._data) > _MAX_HEAD_BYTES:
            raise NotHttpError(f"the answer's head has more than {_MAX_HEAD_BYTES} bytes")
        return None

    def _body(self, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool] | None:
        """The body, and whether nothing is behind it; None while it is not whole."""
        data = self._data
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise NotHttpError(f"transfer-encoding {headers['transfer-encoding']!r}")
            if self._unchunk():
                return bytes(self._chunks), self._at == len(data)
        elif status in _NO_BODY:
            return b"", not data
        elif "content-length" in headers:
            text = headers["content-length"]
            if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
                raise NotHttpError(f"content-length {text[:40]!r}")
            length = int(text)
            if length <= len(data):
                return bytes(data[:length]), length == len(data)
        return (bytes(self._chunks or data), False) if len(data) > _MAX_BODY_BYTES else None

    def _unchunk(self) -> bool:
        """Go on behind the last whole chunk; whether all are there, with their trailers, which say nothing to us."""
        data = self._data
        while (end := data.find(b"\r\n", self._at)) >= 0:
            line, start = bytes(data[self._at : end]), end + 2
            if self._trailing:
                self._at = start
                if not line:
                    return True
                continue
            size = _size(line)
            self._trailing = size == 0
            stop = start + size
            if size:
                if len(data) < stop + 2:
                    return False
                if data[stop : stop + 2] != b"\r\n":
                    raise NotHttpError("a chunk is longer than its size")
                self._chunks += data[start:stop]
                stop += 2
            self._at = stop
        if len(data) - self._at >= _MAX_LINE_BYTES:
            raise NotHttpError("a chunk without a size")
        return False


def _head(data: bytes) -> _Head:
    line, _, rest = data.partition(b"\r\n")
    version, _, after = line.partition(b" ")
    code = after[:3]
    if version not in {b"HTTP/1.1", b"HTTP/1.0"} or not code.isdigit() or len(code) != 3 or after[3:4].strip():
        raise NotHttpError(f"the answer begins with {line[:40]!r}")
    headers: dict[str, str] = {}
    for field in rest.split(b"\r\n") if rest else ():
        name, colon, value = field.partition(b":")
        if not colon or not name or name != name.strip():
            raise NotHttpError(f"the answer has the header line {field[:40]!r}")
        headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
    return version, int(code), headers


@lru_cache(maxsize=256)
def _small_head(data: bytes) -> _Head:
    """Who is asked often answers with the same head, for as long as the date in it is the same."""
    return _head(data)


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        return int(digits if digits.isalnum() else b"", 16)  # int() would read signs and underscores
    except ValueError as error:
        raise NotHttpError(f"a chunk of size {digits[:20]!r}") from error
