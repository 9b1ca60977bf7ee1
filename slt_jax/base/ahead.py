"""Work of a thread that is some items ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(work: Callable[[Item], Result], items: Iterable[Item], count: int = 1) -> Iterator[Result]:
    """Yield `work(item)` of all items in their order; a thread works on up to `count` of them ahead.

    The items themselves are taken in the caller's thread. What `work` raises is raised in the place of its result.
    """
    with ThreadPoolExecutor(1) as thread:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(thread.submit(work, item))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
