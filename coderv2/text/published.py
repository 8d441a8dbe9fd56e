"""What the published tokenizer is made of beside its vocabulary: where text is cut, and the control tokens."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from coderv2.errors import Unsupported
from coderv2.text.tokenizer import BOS, EOS, FIM_BEGIN, FIM_END, FIM_HOLE, linear_time

# Hex ranges of the letters that stay together: a frozen subset of Unicode's cased letters, so \p{L} would
# cut other pieces.
_CASED_LETTERS = """
0041-005A 0061-007A 00B5 00C0-00D6 00D8-00F6 00F8-01BA 01BC-01BF 01C4-0293 0295-02AF 0370-0373 0376 0377
037B-037D 037F 0386 0388-038A 038C 038E-03A1 03A3-03F5 03F7-0481 048A-052F 0531-0556 10A0-10C5 13A0-13F5
13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A 1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D
1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE 1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB
1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D 2124 2126 2128 212A-212D 212F-2134 2139
213C-213F 2145-2149 214E 2183 2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE 2CF2 2CF3 A640-A66D A680-A69B A722-A76F
A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB
10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943
"""
# 003A-007E takes the ASCII letters along, as published: so a word is also cut at its accented letters.
_PUNCTUATION = "0021-002F 003A-007E FF01-FF0F FF1A-FF5E 2018-201F 3000-3002"
_EAST_ASIAN = "4E00-9FA5 0800-4E00 AC00-D7FF"

CONTROL_TOKENS = (
    BOS,
    EOS,
    FIM_HOLE,
    FIM_BEGIN,
    FIM_END,
    "<｜completion｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
    "<|EOT|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>",
    "<｜tool▁output▁begin｜>",
    "<｜tool▁output▁end｜>",
    "<｜tool▁sep｜>",
)
"""The added tokens in the published order; they follow the BPE vocabulary."""


def from_vocabulary(
    tokens: Mapping[str, int], merges: Sequence[tuple[str, str]], added: Sequence[AddedToken]
) -> Tokenizer:
    """The published tokenizer over any vocabulary; `added` are those tokens of it that are matched whole in a text."""
    tokenizer = Tokenizer(models.BPE(dict(tokens), list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizer()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(list(added))
    tokenizer.post_processor = bos_in_front(tokenizer)
    return tokenizer


@dataclass(frozen=True)
class Vocabulary:
    """What `from_vocabulary` takes, out of a tokenizer of that kind."""

    tokens: Mapping[int, str]
    merges: Sequence[tuple[str, str]]
    added: frozenset[int]
    """Ids that are matched whole in a text."""

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Vocabulary":
        """Raises Unsupported where text is cut otherwise than by the published tokenizer."""
        state = json.loads(tokenizer.to_str())
        cuts = json.loads(linear_time(pre_tokenizer()).__getstate__())
        if (
            state["pre_tokenizer"] != cuts
            or state["normalizer"] is not None
            or state["model"]["type"] != "BPE"
        ):
            raise Unsupported(
                "the tokenizer cuts text otherwise than DeepSeek-V2's, which a GGUF file cannot say"
            )
        tokens = {token_id: token for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items()}
        merges = [(a, b) for a, b in state["model"]["merges"]]
        return cls(tokens, merges, frozenset(tokenizer.get_added_tokens_decoder()))


def pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    """The published cuts, in order; tokens never cross them. No token holds two digits or two newlines."""
    patterns = (
        r"[\r\n]",
        rf"\s?[{_character_class(_CASED_LETTERS)}]+",
        rf"\s?[{_character_class(_PUNCTUATION)}]+",
        r"\s+$",
        rf"[{_character_class(_EAST_ASIAN)}]+",
    )
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def control_token(text: str) -> AddedToken:
    """A control token with the published flags: only BOS and EOS are special, so only they vanish on decoding."""
    return AddedToken(text, normalized=True, special=text in (BOS, EOS))


def bos_in_front(tokenizer: Tokenizer) -> processors.TemplateProcessing:
    """For other programs, which call the tokenizer on bare text; ours puts BOS in front itself."""
    return processors.TemplateProcessing(
        single=f"{BOS} $A",
        pair=f"{BOS} $A {BOS}:1 $B:1",
        special_tokens=[(BOS, tokenizer.token_to_id(BOS))],
    )


def _character_class(hex_ranges: str) -> str:
    """'0041-005A 00B5' to 'A-Zµ', the inside of a regular expression's [...]; no bound needs escaping."""
    return "".join(
        "-".join(chr(int(bound, 16)) for bound in hex_range.split("-")) for hex_range in hex_ranges.split()
    )
