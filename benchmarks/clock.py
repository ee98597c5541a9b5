"""A clock around chosen functions: seconds of each, without those of the others inside it. For one thread."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any


class Clock:
    """Runs from when it is made."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._stack = ["everything else"]
        self._since = time.perf_counter()

    def function(self, owner: Any, name: str, part: str) -> None:
        """Count what the function `owner.name` takes as `part`."""
        inner = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._timed(part, inner, *args, **kwargs)

        setattr(owner, name, call)

    def generator(self, owner: Any, name: str, part: str) -> None:
        """The same for a generator, while it is at work."""
        inner = getattr(owner, name)

        def iterate(*args: Any, **kwargs: Any) -> Iterator[Any]:
            items = inner(*args, **kwargs)
            while (item := self._timed(part, next, items, None)) is not None:
                yield item

        setattr(owner, name, iterate)

    def stop(self) -> None:
        """Count what is being done."""
        now = time.perf_counter()
        self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def _timed(self, part: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self.stop()
        self._stack.append(part)
        try:
            return function(*args, **kwargs)
        finally:
            self.stop()
            self._stack.pop()
