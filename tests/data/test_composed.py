from coderv2.data.composed import composed
from coderv2.data.exercises import checked


def test_composed_exercises_state_what_their_code_gives() -> None:
    made = list(composed())
    assert len(made) > 150
    assert all(checked(exercise) for exercise in made)
    sums = next(
        exercise for exercise in made if exercise.says == "adds up the squares of the even numbers of a list"
    )
    assert sums.checks == ("sum_squares_even([4, -3, 11, 6, 15, -8]) == 116",)
