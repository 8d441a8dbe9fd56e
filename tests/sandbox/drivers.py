"""Drivers for tests, where they run."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from coderv2.errors import CoderV2Error
from coderv2.sandbox.run import Sandbox, working

Driver = TypeVar("Driver", bound=Sandbox)


def opened(make: Callable[[], Driver]) -> Iterator[Driver]:
    """A driver, closed afterwards; the test is skipped, with the reason, where it does not run."""
    driver = make()
    try:
        working(driver)
    except (OSError, CoderV2Error) as error:
        pytest.skip(f"{driver.name} does not run here: {error}")
    yield driver
    driver.close()
