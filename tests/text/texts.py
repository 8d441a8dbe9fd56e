"""Texts for property tests."""

from hypothesis import strategies as st

from coderv2.text.published import CONTROL_TOKENS

SPACES = (" ", "  ", "\t", "\n", "\r\n", "\f", "\u00a0", "\u2028", "\u3000")
WORDS = (
    "def",
    "Hello",
    "x",
    "42",
    "=",
    ":",
    "…",
    "café",
    "你好",
    "한국",
    "ไทย",
    "🚀",
    "²",
    "_",
    "```",
    "User:",
)


def has_marker(text: str) -> bool:
    return any(marker in text for marker in CONTROL_TOKENS)


# st.text() also tries constants of the code under test, markers among them.
ordinary_text = (st.text() | st.lists(st.sampled_from(SPACES + WORDS)).map("".join)).filter(
    lambda text: not has_marker(text)
)
text_with_surrogates = st.lists(st.sampled_from((*SPACES, *WORDS, "\ud800", "\udfff"))).map("".join)
text_with_markers = st.lists(st.sampled_from(CONTROL_TOKENS + SPACES + WORDS)).map("".join)
