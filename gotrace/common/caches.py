"""Caches of methods that end with their object."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar, cast

_Method = TypeVar("_Method", bound=Callable[..., Any])


class _PerObject:
    """Puts the cached method into the object at its first use, where it is found from then on."""

    def __init__(self, method: Callable[..., Any], maxsize: int) -> None:
        self._method, self._maxsize = method, maxsize
        self.__doc__ = method.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, _owner: type | None = None) -> Any:
        if instance is None:
            return self._method
        found = lru_cache(self._maxsize)(self._method.__get__(instance))
        instance.__dict__[self._name] = found
        return found


def cached(maxsize: int) -> Callable[[_Method], _Method]:
    """As functools.lru_cache, for methods: that would keep every object for which it has an answer, and what the object holds, as a whole
    executable."""

    def decorated(method: _Method) -> _Method:
        return cast(_Method, _PerObject(method, maxsize))

    return decorated
