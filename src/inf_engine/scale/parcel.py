"""What travels between the processes of a map: plain data, pickled.

A module travels by value (cloudpickle), its binding dropped; endpoints travel as their
configuration, which names environment variables and holds no key.
"""

import io
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from inf_engine.errors import (
    ConfigurationError,
    ExecutionError,
    InfEngineError,
    ModuleError,
)
from inf_engine.execution.batch import Result
from inf_engine.execution.recall import Identity
from inf_engine.execution.settings import ExecutionSettings
from inf_engine.functional import Op
from inf_engine.resources.budget import Budget
from inf_engine.resources.ledger import Entries

Dump = Callable[[Any], bytes]
Load = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Errand:
    """What an actor is to do with each input.

    Args:
        module: The module.
        bindings: What each alias is bound to.
        settings: How each input is run.
        identity: What stands for an input in the journal.
        record: Whether results carry records.
        has_journal: Whether the coordinator has a journal.
        cached: The keys in its cache, None if it has none.
        budget: The budget that all actors spend, None for any amount.
        seconds: For how long it has been spent.
    """

    module: Any
    bindings: Mapping[str, Any]
    settings: ExecutionSettings
    identity: Identity | None = None
    record: bool = False
    has_journal: bool = False
    cached: frozenset[bytes] | None = None
    budget: Budget | None = None
    seconds: float = 0.0


class Item(NamedTuple):
    """An input on its way to an actor.

    Args:
        index: Its place, from 0.
        identity: What it is called in the journal, None if there is none.
        data: The input, pickled.
    """

    index: int
    identity: str | None
    data: bytes


class Report(NamedTuple):
    """What an actor tells from time to time.

    Args:
        outcomes: The places of inputs that have ended, and how, pickled.
        room: How many inputs keep it busy.
        entries: What it has booked since the last report.
        broken: Why it cannot go on, None if it can.
    """

    outcomes: list[tuple[int, bytes]]
    room: int
    entries: Entries
    broken: BaseException | None = None


class Kept(NamedTuple):
    """A row of the journal, as far as a run asks for it.

    Args:
        key: Its key.
        first: The key of the first of equal calls, None for that one itself.
        place: Where in the program its call stands.
        text: The answer.
    """

    key: bytes
    first: bytes | None
    place: str
    text: str


def dumper(cloudpickle: Any) -> Dump:
    """Return what pickles by value what another process could not import.

    cloudpickle does so with functions and classes of a script, a notebook or another
    function; here an `Op` is such a function, too.

    Args:
        cloudpickle: The package, or one that has its names.
    """

    class Pickler(cloudpickle.CloudPickler):
        def reducer_override(self, obj: Any) -> Any:
            if type(obj) is Op and not _can_be_imported(obj, cloudpickle):
                return _empty_op, (), vars(obj)
            return super().reducer_override(obj)

    def dump(value: Any) -> bytes:
        with io.BytesIO() as file:
            Pickler(file).dump(value)
            return file.getvalue()

    return dump


def _empty_op() -> Op[Any, Any]:
    """Return an op that is filled later, for its function may refer to it."""
    return Op.__new__(Op)


def _can_be_imported(op: Op[Any, Any], cloudpickle: Any) -> bool:
    """Say whether an op is found by its name, in a module that others have."""
    name = op.__module__
    parts = name.split(".")
    parents = {".".join(parts[: n + 1]) for n in range(len(parts))}
    if name == "__main__" or parents & set(cloudpickle.list_registry_pickle_by_value()):
        return False
    found: Any = sys.modules.get(name)
    for part in str(op.__reduce__()).split("."):
        found = getattr(found, part, None)
    return found is op


def packed_errand(errand: Errand, dump: Dump) -> bytes:
    """Return an errand, pickled.

    Raises:
        ConfigurationError: If a client that was handed in cannot travel.
        ModuleError: If the module cannot.
    """
    for alias, (config, client) in errand.bindings.items():
        if config is None and not _travels(client, dump):
            raise ConfigurationError(
                f"the client of alias {alias!r}, a {type(client).__name__}, cannot be "
                "sent to another process. Describe the endpoint (provider, model, "
                "base_url, api_key_env) instead of handing in a client."
            )
    try:
        return dump(errand)
    except Exception as exc:
        name = type(errand.module).__name__
        raise ModuleError(
            f"{name} cannot be sent to another process ({_reason(exc)}). Keep open "
            "files, locks and connections out of the attributes of modules, of "
            "identity= and retries=, and of the globals that functions of a script or "
            "notebook use: make them inside an @op."
        ) from exc


def packed_inputs(inputs: tuple[Any, ...], index: int, dump: Dump) -> bytes:
    """Return an input, pickled.

    Raises:
        ModuleError: If it cannot travel.
    """
    try:
        return dump(inputs)
    except Exception as exc:
        raise ModuleError(
            f"input {index} cannot be sent to another process ({_reason(exc)}). Give "
            "plain data, and open files and connections inside an @op."
        ) from exc


def packed_result(result: Result, dump: Dump, load: Load) -> bytes:
    """Return a result, pickled; of one that cannot travel, an error that can."""
    error = result.error
    try:
        data = dump(result)
        if error is not None:
            load(data)  # of an exception with arguments of its own that fails
        return data
    except Exception as exc:  # noqa: BLE001 - told as the outcome
        reason = _reason(exc)
    told: InfEngineError
    if error is not None:
        told = _likeness(error)
        told.add_note(f"Its cause cannot leave its process ({reason}).")
    else:
        what = "record" if _travels(result.output, dump) else type(result.output)
        told = ModuleError(
            f"the output of input {result.index} cannot leave its process: {what} "
            f"({reason}). Return plain data from forward."
        )
    return dump(replace(result, output=None, record=None, error=told))


def _likeness(error: BaseException) -> InfEngineError:
    """Return an error that says the same and holds plain values only."""
    if isinstance(error, ExecutionError):
        node, alias, attempt = error.node, error.alias, error.attempt
        return ExecutionError(str(error), node=node, alias=alias, attempt=attempt)
    return ModuleError(f"{type(error).__name__}: {error}")


def _travels(value: Any, dump: Dump) -> bool:
    try:
        dump(value)
    except Exception:  # noqa: BLE001 - whatever pickling user code raises
        return False
    return True


def _reason(error: Exception) -> str:
    """Return why pickling failed; no repr of a value is repeated."""
    return f"{type(error).__name__}: {first_line(error)[:120]}"


def first_line(error: Exception) -> str:
    """Return the first line of an error, which may say nothing."""
    return next(iter(str(error).splitlines()), "")
