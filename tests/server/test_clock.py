"""When the first token came, and the pauses after it."""

import time

from coderv2.server.clock import Clock


def test_only_steps_with_tokens_count() -> None:
    clock = Clock()
    for tokens in (0, 2, 0, 1, 3):
        clock.tick(tokens)
    assert (clock.tokens, len(clock.gaps)) == (6, 2)
    assert clock.first is not None
    assert clock.last is not None
    assert clock.began <= clock.first <= clock.last
    assert sum(clock.gaps) == clock.answer_seconds


def test_before_the_first_token_the_prompt_is_still_being_read() -> None:
    clock = Clock()
    before = clock.prompt_seconds
    time.sleep(0.01)
    assert clock.prompt_seconds > before
    assert clock.answer_seconds == 0.0
    clock.tick(1)
    read = clock.prompt_seconds
    time.sleep(0.01)
    assert clock.prompt_seconds == read
