"""The answer to a POST out of the bytes of a connection (RFC 9112). No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_MAX_HEAD_BYTES = 32 << 10
_MAX_BODY_BYTES = 64 << 10
_MAX_LINE_BYTES = 1 << 10
_NO_BODY = frozenset({204, 304})


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
    """Reads one answer. A talkative target gets no more than 64 KiB of our time, and loses its connection."""

    def __init__(self) -> None:
        self.begun = False
        self._data = bytearray()

    def feed(self, data: bytes) -> Reply | None:
        """Read on; None while the answer is not whole.

        Raises:
            NotHttpError: it is none.
        """
        self.begun = True
        self._data += data
        while True:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                if len(self._data) > _MAX_HEAD_BYTES:
                    raise NotHttpError(f"the answer's head has more than {_MAX_HEAD_BYTES} bytes")
                return None
            version, status, headers = _head(bytes(self._data[:end]))
            if status >= 200:
                break
            if status == 101:
                raise NotHttpError("the answer changes the protocol, which was not asked for")
            del self._data[: end + 4]
        kept = version == b"HTTP/1.1" and headers.get("connection", "").lower() != "close"
        found = self._body(end + 4, status, headers)
        if found is None:
            return None
        body, whole = found
        return Reply(status=status, headers=headers, body=body[:_MAX_BODY_BYTES], reusable=kept and whole)

    def end(self, error: Exception | None) -> Reply:
        """The connection ended, with an error or without: an answer that says no length ends with it.

        Raises:
            OSError: it ended too early.
        """
        end = self._data.find(b"\r\n\r\n")
        if end >= 0 and error is None:
            _, status, headers = _head(bytes(self._data[:end]))
            if status >= 200 and not {"content-length", "transfer-encoding"} & headers.keys():
                return Reply(status=status, headers=headers, body=bytes(self._data[end + 4 :]), reusable=False)
        if isinstance(error, OSError):
            raise error
        raise NotHttpError("the target closed the connection before its answer was whole")

    def _body(self, start: int, status: int, headers: Mapping[str, str]) -> tuple[bytes, bool] | None:
        """The body, and whether nothing is behind it; None while it is not whole."""
        available = len(self._data) - start
        if "transfer-encoding" in headers:
            if headers["transfer-encoding"].lower() != "chunked":
                raise NotHttpError(f"transfer-encoding {headers['transfer-encoding']!r}")
            chunks = _unchunked(self._data, start)
        elif status in _NO_BODY:
            chunks = b"", start
        elif "content-length" in headers:
            text = headers["content-length"]
            if not (text.isascii() and text.isdigit()):
                raise NotHttpError(f"content-length {text!r}")
            length = int(text)
            stop = start + length
            chunks = (bytes(self._data[start:stop]), stop) if length <= available else None
        else:
            chunks = None
        if chunks is not None:
            body, stop = chunks
            return body, stop == len(self._data)
        return (bytes(self._data[start:]), False) if available > _MAX_BODY_BYTES else None


def _head(data: bytes) -> tuple[bytes, int, dict[str, str]]:
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


def _unchunked(data: bytearray, at: int) -> tuple[bytes, int] | None:
    """The chunks as one, and the end of the last one's trailers; None while they are not whole."""
    body = b""
    while (end := data.find(b"\r\n", at)) >= 0:
        size = _size(bytes(data[at:end]))
        at = end + 2
        if size == 0:
            return _behind_trailers(body, data, at)
        if len(data) < at + size + 2:
            return None
        if data[at + size : at + size + 2] != b"\r\n":
            raise NotHttpError("a chunk is longer than its size")
        body += data[at : at + size]
        at += size + 2
    if len(data) - at >= _MAX_LINE_BYTES:
        raise NotHttpError("a chunk without a size")
    return None


def _size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    try:
        return int(digits if digits.isalnum() else b"", 16)  # int() would read signs and underscores
    except ValueError as error:
        raise NotHttpError(f"a chunk of size {digits[:20]!r}") from error


def _behind_trailers(body: bytes, data: bytearray, at: int) -> tuple[bytes, int] | None:
    """They say nothing to us."""
    while (end := data.find(b"\r\n", at)) > at:
        at = end + 2
    return (body, end + 2) if end == at else None
