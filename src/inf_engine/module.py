"""`InferenceModule`: the base class of everything that has a ``forward``.

Attributes that are modules or parameters register themselves, as in PyTorch. Calling a
module asks the current dispatcher (a trace, an eager run); without one a bound module
gives a coroutine, and an unbound one runs its ``forward`` as plain Python.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MemberDescriptorType
from typing import Any, NamedTuple, Self

from inf_engine.dispatch import dispatcher
from inf_engine.errors import ModuleError, StateDictError, known_names
from inf_engine.naming import Named
from inf_engine.parameter import Parameter

_FORGOTTEN = """{name} was used before super().__init__() was called. Write

    class {name}(InferenceModule):
        def __init__(self, ...):
            super().__init__()      # first line, before any attribute
            ...
"""


class IncompatibleKeys(NamedTuple):
    """What `InferenceModule.load_state_dict` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class InferenceModule(Named):
    """Base class of pipelines: subclass it, hold modules and parameters, write forward.

    An attribute that is a module or a parameter registers itself. What stands in a
    plain list, tuple or dict does not: use `ModuleList` and its relatives, or its
    parameters have no name and are in no `state_dict`.

    Set ``leaf = True`` on a class to have its calls recorded as one node instead of
    traced through.

    Example:
        >>> class Shout(InferenceModule):
        ...     def forward(self, text: str) -> str:
        ...         return text.upper()
        >>> Shout()("hi")
        'HI'
    """

    leaf: bool = False

    _parameters: dict[str, Parameter]
    _modules: dict[str, "InferenceModule"]
    training: bool
    _engine: Any

    def __init__(self) -> None:
        if "_modules" in self.__dict__:  # two bases of one class: keep what one made
            return
        self.__dict__.update(_parameters={}, _modules={}, training=True, _engine=None)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the output; every subclass writes its own.

        Raises:
            ModuleError: If the subclass has none.
        """
        raise ModuleError(
            f"{type(self).__name__} has no forward: define "
            f"'def forward(self, ...)' in class {type(self).__name__}."
        )

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run the module: recorded in a forward, a coroutine when bound, else plain."""
        if "_modules" not in self.__dict__:
            self._check_initialised()
        answer = dispatcher.get()
        if answer is not None:
            return answer.call_module(self, args, kwargs)
        engine = self._engine
        if engine is not None:
            return engine.run(self, *args, **kwargs)
        return self.forward(*args, **kwargs)

    # -- binding ----------------------------------------------------------------

    def bind(self, engine: Any) -> Self:
        """Bind to an engine, so that ``await module(...)`` and `run_sync` run there.

        Args:
            engine: An `Engine`, or None to unbind.

        Returns:
            The module itself. Copies and pickles are not bound.
        """
        self._check_initialised()
        object.__setattr__(self, "_engine", engine)
        return self

    def run_sync(self, /, *args: Any, **kwargs: Any) -> Any:
        """Run on the bound engine and wait for the output.

        Raises:
            ModuleError: If the module is not bound.
        """
        if self._engine is None:
            raise ModuleError(
                f"{type(self).__name__} is not bound to an engine: call "
                "module.bind(engine) first, or engine.run_sync(module, ...)."
            )
        return self._engine.run_sync(self, *args, **kwargs)

    # -- registration -----------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(value)
        registers = issubclass(kind, (Parameter, InferenceModule))
        if registers and not self._has_setter(name):
            self._check_initialised()
            if issubclass(kind, Parameter):
                self.register_parameter(name, value)
            else:
                self.add_module(name, value)
            return
        if "_modules" in self.__dict__:
            self._unregister(name)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        held = self.__dict__
        if "_modules" not in held and not name.startswith("__"):
            raise ModuleError(_FORGOTTEN.format(name=type(self).__name__))
        for table in ("_parameters", "_modules"):
            if name in held.get(table, ()):
                return held[table][name]
        return object.__getattribute__(self, name)  # raises, with Python's own words

    def __delattr__(self, name: str) -> None:
        self._check_initialised()
        if not self._unregister(name):
            object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        held = self.__dict__
        tables = [*held.get("_parameters", ()), *held.get("_modules", ())]
        return sorted({*object.__dir__(self), *tables})

    def register_parameter(self, name: str, parameter: Parameter) -> None:
        """Register a parameter under `name`; assigning an attribute does the same.

        Raises:
            ModuleError: If it is not a `Parameter`, or the name is taken by a method.
        """
        self._check_initialised()
        self._check_attribute(name)
        self._check_kind(name, parameter, Parameter)
        self._register(self._parameters, name, parameter)
        self._shadow(name, parameter)

    def add_module(self, name: str, module: "InferenceModule") -> None:
        """Register a child under `name`; assigning an attribute does the same.

        Raises:
            ModuleError: If it is not a module, or the name is taken by a method.
        """
        self._check_initialised()
        self._check_attribute(name)
        self._check_kind(name, module, InferenceModule)
        self._register(self._modules, name, module)
        self._shadow(name, module)

    def _register(self, table: dict[str, Any], name: str, held: Named) -> None:
        self._check_key(name)
        held._attach(self)
        if name in table:
            table[name]._detach(self)
        else:
            self._unregister(name)
        table[name] = held

    def _unregister(self, name: str) -> bool:
        """Forget what is registered under a name; say whether anything was."""
        for table in (self._parameters, self._modules):
            held: Named | None = table.pop(name, None)
            if held is not None:
                held._detach(self)
                if self._is_slot(name) or self.__dict__.get(name) is held:
                    object.__delattr__(self, name)
                return True
        return False

    def _shadow(self, name: str, held: Named) -> None:
        """Let what is registered win over a class attribute of its name."""
        if self._is_slot(name):
            object.__setattr__(self, name, held)
        else:
            self.__dict__[name] = held

    def _is_slot(self, name: str) -> bool:
        return isinstance(getattr(type(self), name, None), MemberDescriptorType)

    def _has_setter(self, name: str) -> bool:
        """Say whether the class itself answers assignments, as a property does."""
        found = type(getattr(type(self), name, None))
        return hasattr(found, "__set__") and found is not MemberDescriptorType

    def _parameter_changed(self, parameter: Parameter) -> None:
        """Take note that one of a few values was chosen; most read it when needed."""

    def _check_kind(self, name: str, held: Any, kind: type[Any]) -> None:
        if not isinstance(held, kind):
            raise ModuleError(
                f"{type(self).__name__} cannot register {name!r}: it must be of type "
                f"{kind.__name__}, not {type(held).__name__}."
            )
        if isinstance(held, InferenceModule):
            held._check_initialised()

    def _check_attribute(self, name: str) -> None:
        self._check_key(name)
        if hasattr(InferenceModule, name) or name in InferenceModule.__annotations__:
            raise ModuleError(
                f"{name!r} cannot name a child of {type(self).__name__}: "
                f"InferenceModule.{name} has that name. Choose another."
            )

    def _check_key(self, name: str) -> None:
        if not isinstance(name, str) or not name or "." in name:
            raise ModuleError(
                f"{name!r} cannot name a child of {type(self).__name__}: a key is a "
                "str, not empty and without dots, because dotted names are paths."
            )

    def _check_initialised(self) -> None:
        if "_modules" not in self.__dict__:
            raise ModuleError(_FORGOTTEN.format(name=type(self).__name__))

    # -- walking ----------------------------------------------------------------

    def named_children(self) -> Iterator[tuple[str, "InferenceModule"]]:
        """Yield each direct child once, with its key."""
        seen: set[int] = set()
        for name, child in self._modules.items():
            if id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator["InferenceModule"]:
        """Yield each direct child once."""
        return (child for _, child in self.named_children())

    def named_modules(self) -> Iterator[tuple[str, "InferenceModule"]]:
        """Yield this module (named ``""``) and all below it, each once, depth first."""
        seen: set[int] = set()
        stack: list[tuple[str, InferenceModule]] = [("", self)]
        while stack:
            path, module = stack.pop()
            if id(module) in seen:
                continue
            seen.add(id(module))
            yield path, module
            below = [(_join(path, key), kid) for key, kid in module._modules.items()]
            stack.extend(reversed(below))

    def modules(self) -> Iterator["InferenceModule"]:
        """Yield this module and all below it, each once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self, recurse: bool = True) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter once, under its first dotted name.

        Args:
            recurse: Whether to yield those of the modules below, too.
        """
        seen: set[int] = set()
        for path, module in self.named_modules() if recurse else [("", self)]:
            for key, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield _join(path, key), parameter

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Yield each parameter once."""
        return (parameter for _, parameter in self.named_parameters(recurse))

    def get_submodule(self, target: str) -> "InferenceModule":
        """Return the module at a dotted path; ``""`` is this one.

        Raises:
            ModuleError: If there is none; the message lists the children that exist.
        """
        here: InferenceModule = self
        walked: list[str] = []
        for key in target.split(".") if target else []:
            if key not in here._modules:
                place = ".".join(walked) or type(self).__name__
                raise ModuleError(
                    f"no module {key!r} in {place}; {known_names(key, here._modules)}"
                )
            here = here._modules[key]
            walked.append(key)
        return here

    def apply(self, fn: Callable[["InferenceModule"], Any]) -> Self:
        """Call `fn` with every module below, children first, then this one."""
        seen: set[int] = set()
        stack: list[tuple[InferenceModule, bool]] = [(self, False)]
        while stack:
            module, ready = stack.pop()
            if ready:
                fn(module)
            elif id(module) not in seen:
                seen.add(id(module))
                below = [(kid, False) for kid in module._modules.values()]
                stack += [(module, True), *reversed(below)]
        return self

    # -- modes and state --------------------------------------------------------

    def train(self, mode: bool = True) -> Self:
        """Set `training` here and below; it is for what modules themselves do."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Set `training` to False here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Set `requires_grad` of every parameter here and below."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_feedback(self) -> None:
        """Empty the feedback of every parameter here and below."""
        for parameter in self.parameters():
            parameter.zero_feedback()

    def state_dict(self) -> dict[str, Any]:
        """Return dotted name → value of every parameter: flat, plain JSON."""
        return {name: parameter.state for name, parameter in self.named_parameters()}

    def load_state_dict(
        self, state: Mapping[str, Any], strict: bool = True
    ) -> IncompatibleKeys:
        """Load what `state_dict` gave. Nothing is written unless all of it fits.

        Args:
            state: Dotted name → value.
            strict: Whether missing and unexpected names are an error.

        Returns:
            The names that did not match.

        Raises:
            StateDictError: If names do not match and `strict` is true.
            ParameterError: If a parameter refuses its value.
        """
        if not isinstance(state, Mapping):
            raise StateDictError(
                f"a state is a dict of dotted names and values, not "
                f"{type(state).__name__}: give what state_dict() gave."
            )
        own = dict(self.named_parameters())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        if strict and (missing or unexpected):
            raise StateDictError(
                f"the state does not fit {type(self).__name__}: missing "
                f"{missing or 'nothing'}, unexpected {unexpected or 'nothing'}. Load "
                "it into the class it was saved from, or pass strict=False."
            )
        fitting = {name: own[name] for name in state if name in own}
        checked = {name: own[name]._checked(state[name]) for name in fitting}
        for name, value in checked.items():
            own[name].value = value
        return IncompatibleKeys(missing, unexpected)

    # -- copies and text --------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        self._check_initialised()
        state: Any = object.__getstate__(self)
        slots = state[1] if isinstance(state, tuple) else {}
        own = {"_parameters": dict(self._parameters), "_modules": dict(self._modules)}
        return {**self._state(), **slots, **own, "_engine": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            if self._is_slot(name):
                object.__setattr__(self, name, value)
            else:
                self.__dict__[name] = value
        for held in [*self._parameters.values(), *self._modules.values()]:
            held._attach(self)

    def extra_repr(self) -> str:
        """Return what stands in the parentheses of the repr; for subclasses."""
        return ""

    def __repr__(self) -> str:
        if "_modules" not in self.__dict__:
            return f"<{type(self).__name__} before super().__init__()>"
        return "\n".join(_tree_lines(self))

    def is_async(self) -> bool:
        """Say whether ``forward`` is an ``async def``."""
        return inspect.iscoroutinefunction(self.forward)


def _tree_lines(root: InferenceModule) -> list[str]:
    """Return the lines of the tree; what was shown already is only pointed to."""
    lines: list[str] = []
    shown: dict[int, str] = {}
    stack: list[tuple[str, str, str, Any]] = [("", "", "", root)]
    while stack:
        pad, label, path, module = stack.pop()
        if id(module) in shown or not isinstance(module, InferenceModule):
            lines.append(f"{pad}{label}{_short(module, shown)}")
            continue
        shown[id(module)] = path
        lines.append(f"{pad}{label}{type(module).__name__}({module.extra_repr()}")
        below = f"{pad}  "
        held = {**module._parameters, **module._modules}
        inner = [(below, f"({k}): ", _join(path, k), m) for k, m in held.items()]
        if inner:
            stack += [(pad, ")", "", None), *reversed(inner)]
        else:
            lines[-1] += ")"
    return lines


def _short(held: Any, shown: dict[int, str]) -> str:
    """Return the text of something that has, or needs, no lines of its own."""
    if id(held) not in shown:
        return "" if held is None else repr(held)
    place = shown[id(held)]
    return f"{type(held).__name__}({f'see {place!r}' if place else '...'})"


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
