"""The head of a request, as far as the parser leaves it to others."""

from collections.abc import Sequence

import httptools

# A cursor and a search of 500 characters, percent-encoded, need 9.
MAXIMUM_HEAD_BYTES = 64 * 1024
HEADER_PUNCTUATION_BYTES = len(": \r\n")

Headers = Sequence[tuple[bytes, bytes]]


def size_of_head(url: bytes, headers: Headers, version: str) -> int:
    """About how many bytes it has.

    Raises `ValueError` if it is too large, has a transfer coding but chunked, or is of HTTP/1.1
    without one `Host` (RFC 9112, sections 3.2 and 6.1).
    """
    hosts = 0
    size = len(url)
    for name, value in headers:
        size += len(name) + len(value) + HEADER_PUNCTUATION_BYTES
        if name == b"host":
            hosts += 1
        elif name == b"transfer-encoding" and value.strip().lower() != b"chunked":
            # The body would be read as it is on the wire, compressed.
            raise ValueError("the only known transfer coding is chunked")
    if hosts != 1 and version == "1.1":
        raise ValueError("a request needs one Host")
    if size > MAXIMUM_HEAD_BYTES:
        raise ValueError("the head is too large")
    return size


def with_path(url: bytes) -> bytes:
    """With a scheme it may be without a path, which is then `/` (RFC 9110, section 4.2.3)."""
    if url.startswith(b"/"):
        return url
    parsed = httptools.parse_url(url)
    if parsed.path:
        return url
    return b"/" + (b"?" + parsed.query if parsed.query else b"")


def without_upgrade(parser: httptools.HttpRequestParser, url: bytes, headers: Headers) -> bytes:
    """What this parser has just read, for another one, which then will not wait for an upgrade."""
    lines = [b"%s %s HTTP/%s" % (parser.get_method(), url, parser.get_http_version().encode())]
    lines += [b"%s: %s" % header for header in headers if header[0] != b"upgrade"]
    return b"\r\n".join([*lines, b"", b""])
