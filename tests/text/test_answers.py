"""Final answers and their equality."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coderv2.text.answers import alike, boxed, equal, final_answer, final_number, same_number


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (r"so \boxed{1} and then \boxed{\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\fbox{7}", "7"),
        (r"$\boxed 5$ is it", "5"),
        (r"\boxed{\text{never closed", ""),
        (r"first \boxed{3}, then \boxed{", "3"),
        ("none", ""),
    ],
)
def test_the_last_box_counts(reply: str, answer: str) -> None:
    assert boxed(reply) == answer


@pytest.mark.parametrize(
    ("reply", "answer", "number"),
    [
        ("It is 3. The answer is $1,234.50.", "$1,234.50.", "1234.50"),
        ("16 - 3 = 13\n#### 1,300", "1,300", "1300"),
        ("They pay 3 dollars and then 4 dollars.", "4", "4"),
        (r"Thus \boxed{42 \text{ apples}}", r"42 \text{ apples}", "42"),
        ("所以答案是 -7。", "-7。", "-7"),
        ("no number", "", ""),
    ],
)
def test_final_answers(reply: str, answer: str, number: str) -> None:
    assert final_answer(reply) == answer
    assert final_number(reply) == number


@pytest.mark.parametrize(
    ("reply", "number"),
    [
        (r"\boxed{10{,}000}", "10000"),
        (r"\boxed{20,\!000}", "20000"),
        (r"\boxed{1\,500}", "1500"),
        (r"\boxed{12 \text{ m}^2}", "12"),
        ("The answer is 12 m^2.", "12"),
        (r"\boxed{\frac{3}{2}}", "3/2"),
        ("#### 3/4", "3/4"),
        ("The answer is 5. There were 6.", "5"),
        (r"They pay $10{,}000$ in all.", "10000"),
    ],
)
def test_thousands_powers_of_units_and_fractions_are_read_as_one_number(reply: str, number: str) -> None:
    assert final_number(reply) == number


def test_a_colon_after_the_answer_is_belongs_to_the_words_before() -> None:
    assert equal("(1,2)", final_answer("So the final answer is: (1,2)."))


def test_numbers_are_compared_by_value() -> None:
    assert same_number("12", "$12.00")
    assert same_number("1,000", "1000 apples")
    assert not same_number("12", "13")
    assert not same_number("12", "12 or 13")
    assert not same_number("", "")
    assert same_number("1.5", "3/2")
    assert not same_number("3", "3/2")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac12", r"\dfrac{1}{2}"),
        ("0.5", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        ("90^\\circ", "90"),
        (r"10\%", "10"),
        ("x=3", "3"),
        (r"5 \text{ cm}", "5"),
        (r"\text{Yes}", "Yes"),
        ("0.333", "0.3331"),
        ("1,000", "1000"),
        (r"12 \text{ m}^2", "12"),
        (r"10{,}000", "10000"),
        ("5 Robins.", "5"),
        ("12元", "12"),
        ("**7**.", "7"),
        ("5/10", r"\frac{1}{2}"),
    ],
)
def test_looks_do_not_matter(gold: str, answer: str) -> None:
    assert alike(gold, answer)
    assert alike(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("1", "2"), ("333", "333.2"), ("x^2", "x^3"), ("(1,2)", "(2,1)"), ("1/2", "2/1"), ("3", "")],
)
def test_what_differs_differs(gold: str, answer: str) -> None:
    assert not equal(gold, answer)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("1+i", "1"),
        ("3x", "3"),
        ("n-1", "-1"),
        ("x < 5", "5"),
        ("5i", "5"),
        (r"2\mathrm{i}", "2"),
        ("3 sin x", "3"),
        ("5 million", "5"),
        ("12 or 13", "12"),
    ],
)
def test_a_number_with_more_than_a_unit_beside_it_is_another_answer(gold: str, answer: str) -> None:
    assert not equal(gold, answer)
    assert not equal(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        (r"\{1,2\}", r"\{2,1\}"),
        ("(x+1)^2", "x^2+2x+1"),
        (r"[0,\infty)", r"[0, \infty)"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}"),
    ],
)
def test_formulas_are_compared_by_meaning(gold: str, answer: str) -> None:
    assert equal(gold, answer)


@given(st.text(alphabet="\\boxed{}123 ,.#$%", max_size=40))
def test_any_reply_is_read(reply: str) -> None:
    assert boxed(reply) in reply
    final_number(reply)
    assert alike(reply, reply)
