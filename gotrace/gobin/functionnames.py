"""The functions of Go's function table by name."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import cached_property

from gotrace.common.errors import BadBinary
from gotrace.gobin.functionrecords import FunctionRecords
from gotrace.gobin.functions import Function

# Bounds on searches for bytes, which in a hostile file match everywhere; genuine ones match a handful of times.
_MAX_SAME_NAME = 8
_MAX_TABLE = 1 << 28
_MAX_RUNTIME_FUNCTIONS = 1 << 14


class FunctionNames:
    """The names of one table."""

    def __init__(self, records: FunctionRecords) -> None:
        self._records = records

    def functions(self, name: str) -> list[Function]:
        """All functions called `name`, in address order (an ABI wrapper has the same name as what it wraps)."""
        raw = name.encode()
        records, data = self._records, self._records.image.data
        names_start, names_end = records.in_file(records.names), records.in_file(records.cus)
        found: list[Function] = []
        position = names_start - 1
        for _ in range(_MAX_SAME_NAME):
            position = data.find(b"\0" + raw + b"\0", position, names_end)
            if position < 0:
                return sorted(found, key=lambda function: function.entry)
            found += self._at(position + 1 - names_start)
            position += 1
        raise BadBinary(f"{self._records.image.name}: the function table names {name} more than {_MAX_SAME_NAME} times")

    def _at(self, name_offset: int) -> list[Function]:
        places = self._places(name_offset)
        if len(places) > _MAX_SAME_NAME:
            raise BadBinary(f"{self._records.image.name}: {len(places)} functions of the table share one name")
        found = (self._function_of(place) for place in places)
        return [function for function in found if function is not None]

    def _places(self, name_offset: int) -> range:
        """Where in `_indexes_by_name` the functions with that name are; there may be more than will be read."""
        words = self._indexes_by_name
        return range(bisect_left(words, name_offset << 32), bisect_left(words, name_offset + 1 << 32))

    def _function_of(self, place: int) -> Function | None:
        return self._records.function(self._indexes_by_name[place] & 0xFFFFFFFF)

    @cached_property
    def _indexes_by_name(self) -> array[int]:
        # A _func starts with {entryoff u32, nameoff i32}. One pass over all of them costs less than a search for each name. Name offset
        # and index share a word and are sorted: a dictionary of lists would be ten times as large.
        words = array("I")
        records, data = self._records, self._records.image.data
        start = records.in_file(records.functab)
        end = min(start + max(records.func_offsets) + records.func_size, start + _MAX_TABLE, len(data))
        words.frombytes(data[start : end - (end - start) % 4])
        return array("Q", sorted(array("Q", (
            words[offset // 4 + 1] << 32 | index
            for index, offset in enumerate(records.func_offsets)
            if offset % 4 == 0 and offset // 4 + 1 < len(words)
        ))))

    def offset(self, name: str) -> int | None:
        """The name's offset among the names; None if the table lacks it."""
        records = self._records
        start = records.in_file(records.names)
        position = records.image.data.find(b"\0" + name.encode() + b"\0", start - 1, records.in_file(records.cus))
        return None if position < 0 else position + 1 - start

    def of_runtime(self) -> Iterator[Function]:
        """The functions of package runtime."""
        records, number = self._records, 0
        names = records.image.data[records.in_file(records.names) : records.in_file(records.cus)]
        for match in re.finditer(rb"\0runtime\.", names):
            places = self._places(match.start() + 1)
            if len(places) > _MAX_SAME_NAME or number > _MAX_RUNTIME_FUNCTIONS:
                continue
            for place in places:
                function = self._function_of(place)
                if function is not None:
                    number += 1
                    yield function
