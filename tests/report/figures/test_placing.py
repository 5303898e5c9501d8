"""Labels that lie on nothing."""

from hypothesis import given
from hypothesis import strategies as st

from autoprec.report.figures.placing import Box, place

ROOM = Box(0, 0, 400, 300)
SIZE = (50.0, 10.0)


def meets(one: Box, other: Box) -> bool:
    return (
        one.left < other.right
        and other.left < one.right
        and one.bottom < other.top
        and other.bottom < one.top
    )


points = st.lists(st.tuples(st.floats(60, 340), st.floats(30, 270)), min_size=1, max_size=9)


@given(points)
def test_labels_cover_neither_each_other_nor_a_point_and_stay_inside(
    points: list[tuple[float, float]],
) -> None:
    placed = place(points, [SIZE] * len(points), ROOM)
    for i, box in enumerate(placed):
        assert (box.right - box.left, box.top - box.bottom) == SIZE or box.right > box.left
        assert box.left >= ROOM.left
        assert box.right <= ROOM.right
        assert box.bottom >= ROOM.bottom
        assert box.top <= ROOM.top
        assert not any(meets(box, other) for other in placed[:i])
        assert not any(box.left < x < box.right and box.bottom < y < box.top for x, y in points)


def test_a_label_stands_beside_its_point_where_nothing_is_in_the_way() -> None:
    assert place([(100, 100)], [SIZE], ROOM) == [Box(107, 95, 157, 105)]


def test_what_is_taken_is_avoided() -> None:
    taken = Box(104, 90, 160, 110)
    assert not meets(place([(100, 100)], [SIZE], ROOM, [taken])[0], taken)


def test_a_line_is_crossed_only_for_want_of_a_near_place() -> None:
    line = [Box(100 + 6 * i, 99, 106 + 6 * i, 101) for i in range(40)]
    assert not any(meets(place([(100, 100)], [SIZE], ROOM, (), line)[0], part) for part in line)
