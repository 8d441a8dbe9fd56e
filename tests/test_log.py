"""Log lines of a program whose standard error changes meanwhile."""

import contextlib
import io
import logging

from coderv2.log import logger, to_stderr


def test_a_line_goes_where_standard_error_is_now_and_not_to_a_closed_one() -> None:
    first, second = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(first):
        to_stderr(logging.WARNING)
        logger.warning("one")
    before = first.getvalue()
    first.close()
    with contextlib.redirect_stderr(second):
        to_stderr(logging.WARNING)
        logger.warning("two")
    assert before.endswith("WARNING one\n")
    assert second.getvalue().endswith("WARNING two\n")
    assert second.getvalue().count("\n") == 1
