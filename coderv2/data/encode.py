"""Documents to training examples: cut to pieces, a hole in half of them, tokens.

A file longer than its window is cut before a top-level statement, so that no example begins in mid-air more
often than it must; so is a piece of more tokens than a row of training holds, which would lose its end there: the
middle, in a piece with a hole. Whether a piece gets a hole, and where, comes from a hash of the document's id.

A holed piece is written prefix, suffix, middle (PSM): BOS begin prefix hole suffix end middle EOS. The holes are
of three kinds: any run of characters; whole lines, with the newlines around the hole left outside it, as
editors ask; and the rest of one line from some point on.
"""

import random
import re
from collections.abc import Iterable, Iterator

from coderv2.data.document import Document, choice_seed
from coderv2.errors import BadData, InvalidValue
from coderv2.text.tokenizer import Tokenizer

FIM_RATE = 0.5
"""The paper's rate (section 3.1)."""
MAX_HOLE_LINES = 12
ROW_TOKENS = 4096
"""Of one forward pass of training, unless a run says otherwise."""
WINDOWS = ((2_800, 0.75), (6_000, 0.20), (12_000, 0.05))
"""Window sizes in characters, and the share of files cut to each; about 2.9 characters are one token."""

_TOP_LEVEL = re.compile(r"(?<=\n)(?=[^\s)\]}#])")


def encode(
    documents: Iterable[Document],
    tokenizer: Tokenizer,
    *,
    fim_rate: float = FIM_RATE,
    row_tokens: int = ROW_TOKENS,
) -> Iterator[list[int]]:
    """The token ids of every piece of every document, BOS and EOS included; at most `row_tokens` each."""
    for document in documents:
        for number, piece in enumerate(pieces(document)):
            yield from _examples(piece, tokenizer, fim_rate, row_tokens, document.id, number)


def _examples(
    piece: str, tokenizer: Tokenizer, fim_rate: float, row_tokens: int, *key: object
) -> Iterator[list[int]]:
    """The piece, or where it is too long its parts; `key` decides its hole."""
    rng = random.Random(choice_seed("hole", *key))
    holed = rng.random() < fim_rate and len(piece) > 1
    ids = encode_holed(piece, rng, tokenizer) if holed else encode_plain(piece, tokenizer)
    if len(ids) <= row_tokens:
        yield ids
    elif len(piece) < 3:
        raise InvalidValue(f"row_tokens={row_tokens} is too few for two characters", param="row_tokens")
    else:
        for number, part in enumerate(cut(piece, len(piece) // 3)):
            yield from _examples(part, tokenizer, fim_rate, row_tokens, *key, number)


def encode_plain(text: str, tokenizer: Tokenizer) -> list[int]:
    return [tokenizer.bos_id, *tokenizer.encode(text), tokenizer.eos_id]


def encode_hole_lesson(text: str, rng: random.Random, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """As `encode_holed`, and which tokens count: the middle's alone, which is what such a lesson is about."""
    ids = encode_holed(text, rng, tokenizer)
    middle = ids.index(tokenizer.fim.end) + 1 if tokenizer.fim else 0
    return ids, [place >= middle for place in range(len(ids))]


def encode_holed(text: str, rng: random.Random, tokenizer: Tokenizer) -> list[int]:
    """`text` of two characters or more, in PSM order with a hole drawn from `rng`."""
    if tokenizer.fim is None:
        raise BadData("the tokenizer has no fill-in-the-middle tokens; encode with fim_rate=0")
    start, end = choose_hole(text, rng)
    begin, hole, close = tokenizer.fim.begin, tokenizer.fim.hole, tokenizer.fim.end
    prefix, middle, suffix = (tokenizer.encode(part) for part in (text[:start], text[start:end], text[end:]))
    return [tokenizer.bos_id, begin, *prefix, hole, *suffix, close, *middle, tokenizer.eos_id]


def choose_hole(text: str, rng: random.Random) -> tuple[int, int]:
    """Start and end of the hole in `text`; never empty for a text of two characters or more."""
    kind = rng.choices((_characters, _whole_lines, _rest_of_line), weights=(3, 5, 2))[0]
    start, end = kind(text, rng)
    return (start, end) if start < end else _characters(text, rng)


def pieces(document: Document) -> Iterator[str]:
    """The document cut to its window; every character is in exactly one piece."""
    draw = random.Random(choice_seed("window", document.id))
    window = draw.choices([size for size, _ in WINDOWS], weights=[share for _, share in WINDOWS])[0]
    return cut(document.text, window)


def cut(text: str, window: int) -> Iterator[str]:
    """Pieces of about `window` characters, twice that at most, from one top-level statement to another."""
    piece = ""
    for block in _TOP_LEVEL.split(text):
        if piece and len(piece) + len(block) > window:
            yield piece
            piece = ""
        piece += block
        while len(piece) > 2 * window:
            cut = piece.rfind("\n", 0, window) + 1 or window
            yield piece[:cut]
            piece = piece[cut:]
    if piece:
        yield piece


def _characters(text: str, rng: random.Random) -> tuple[int, int]:
    start, end = sorted(rng.sample(range(len(text) + 1), 2))
    return start, min(end, start + rng.choice((40, 200, 1000)))


def _whole_lines(text: str, rng: random.Random) -> tuple[int, int]:
    starts = [0, *(match.end() for match in re.finditer("\n", text))]
    first = rng.randrange(len(starts))
    last = min(first + rng.randint(1, rng.choice((1, 4, MAX_HOLE_LINES))), len(starts)) - 1
    end = text.find("\n", starts[last])
    return starts[first], len(text) if end < 0 else end


def _rest_of_line(text: str, rng: random.Random) -> tuple[int, int]:
    start = rng.randrange(len(text))
    end = text.find("\n", start)
    return start, len(text) if end < 0 else end
