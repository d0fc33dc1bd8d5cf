"""`Proxy`: stands in a forward for a value that is not known yet.

Three kinds of answers, and nothing in between:

* what can wait becomes a small node (``p.field``, ``p + "x"``, ``p == q``) or a hole
  in a text (``f"{p}"``);
* what Python needs at once (``if p``, ``for``, ``len``, ``str``, ``<``, ``hash``,
  ``isinstance``, changing it) is a graph break: forward pauses until it is known;
* what Python's C code refuses (``"".join([p])``) raises there, and the tracer turns it
  into a `TracingError` that names the fix.

A proxy never becomes text, takes a branch or iterates once silently. It has no public
names of its own, so every field and method of the value can be reached through it.
"""

import asyncio
import math
import operator
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any, NoReturn

from inf_engine.dispatch import dispatcher
from inf_engine.errors import TracingError

_MUTATORS = frozenset(
    "append extend insert remove pop clear sort reverse update setdefault popitem add "
    "discard appendleft popleft extendleft rotate intersection_update "
    "difference_update symmetric_difference_update move_to_end".split()
)
_REFLECTED = (
    "add sub mul matmul truediv floordiv mod pow lshift rshift and_ or_ xor".split()
)
_UNARY = "neg pos invert abs".split()


def _frame(proxy: "Proxy") -> Any:
    """Return the frame of the forward that runs now, of the same run as the proxy.

    A branch may use proxies of the forward around it; what it does with them is its
    own. Outside of the run it is the frame that made the proxy, which will refuse.
    """
    own = proxy._inf_frame
    running = dispatcher.get()
    return running if getattr(running, "tracer", None) is own.tracer else own


class Proxy:
    """The value that a recorded call will give (see the top of this file)."""

    __slots__ = ("__weakref__", "_inf_frame", "_inf_node")

    _inf_frame: Any
    _inf_node: Any

    def __init__(self, frame: Any, node: Any) -> None:
        _SET_FRAME(self, frame)
        _SET_NODE(self, node)

    # -- what can wait ------------------------------------------------------------

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(
                f"a Proxy has no {name}: the value of {self._inf_node} is not known yet"
            )
        return _frame(self).small("getattr", name, (self,))

    def __getitem__(self, key: Any) -> Any:
        return _frame(self).small("getitem", "getitem", (self, key))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        node = self._inf_node
        if node.kind == "getattr" and node.target in _MUTATORS:
            method = node.target
            return _frame(self).mutate(
                self,
                node.deps[0],
                lambda value, *a, **k: getattr(value, method)(*a, **k),
                args,
                kwargs,
            )
        return _frame(self).small("call", "call", (self, *args), kwargs)

    def __eq__(self, other: object) -> Any:
        return _frame(self).small("operator", "eq", (self, other))

    def __ne__(self, other: object) -> Any:
        return _frame(self).small("operator", "ne", (self, other))

    def __round__(self, digits: int | None = None) -> Any:
        return _frame(self).small("operator", "round", (self, digits))

    def __divmod__(self, other: Any) -> Any:
        return _frame(self).small("operator", "divmod", (self, other))

    def __rdivmod__(self, other: Any) -> Any:
        return _frame(self).small("operator", "divmod", (other, self))

    def __format__(self, spec: str) -> str:
        return _frame(self).hole(self._inf_node, spec)

    def __repr__(self) -> str:
        return _frame(self).repr_of(self)

    # -- what Python needs at once: graph breaks ----------------------------------

    @property
    def __class__(self) -> Any:
        return _frame(self).class_of(self)

    def __bool__(self) -> bool:
        return bool(_frame(self).force(self, "branch on"))

    def __str__(self) -> str:
        return str(_frame(self).force(self, "make text of"))

    def __bytes__(self) -> bytes:
        return bytes(_frame(self).force(self, "make bytes of"))

    def __iter__(self) -> Iterator[Any]:
        return iter(_frame(self).force(self, "iterate over"))

    def __reversed__(self) -> Iterator[Any]:
        return reversed(_frame(self).force(self, "iterate over"))

    def __next__(self) -> Any:
        return next(_frame(self).force(self, "iterate over"))

    def __len__(self) -> int:
        return len(_frame(self).force(self, "measure"))

    def __contains__(self, item: Any) -> bool:
        value = _frame(self).force(self, "search in")
        return _frame(self).resolve(item) in value

    def __hash__(self) -> int:
        return hash(_frame(self).force(self, "hash"))

    def __int__(self) -> int:
        return int(_frame(self).force(self, "make a number of"))

    def __float__(self) -> float:
        return float(_frame(self).force(self, "make a number of"))

    def __complex__(self) -> complex:
        return complex(_frame(self).force(self, "make a number of"))

    def __index__(self) -> int:
        return operator.index(_frame(self).force(self, "make a number of"))

    def __trunc__(self) -> int:
        return math.trunc(_frame(self).force(self, "make a number of"))

    def __floor__(self) -> int:
        return math.floor(_frame(self).force(self, "make a number of"))

    def __ceil__(self) -> int:
        return math.ceil(_frame(self).force(self, "make a number of"))

    def __lt__(self, other: Any) -> Any:
        return _frame(self).force(self, "order") < _frame(self).resolve(other)

    def __le__(self, other: Any) -> Any:
        return _frame(self).force(self, "order") <= _frame(self).resolve(other)

    def __gt__(self, other: Any) -> Any:
        return _frame(self).force(self, "order") > _frame(self).resolve(other)

    def __ge__(self, other: Any) -> Any:
        return _frame(self).force(self, "order") >= _frame(self).resolve(other)

    def __setitem__(self, key: Any, value: Any) -> None:
        _frame(self).mutate(self, self._inf_node, operator.setitem, (key, value), {})

    def __delitem__(self, key: Any) -> None:
        _frame(self).mutate(self, self._inf_node, operator.delitem, (key,), {})

    def __setattr__(self, name: str, value: Any) -> None:
        _frame(self).mutate(self, self._inf_node, setattr, (name, value), {})

    def __delattr__(self, name: str) -> None:
        _frame(self).mutate(self, self._inf_node, delattr, (name,), {})

    # -- what a proxy cannot be ---------------------------------------------------

    def __deepcopy__(self, memo: dict[int, Any]) -> "Proxy":
        return self

    def __copy__(self) -> "Proxy":
        return self

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TracingError(
            f"cannot pickle the output of {self._inf_node}: its value is not known in "
            "forward. Pickle what engine.run returns."
        )


class AsyncProxy(Proxy, Coroutine[Any, Any, Any]):
    """A proxy in an ``async def forward``: a real coroutine that gives the value.

    It hashes by identity and never waits by itself; ``await`` it first. Unlike other
    coroutines it may be awaited often, also by several tasks at once.
    """

    __slots__ = ("_inf_steps",)

    _inf_steps: dict[Any, Generator[Any, Any, Any]]

    def __init__(self, frame: Any, node: Any) -> None:
        super().__init__(frame, node)
        _SET_STEPS(self, {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith(("cr_", "gi_", "ag_")):  # asyncio looks for these
            raise AttributeError(name)
        return super().__getattr__(name)

    def __await__(self) -> Generator[Any, Any, Any]:
        return _frame(self).wait(self._inf_node)

    def send(self, value: Any) -> Any:
        """Go on to the next wait, as asyncio does."""
        return self._inf_step(lambda steps: steps.send(value))

    def __next__(self) -> Any:
        return self.send(None)

    def throw(self, *error: Any) -> Any:
        """Raise in the wait, as asyncio does to cancel."""
        if asyncio.current_task() not in self._inf_steps:
            try:
                self.send(None)  # a task cancelled before its first step
            except BaseException:  # noqa: BLE001 - it had ended, which is not looked at
                raise error[0] from None
        return self._inf_step(lambda steps: steps.throw(*error))

    def close(self) -> None:
        """End the waits."""
        for steps in list(self._inf_steps.values()):
            steps.close()

    def _inf_step(self, take: Callable[[Generator[Any, Any, Any]], Any]) -> Any:
        """Take a step of the wait of the task that runs now."""
        task = asyncio.current_task()
        steps = self._inf_steps.get(task)
        if steps is None:
            steps = self._inf_steps[task] = self.__await__()
        try:
            return take(steps)
        except BaseException:
            del self._inf_steps[task]
            raise

    def __hash__(self) -> int:
        return id(self)

    @property
    def __class__(self) -> Any:
        return AsyncProxy


_SET_FRAME = Proxy.__dict__["_inf_frame"].__set__
_SET_NODE = Proxy.__dict__["_inf_node"].__set__
_SET_STEPS = AsyncProxy.__dict__["_inf_steps"].__set__


def _operator(name: str, reflected: bool) -> Callable[..., Any]:
    def forwards(self: Proxy, *other: Any) -> Any:
        return _frame(self).small("operator", name, (self, *other))

    def backwards(self: Proxy, other: Any) -> Any:
        return _frame(self).small("operator", name, (other, self))

    return backwards if reflected else forwards


for _name in _REFLECTED:
    _plain = _name.rstrip("_")
    setattr(Proxy, f"__{_plain}__", _operator(_name, reflected=False))
    setattr(Proxy, f"__r{_plain}__", _operator(_name, reflected=True))
for _name in _UNARY:
    setattr(Proxy, f"__{_name}__", _operator(_name, reflected=False))
