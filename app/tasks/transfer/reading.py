"""Files of tasks, read row by row: what is read is never in memory as a whole."""

import csv
import io
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, BinaryIO

from app.core.errors import MAXIMUM_NAME_LENGTH, APIError
from app.core.responses import FieldError
from app.core.strict_json import read_json
from app.tasks.transfer.formats import BYTE_ORDER_MARK, CSV_COLUMNS, restored

PIECE = 64 * 1024
# The largest task is a tenth of that, with everything in it escaped.
MAXIMUM_ROW_LENGTH = 1024 * 1024
_JSON_COLUMNS = ("tags", "metadata")
# An empty cell of these is empty text; of the others, it is an absent field.
_TEXT_COLUMNS = ("title", "description")
_JSON_SPACE = b" \t\r\n"
# Strings first, so that nothing in them is taken for a bracket or a comma.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{},]', re.DOTALL)
_LEVELS = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


class ImportFormat(StrEnum):
    JSON = "json"
    CSV = "csv"


class UnreadableFileError(Exception):
    """The file cannot be read to its end; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A task as it stands in a file, unchecked, and the faults for which some of it is missing.

    There are no `fields` where nothing can be read.
    """

    place: str
    fields: dict[str, Any] | None
    faults: list[FieldError] = field(default_factory=list)


def read_rows(file: BinaryIO, form: ImportFormat) -> Generator[Row]:
    """The rows of a file, one by one; close this before the file. Raises `UnreadableFileError`."""
    return _read_csv(file) if form is ImportFormat.CSV else _read_json(file)


def _fault(field_name: str, message: str) -> FieldError:
    return FieldError(field=field_name, message=message, code="invalid")


# ---- CSV ----------------------------------------------------------------------------------------


def _lines(text: io.TextIOBase) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: text.readline(MAXIMUM_ROW_LENGTH), ""), start=1):
        if len(line) >= MAXIMUM_ROW_LENGTH:
            raise UnreadableFileError(f"line {number} is too long for a task")
        yield line


def _read_csv(file: BinaryIO) -> Generator[Row]:
    # What is not UTF-8 becomes lone surrogates, which every field refuses.
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    reader = csv.reader(_lines(text), strict=True)
    try:
        columns = _checked_columns(next(reader, []))
        line = reader.line_num + 1
        for cells in reader:
            if cells:
                yield _row_of_cells(f"line {line}", columns, cells)
            line = reader.line_num + 1
    except csv.Error:
        raise UnreadableFileError(
            f"line {reader.line_num}: a cell is too long, or has a quote where none may be"
        ) from None
    finally:
        # The file is the caller's, and stays open.
        text.detach()


def _checked_columns(names: list[str]) -> list[str]:
    if "title" not in names:
        raise UnreadableFileError(
            "line 1 has no title; it must name the fields, separated by commas"
        )
    for name in names:
        if name not in CSV_COLUMNS:
            raise UnreadableFileError(
                f"line 1: a task has no field {name[:MAXIMUM_NAME_LENGTH]!r}; it has "
                + ", ".join(CSV_COLUMNS)
            )
        if names.count(name) > 1:
            raise UnreadableFileError(f"line 1 names {name} more than once")
    return names


def _row_of_cells(place: str, columns: list[str], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        message = f"There are {len(cells)} cells for the {len(columns)} fields of line 1"
        return Row(place, None, [_fault("", message)])
    fields: dict[str, Any] = {}
    faults = []
    for name, cell in zip(columns, cells, strict=True):
        if name in _TEXT_COLUMNS:
            fields[name] = restored(cell)
        elif name in _JSON_COLUMNS and cell:
            try:
                fields[name] = read_json(cell.encode())
            except (APIError, UnicodeError):
                faults.append(_fault(name, "Input should be JSON"))
        elif cell:
            fields[name] = restored(cell)
    return Row(place, fields, faults)


# ---- JSON ---------------------------------------------------------------------------------------


def _read_json(file: BinaryIO) -> Generator[Row]:
    for number, (line, item) in enumerate(_items(file), start=1):
        place = f"item {number} (line {line})"
        try:
            value = read_json(item)
        except APIError as error:
            yield Row(place, None, [_of_item(fault) for fault in error.errors])
        else:
            if isinstance(value, dict):
                yield Row(place, value)
            else:
                yield Row(place, None, [_fault("", "Input should be a JSON object")])


def _of_item(fault: FieldError) -> FieldError:
    name = fault.field.removeprefix("body").removeprefix(".")
    return _fault(name, fault.message if name else "This is not valid JSON")


class _ArrayText:
    """The text of a JSON array, of which no more is in memory than the item under way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._buffer = file.read(PIECE).removeprefix(BYTE_ORDER_MARK.encode()).lstrip(_JSON_SPACE)
        if not self._buffer.startswith(b"["):
            raise UnreadableFileError("the file is not a JSON array of tasks")
        self._start = self._position = 1
        self.number = 0
        self.line = 1

    def tokens(self) -> Iterator[bytes]:
        """The strings, brackets and commas one after the other."""
        while True:
            token = _TOKEN.search(self._buffer, self._position)
            if token is not None and token[0] != b'"':
                self._position = token.end()
                yield token[0]
            else:
                # A quote alone begins a string that ends in a later piece.
                rest = token.start() if token else len(self._buffer)
                self._buffer = self._buffer[self._start :]
                self._start, self._position = 0, rest - self._start
                self._read_on()

    def _read_on(self) -> None:
        piece = self._file.read(PIECE)
        if not piece:
            raise UnreadableFileError(f"the file ends within the array, after item {self.number}")
        if len(self._buffer) > MAXIMUM_ROW_LENGTH:
            raise UnreadableFileError(f"item {self.number + 1} is too long for a task")
        self._buffer += piece

    def take(self) -> bytes:
        """What stands between the last two commas or brackets of the array itself."""
        item = self._buffer[self._start : self._position - 1]
        self._start = self._position
        self.number += 1
        self.line += item.count(b"\n")
        return item

    def check_end(self) -> None:
        rest = self._buffer[self._position :]
        while rest:
            if rest.strip(_JSON_SPACE):
                raise UnreadableFileError(f"something follows the array, after item {self.number}")
            rest = self._file.read(PIECE)


def _items(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The text of each item of a JSON array, unchecked, with the line in which it begins.

    Items are told apart by the commas between them; what they hold is for a parser to judge.
    """
    text = _ArrayText(file)
    level = 0
    for token in text.tokens():
        if level or token not in {b",", b"]"}:
            level += _LEVELS.get(token, 0)
            continue
        line = text.line
        item = text.take()
        begun = item.lstrip(_JSON_SPACE)
        if begun or token == b"," or text.number > 1:
            yield line + item[: len(item) - len(begun)].count(b"\n"), begun.rstrip(_JSON_SPACE)
        if token == b"]":
            text.check_end()
            return
