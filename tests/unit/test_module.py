"""What a module registers, how it is walked, and what it says when built wrongly."""

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import pytest

from inf_engine import (
    InferenceModule,
    LLMInference,
    ModuleError,
    ModuleList,
    NotBoundError,
    Parameter,
)


class Block(InferenceModule):
    """A module with nothing of its own."""

    def forward(self, text: str) -> str:
        return text.upper()


class Pair(InferenceModule):
    """Two children and a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.style = Parameter("Be brief.")
        self.left = Block()
        self.right = Block()


def chain(length: int) -> Block:
    """Return modules nested into each other, `length` deep."""
    top = Block()
    top.p = Parameter("deep")
    for _ in range(length):
        above = Block()
        above.below = top
        top = above
    return top


# -- registration ---------------------------------------------------------------------


def test_modules_and_parameters_register_by_assignment() -> None:
    """An attribute is found as itself, by name, and in the walks."""
    pair = Pair()
    assert [name for name, _ in pair.named_children()] == ["left", "right"]
    assert list(pair.named_parameters()) == [("style", pair.style)]
    assert {"left", "style"} <= set(dir(pair))


@pytest.mark.parametrize("old", [Block(), Parameter("x"), "plain"])
@pytest.mark.parametrize("new", [Block(), Parameter("y"), "text"])
def test_assigning_again_replaces_whatever_was_there(old: Any, new: Any) -> None:
    """One name holds one thing, of whatever kind it was and is."""
    block = Block()
    block.x = old
    block.x = new
    assert block.x is new
    assert list(block.children()) == [new] * isinstance(new, InferenceModule)
    assert list(block.parameters()) == [new] * isinstance(new, Parameter)
    del block.x
    assert not hasattr(block, "x")
    assert not [*block.children(), *block.parameters()]


def test_overwriting_keeps_the_place_of_a_child() -> None:
    """A replaced child stands where the old one stood, as in a dict."""
    pair = Pair()
    pair.left = Block()
    assert [name for name, _ in pair.named_children()] == ["left", "right"]


def test_deleting_what_is_not_there_is_an_attribute_error() -> None:
    """As for any object."""
    with pytest.raises(AttributeError, match="ghost"):
        del Pair().ghost
    with pytest.raises(AttributeError, match="'Pair' object has no attribute 'ghost'"):
        _ = Pair().ghost


@pytest.mark.parametrize("name", ["", "a.b", 3])
def test_a_name_is_a_str_without_dots(name: Any) -> None:
    """Dotted names are paths, so a key has no dot."""
    with pytest.raises(ModuleError, match="cannot name a child of Block"):
        Block().add_module(name, Block())
    with pytest.raises(ModuleError, match="cannot name a child of Block"):
        Block().register_parameter(name, Parameter("x"))


@pytest.mark.parametrize("name", ["train", "forward", "_modules", "training", "leaf"])
def test_a_child_cannot_take_the_name_of_a_method(name: str) -> None:
    """It would break the module without a word."""
    with pytest.raises(ModuleError, match=f"InferenceModule.{name} has that name"):
        setattr(Block(), name, Block())


def test_registering_something_else_is_refused() -> None:
    """add_module takes modules, register_parameter takes parameters."""
    with pytest.raises(ModuleError, match="must be of type InferenceModule, not str"):
        Block().add_module("x", "text")  # ty: ignore[invalid-argument-type]
    with pytest.raises(ModuleError, match="must be of type Parameter, not Block"):
        Block().register_parameter("x", Block())  # ty: ignore[invalid-argument-type]


def test_a_child_wins_over_a_class_attribute_of_its_name() -> None:
    """A default on the class does not hide what the instance holds."""

    class WithDefault(InferenceModule):
        llm: InferenceModule | None = None

    module = WithDefault()
    assert module.llm is None
    module.llm = child = Block()
    assert module.llm is child
    del module.llm
    assert module.llm is None


def test_a_property_with_a_setter_answers_assignments() -> None:
    """The setter decides what is registered, and under which name."""

    class WithProperty(InferenceModule):
        @property
        def llm(self) -> InferenceModule:
            return self._llm

        @llm.setter
        def llm(self, value: InferenceModule) -> None:
            self._llm = value

        @property
        def broken(self) -> str:
            return self.absent

    module = WithProperty()
    module.llm = child = Block()
    assert module.llm is child
    assert list(module.named_children()) == [("_llm", child)]
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        _ = module.broken


def test_a_class_with_slots_registers_and_copies() -> None:
    """A slot may hold a child, a parameter or a plain value."""

    class Slotted(Block):
        __slots__ = ("llm", "note")

    module = Slotted()
    module.llm = Block()
    module.note = "plain"
    twin = copy.deepcopy(module)
    assert twin.note == "plain"
    assert [name for name, _ in twin.named_children()] == ["llm"]
    assert twin.llm is next(twin.children()) is not module.llm
    module.llm = None
    assert module.llm is None
    assert not list(module.children())


def test_mixins_work_on_either_side() -> None:
    """A mixin before the module passes super().__init__() on; diamonds keep all."""

    class Mixin:
        def __init__(self) -> None:
            super().__init__()
            self.extra = 1

    class Mixed(Mixin, Block):
        pass

    class Left(Block):
        def __init__(self) -> None:
            Block.__init__(self)
            self.a = Block()

    class Right(Block):
        def __init__(self) -> None:
            Block.__init__(self)
            self.b = Block()

    class Both(Left, Right):
        def __init__(self) -> None:
            Left.__init__(self)
            Right.__init__(self)

    mixed = Mixed()
    mixed.child = Block()
    assert mixed.extra == 1
    assert len(list(mixed.modules())) == 2
    assert [name for name, _ in Both().named_children()] == ["a", "b"]


def test_a_plain_list_of_modules_is_not_registered() -> None:
    """Only ModuleList registers; a plain list stays the caller's own business."""
    block = Block()
    block.hidden = [Block()]
    assert not list(block.children())


# -- super().__init__() was forgotten -------------------------------------------------


class Forgot(InferenceModule):
    """Forgets super().__init__(); `value` is what it assigns."""

    def __init__(self, value: Any) -> None:
        self.held = value


@pytest.mark.parametrize("value", [Block(), Parameter("x")])
def test_forgetting_shows_when_a_child_is_assigned(value: Any) -> None:
    """The message holds the right code."""
    with pytest.raises(ModuleError, match=r"Forgot was used before super\(\)") as info:
        Forgot(value)
    assert "super().__init__()      # first line" in str(info.value)


@pytest.mark.parametrize(
    "use",
    [
        lambda module: module("text"),
        lambda module: list(module.parameters()),
        lambda module: list(module.named_modules()),
        lambda module: module.train(),
        lambda module: module.state_dict(),
        lambda module: module.load_state_dict({}),
        lambda module: module.bind(None),
        lambda module: module.run_sync("text"),
        lambda module: module.training,
        lambda module: module.absent,
        lambda module: delattr(module, "held"),
        lambda module: module.add_module("x", Block()),
        lambda module: module.register_parameter("x", Parameter("x")),
        lambda module: setattr(Block(), "child", module),
        lambda module: ModuleList([module]),
        copy.copy,
        copy.deepcopy,
        pickle.dumps,
    ],
)
def test_forgetting_shows_at_the_first_use(use: Any) -> None:
    """With plain attributes only, whatever is done first says what is wrong."""
    with pytest.raises(ModuleError, match=r"Forgot was used before super\(\)"):
        use(Forgot("plain"))


def test_a_forgetful_module_can_be_printed() -> None:
    """Its repr says what is wrong, and does not fail itself."""
    assert repr(Forgot("plain")) == "<Forgot before super().__init__()>"


def test_a_dataclass_may_initialise_in_post_init_if_it_holds_no_module() -> None:
    """Fields are assigned before __post_init__, so modules come after it."""

    @dataclass(eq=False)
    class Settings(InferenceModule):
        times: int = 2

        def __post_init__(self) -> None:
            super().__init__()
            self.child = Block()

        def forward(self, text: str) -> str:
            return self.child(text) * self.times

    @dataclass(eq=False)
    class Holder(InferenceModule):
        child: InferenceModule

    assert Settings(3)("a") == "AAA"
    with pytest.raises(ModuleError, match=r"Holder was used before super\(\)"):
        Holder(Block())


# -- walking --------------------------------------------------------------------------


def test_walks_are_depth_first_in_the_order_of_assignment() -> None:
    """The names are dotted paths; the outermost one is empty."""
    outer = Block()
    outer.first, outer.second = Pair(), Block()
    assert [name for name, _ in outer.named_modules()] == [
        "",
        "first",
        "first.left",
        "first.right",
        "second",
    ]
    assert [name for name, _ in outer.named_parameters()] == ["first.style"]
    assert not list(outer.named_parameters(recurse=False))
    assert list(outer.children()) == [outer.first, outer.second]


def test_apply_goes_to_children_first() -> None:
    """The function sees each module once, below before above, and self is returned."""
    outer = Block()
    outer.first, outer.second = Pair(), Block()
    outer.again = outer.first.left
    seen: list[InferenceModule] = []
    assert outer.apply(seen.append) is outer
    assert seen == [
        outer.first.left,
        outer.first.right,
        outer.first,
        outer.second,
        outer,
    ]


def test_get_submodule_follows_a_path() -> None:
    """Through containers, too; the empty path is the module itself."""
    outer = Block()
    outer.steps = ModuleList([Pair()])
    assert outer.get_submodule("steps.0.left") is outer.steps[0].left
    assert outer.get_submodule("") is outer


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lefd", r"no module 'lefd' in Pair; known: left, right \(did you mean 'left'"),
        ("left.deep", "no module 'deep' in left; none is known"),
        ("style", "no module 'style' in Pair; known: left, right"),
        ("left.", "no module '' in left"),
    ],
)
def test_get_submodule_lists_what_exists(target: str, message: str) -> None:
    """The message says where the path ends and what could follow."""
    with pytest.raises(ModuleError, match=message):
        Pair().get_submodule(target)


def test_train_eval_and_requires_grad_reach_everything_below() -> None:
    """They return the module, as in PyTorch."""
    outer = Block()
    outer.inner = Pair()
    assert outer.training
    assert outer.eval() is outer
    assert not outer.training
    assert not outer.inner.left.training
    outer.inner.train()
    assert outer.inner.left.training
    assert not outer.training
    assert outer.requires_grad_(False) is outer
    assert not outer.inner.style.requires_grad
    outer.requires_grad_()
    outer.inner.style.accumulate_feedback("note")
    outer.zero_feedback()
    assert outer.inner.style.feedback == []


def test_self_reference_and_shared_children_do_not_loop() -> None:
    """Every walk, the repr and every copy end, and see each module once."""
    outer = Pair()
    outer.me = outer
    outer.left.parent = outer
    outer.again = outer.right
    assert len(list(outer.modules())) == len(set(map(id, outer.modules()))) == 3
    assert [name for name, _ in outer.named_children()] == ["left", "right", "me"]
    assert outer.eval().apply(lambda module: None) is outer
    assert list(outer.state_dict()) == ["style"]
    for twin in (copy.deepcopy(outer), pickle.loads(pickle.dumps(outer))):
        assert twin.me is twin.left.parent is twin
        assert twin.again is twin.right is not outer.right
        assert list(twin.named_parameters()) == [("style", twin.style)]
    assert repr(outer) == (
        "Pair(\n"
        "  (style): Parameter('Be brief.')\n"
        "  (left): Block(\n"
        "    (parent): Pair(...)\n"
        "  )\n"
        "  (right): Block()\n"
        "  (me): Pair(...)\n"
        "  (again): Block(see 'right')\n"
        ")"
    )


def test_many_shared_children_do_not_multiply() -> None:
    """A ladder of 60 shared pairs has 61 modules, and a repr of some 200 lines."""
    top = Block()
    for _ in range(60):
        above = Block()
        above.a = above.b = top
        top = above
    assert len(list(top.modules())) == 61
    assert repr(top).count("\n") < 250


def test_deep_nesting_does_not_hit_the_recursion_limit() -> None:
    """2,000 levels: every walk, the state, the names and the repr work."""
    top = chain(2000)
    assert sum(1 for _ in top.modules()) == 2001
    (name,) = top.state_dict()
    assert name == "below." * 2000 + "p"
    assert next(top.parameters()).name == name
    assert top.get_submodule(name[:-2]) is not top
    count: list[int] = []
    top.eval().requires_grad_(False).apply(lambda module: count.append(1))
    assert len(count) == 2001
    assert repr(top).count("Block(") == 2001


# -- calling --------------------------------------------------------------------------


def test_an_unbound_composite_is_plain_python() -> None:
    """Calling it runs its forward."""
    assert Block()("text") == "TEXT"


def test_an_unbound_llm_raises_not_bound() -> None:
    """Also below a composite; the message says how to run it."""

    class Asks(InferenceModule):
        def __init__(self) -> None:
            super().__init__()
            self.llm = LLMInference(alias="fast")

        def forward(self, text: str) -> str:
            return self.llm(text)

    for module in (LLMInference(alias="fast"), Asks()):
        with pytest.raises(NotBoundError, match=r"alias='fast'.*engine\.run\(module"):
            module("text")
    with pytest.raises(ModuleError, match=r"not bound .* module\.bind\(engine\)"):
        Asks().run_sync("text")


def test_a_class_without_forward_says_so() -> None:
    """The message names the class."""

    class Empty(InferenceModule):
        pass

    with pytest.raises(ModuleError, match="Empty has no forward: define"):
        Empty()("text")


class Subject(InferenceModule):
    """A subclass that says more of itself."""

    def extra_repr(self) -> str:
        return "topic='x'"


def test_the_repr_is_a_tree() -> None:
    """One line for each module and parameter; subclasses add to theirs."""
    subject = Subject()
    assert repr(subject) == "Subject(topic='x')"
    subject.p = Parameter("text")
    assert repr(subject) == "Subject(topic='x'\n  (p): Parameter('text')\n)"
