"""`Shards`: which input is with which actor."""

from inf_engine.scale.parcel import Item
from inf_engine.scale.shards import MOST_LOSSES, Shards


def item(index: int, identity: str | None = None) -> Item:
    """An input."""
    return Item(index, identity, b"")


def two() -> Shards:
    """Two actors with room for 16 inputs each."""
    shards = Shards()
    shards.join("a")
    shards.join("b")
    return shards


def test_inputs_go_where_there_is_most_room() -> None:
    """The room is what an actor has told last."""
    shards = two()
    shards.heard("b", 40)
    placed = [name for name, _ in shards.place(item(i) for i in range(30))]
    assert placed[:24] == ["b"] * 24
    assert placed[24:] == ["a", "b"] * 3
    assert shards.room == 56


def test_an_equal_input_goes_where_the_first_is_alive() -> None:
    """There it can follow it; once that has ended, it goes anywhere."""
    shards = two()
    placed = shards.place([item(0, "x"), item(1, "y"), item(2, "x"), item(3, "x")])
    assert [name for name, _ in placed] == ["a", "b", "a", "a"]
    for index in (0, 2, 3):
        assert shards.ended(index)
    assert shards.place([item(4), item(5), item(6, "x")])[2][0] == "b"


def test_the_inputs_of_a_lost_actor_run_again_oldest_first() -> None:
    """On those that are left; a result that still comes is the second, and ignored."""
    shards = two()
    shards.place(item(i) for i in range(6))
    again, failed = shards.lost("a")
    assert [each.index for each in again] == [0, 2, 4]
    assert failed == []
    assert {name for name, _ in shards.place(again)} == {"b"}
    assert shards.ended(0)
    assert not shards.ended(0)


def test_inputs_wait_where_there_is_no_actor() -> None:
    """The next that joins has them."""
    shards = Shards()
    assert shards.place([item(0), item(1)]) == []
    assert [i.index for _, i in shards.join("a")] == [0, 1]
    assert shards.waiting == []


def test_an_input_that_was_with_several_lost_actors_fails() -> None:
    """It may be what kills them."""
    shards = Shards()
    todo = [item(0)]
    for loss in range(MOST_LOSSES):
        shards.join(f"actor-{loss}")
        shards.place(todo)
        todo, failed = shards.lost(f"actor-{loss}")
    assert todo == []
    assert [each.index for each in failed] == [0]
