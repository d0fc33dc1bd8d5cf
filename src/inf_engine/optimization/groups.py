"""Parameter groups: what an optimizer is given, checked, and what it knows of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inf_engine.errors import ModuleError, UsageError, known_names
from inf_engine.llm import LLMInference
from inf_engine.messages import template_fields
from inf_engine.module import InferenceModule
from inf_engine.optimization.constraints import KeepsFields, check
from inf_engine.optimization.rewriter import MODES, Rejected
from inf_engine.optimization.schedule import edits_at
from inf_engine.parameter import Parameter

OPTIONS: Mapping[str, Any] = {
    "alias": None,
    "edits": 3,
    "mode": "edits",
    "coupled": False,
    "constraints": (),
}


@dataclass(slots=True, eq=False)
class Held:
    """A parameter that an optimizer holds.

    Args:
        parameter: The parameter.
        group: The options of its group.
        past: What the notes of earlier steps said, oldest first.
        rejected: What was tried and not kept, oldest first.
    """

    parameter: Parameter
    group: Mapping[str, Any]
    past: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def constraints(self) -> list[Any]:
        """What a new value is held to; a template keeps its fields in any case."""
        own = list(self.group["constraints"])
        return [*own, TemplateFields()] if is_template(self.parameter) else own

    def broken(self, old: str, new: str) -> str:
        """Say which constraints a new value does not keep; empty if it keeps all.

        Args:
            old: The value as it was.
            new: The value as it is proposed.
        """
        return " ".join([str(found) for found in check(self.constraints, old, new)])


@dataclass(frozen=True, slots=True)
class TemplateFields:
    """The ``{fields}`` of the `prompt` of an `LLMInference`: the call gives them."""

    @property
    def rule(self) -> str:
        """What it asks for."""
        return (
            "Keep every {field} in braces as it is, and add no others. Write {{ and }} "
            "to mean braces as text."
        )

    def check(self, old: str, new: str) -> list[str]:
        """Return a sentence for each field that was lost or added.

        Args:
            old: The present text.
            new: The proposal.
        """
        found = KeepsFields().check(old, new)
        if found:
            return found
        try:
            same = sorted(template_fields(old)) == sorted(template_fields(new))
        except ModuleError:
            same = False
        return [] if same else [f"The fields in braces are wrong. {self.rule}"]


def is_template(parameter: Parameter) -> bool:
    """Say whether a parameter is the prompt template of a model call.

    Args:
        parameter: The parameter.
    """
    root = parameter._outermost()
    modules = root.modules() if isinstance(root, InferenceModule) else ()
    return any(
        isinstance(module, LLMInference) and module.prompt is parameter
        for module in modules
    )


def groups_of(params: Any) -> list[dict[str, Any]]:
    """Return what an optimizer was given as groups.

    Args:
        params: Parameters, or dicts with ``params`` and options.

    Raises:
        UsageError: If it is neither, or empty.
    """
    if isinstance(params, InferenceModule | Parameter | Mapping | str):
        raise UsageError(
            f"an optimizer takes an iterable of parameters, not "
            f"{type(params).__name__}: give module.parameters(), or a list of groups."
        )
    listed = list(params)
    if not listed:
        raise UsageError(
            "an optimizer got no parameters: give module.parameters() of a module that "
            "has some."
        )
    groups = [item for item in listed if isinstance(item, Mapping)]
    if groups and len(groups) != len(listed):
        raise UsageError(
            "an optimizer got parameters and groups mixed: put the parameters into "
            "groups, too: {'params': [...]}."
        )
    return [dict(group) for group in groups] or [{"params": listed}]


def checked_options(
    options: Mapping[str, Any], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of a group.

    Args:
        options: The options.
        known: Those that there are.

    Raises:
        UsageError: If one is unknown or wrong.
    """
    for name, value in options.items():
        if name not in known:
            raise UsageError(
                f"unknown option {name!r} of an optimizer; {known_names(name, known)}."
            )
        if name in _CHECKS:
            _CHECKS[name](value)
    return dict(options)


def check_parameters(params: Sequence[Any], others: Iterable[Parameter]) -> None:
    """Refuse a group that cannot be trained.

    Args:
        params: The parameters of the group.
        others: Those of the groups before it.

    Raises:
        UsageError: If there is none, all are frozen, one has no name or comes twice.
    """
    if not params:
        raise UsageError(
            "a parameter group is empty: give module.parameters() of a module that has "
            "some."
        )
    for place, parameter in enumerate(params):
        _check_parameter(place, parameter)
    names = [parameter.name for parameter in [*others, *params]]
    twice = [name for place, name in enumerate(names) if name in names[:place]]
    if twice:
        raise UsageError(
            f"{twice[0]!r} is given twice to an optimizer: give each parameter once, "
            "and those of one module only."
        )
    if not any(parameter.requires_grad for parameter in params):
        raise UsageError(
            f"every parameter of a group is frozen ({', '.join(names[-3:])}): call "
            "requires_grad_() on those to train. A system_prompt given as plain text "
            "is frozen; give a Parameter."
        )


def check_counts(*, least: int = 0, **counts: Any) -> None:
    """Refuse what is not a whole number, or too small.

    Args:
        least: The smallest that is allowed.
        **counts: The numbers by name.

    Raises:
        UsageError: If one is none.
    """
    for name, count in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise UsageError(f"{name}={count!r}: give a whole number, {least} or more.")


def check_texts(kind: str, held: Mapping[str, Held]) -> None:
    """Refuse a step from feedback where there is no text that it is about.

    Args:
        kind: The optimizer's class.
        held: What may be changed, by dotted name.

    Raises:
        UsageError: If there is no text.
    """
    if not any(one.parameter.is_text for one in held.values()):
        raise UsageError(
            f"a step of {kind} changes texts, by what was said of them, and "
            f"{', '.join(held)} are chosen by scores: train with "
            "Trainer(..., optimizer=...).fit(...), which calls its search."
        )


def _check_parameter(place: int, parameter: Any) -> None:
    if not isinstance(parameter, Parameter):
        raise UsageError(
            f"parameter {place} of a group is of type {type(parameter).__name__}: give "
            "Parameter objects, as module.parameters() does, or dicts with 'params'."
        )
    if not parameter.name:
        raise UsageError(
            f"parameter {place} of a group has no name: hold it in a module "
            "(self.rules = Parameter(...)), and keep that module alive."
        )


def _check_alias(alias: Any) -> None:
    if alias is not None and not (isinstance(alias, str) and alias):
        raise UsageError(
            f"alias={alias!r}: give the name that the resources bind the rewriting "
            "model to."
        )


def _check_edits(edits: Any) -> None:
    edits_at(edits, 0)


def _check_mode(mode: Any) -> None:
    if mode not in MODES:
        raise UsageError(f"mode={mode!r}; {known_names(str(mode), MODES)}.")


def _check_coupled(coupled: Any) -> None:
    if not isinstance(coupled, bool):
        raise UsageError(f"coupled={coupled!r}: give True or False.")


def _check_constraints(constraints: Any) -> None:
    listed = constraints if isinstance(constraints, list | tuple) else [None]
    for constraint in listed:
        rule = getattr(constraint, "rule", None)
        if not callable(getattr(constraint, "check", None)) or rule is None:
            raise UsageError(
                "constraints must be a list or tuple of constraints such as "
                "MaxLength(words=200)."
            )


_CHECKS: Mapping[str, Callable[[Any], None]] = {
    "alias": _check_alias,
    "edits": _check_edits,
    "mode": _check_mode,
    "coupled": _check_coupled,
    "constraints": _check_constraints,
}
