"""A GGUF file taken apart into its entries, to be damaged and put together again: no check of any kind is made here."""

import random
import struct
from dataclasses import dataclass, field

_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
ODD_NUMBERS = [
    0, 1, 2, 3, 7, 31, 32, 33, 127, 128, 255, 256, 1 << 15, (1 << 16) - 1, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31,
    (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 60, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, (1 << 64) - 32,
]  # fmt: skip
ODD_FLOATS = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e30, 3.4e38, float("inf"), float("-inf"), float("nan"), 0.5, 40.0]
ODD_TEXTS = [b"", b"\xff\xfe", b"\xed\xa0\x80", b"\n\x1b[31m", b"a" * 70000, "é".encode(), b"\x00", b"%s{}"]


@dataclass
class Pieces:
    """Whole entries as bytes; `tensors` and `keys` None are counted, a number is written as it is."""

    magic: bytes = b"GGUF"
    version: int = 3
    tensors: int | None = None
    keys: int | None = None
    metadata: list[bytes] = field(default_factory=list)
    infos: list[bytes] = field(default_factory=list)
    rest: bytes = b""

    @classmethod
    def of(cls, raw: bytes) -> "Pieces":
        """Raises struct.error, IndexError or ValueError where the file cannot be followed."""
        version, tensors, keys = struct.unpack_from("<IQQ", raw, 4)
        if max(tensors, keys) > 10_000:
            raise ValueError("too many")
        at, metadata, infos = 24, [], []
        for _ in range(keys):
            end = _end_of_entry(raw, at)
            metadata.append(raw[at:end])
            at = end
        for _ in range(tensors):
            end = _end_of_info(raw, at)
            infos.append(raw[at:end])
            at = end
        return cls(raw[:4], version, None, None, metadata, infos, raw[-(-at // 32) * 32 :])

    def joined(self) -> bytes:
        """The file."""
        counts = (
            len(self.infos) if self.tensors is None else self.tensors,
            len(self.metadata) if self.keys is None else self.keys,
        )
        head = self.magic + struct.pack("<IQQ", self.version, *counts)
        head += b"".join(self.metadata) + b"".join(self.infos)
        return head + bytes(-len(head) % 32) + self.rest

    def with_entry(self, key: str, kind: int, value: bytes) -> "Pieces":
        """With one metadata entry set, in place of one of that key."""
        start = text(key.encode())
        kept = [entry for entry in self.metadata if not entry.startswith(start)]
        self.metadata = [*kept, start + struct.pack("<I", kind) + value]
        return self


def text(content: bytes) -> bytes:
    """A string of the format."""
    return struct.pack("<Q", len(content)) + content


def info(name: bytes, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    """A tensor's entry; `shape` innermost first, as in the file."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def _end_of_text(raw: bytes, at: int) -> int:
    return at + 8 + int(struct.unpack_from("<Q", raw, at)[0])


def _end_of_entry(raw: bytes, at: int) -> int:
    at = _end_of_text(raw, at)
    return _end_of_value(raw, at + 4, struct.unpack_from("<I", raw, at)[0])


def _end_of_value(raw: bytes, at: int, kind: int) -> int:
    if kind in _WIDTHS:
        return at + _WIDTHS[kind]
    if kind == _STRING:
        return _end_of_text(raw, at)
    if kind != _ARRAY:
        raise ValueError(kind)
    inner, count = struct.unpack_from("<IQ", raw, at)
    at += 12
    if inner in _WIDTHS:
        return at + int(count) * _WIDTHS[inner]
    for _ in range(min(count, 100_000)):
        at = _end_of_value(raw, at, inner)
    return at


def _end_of_info(raw: bytes, at: int) -> int:
    at = _end_of_text(raw, at)
    return at + 4 + 8 * int(struct.unpack_from("<I", raw, at)[0]) + 12


def damaged(raw: bytes, seed: int) -> bytes:
    """One to three random changes, most of them of single fields."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        try:
            pieces = Pieces.of(raw)
        except (struct.error, ValueError, OverflowError, IndexError):
            raw = _flip(raw, chance)
            continue
        raw = chance.choice(_DAMAGES)(pieces, chance)
    return raw


def _flip(raw: bytes, chance: random.Random) -> bytes:
    changed = bytearray(raw)
    for _ in range(chance.randint(1, 4)):
        if changed:
            changed[chance.randrange(min(len(changed), 20_000))] = chance.randrange(256)
    return bytes(changed)


def _cut(pieces: Pieces, chance: random.Random) -> bytes:
    raw = pieces.joined()
    return raw[: chance.randrange(len(raw) + 1)]


def _count(pieces: Pieces, chance: random.Random) -> bytes:
    if chance.random() < 0.5:
        pieces.tensors = chance.choice(ODD_NUMBERS)
    else:
        pieces.keys = chance.choice(ODD_NUMBERS)
    return pieces.joined()


def _odd_value(kind: int, chance: random.Random) -> bytes:
    if kind == 6:
        return struct.pack("<f", chance.choice(ODD_FLOATS))
    if kind == 12:
        return struct.pack("<d", chance.choice(ODD_FLOATS))
    if kind in _WIDTHS:
        return struct.pack("<Q", chance.choice(ODD_NUMBERS))[: _WIDTHS[kind]]
    if kind == _STRING:
        return text(chance.choice(ODD_TEXTS))
    inner = chance.choice((0, 4, 6, 8, 9, 77))
    values = [_odd_value(inner, chance) for _ in range(chance.randrange(4))] if inner in (0, 4, 6, 8) else []
    if inner == _ARRAY:
        values = [struct.pack("<IQ", 9, 1)] * chance.randrange(1, 9) + [struct.pack("<IQ", 0, 0)]
        return struct.pack("<IQ", 9, 1) + b"".join(values)
    return struct.pack("<IQ", inner, chance.choice([len(values), *ODD_NUMBERS])) + b"".join(values)


def _value(pieces: Pieces, chance: random.Random) -> bytes:
    """Another value for a key, mostly of the same kind."""
    if pieces.metadata:
        i = chance.randrange(len(pieces.metadata))
        entry = pieces.metadata[i]
        at = _end_of_text(entry, 0)
        kind = struct.unpack_from("<I", entry, at)[0]
        if chance.random() < 0.2:
            kind = chance.choice([*_WIDTHS, _STRING, _ARRAY, 13, 255])
        value = _odd_value(kind, chance) if kind in (*_WIDTHS, _STRING, _ARRAY) else b"\x01" * 8
        pieces.metadata[i] = entry[:at] + struct.pack("<I", kind) + value
    return pieces.joined()


def _within_array(pieces: Pieces, chance: random.Random) -> bytes:
    """A byte somewhere in a large value: tokens, merges, types, templates."""
    large = [i for i, entry in enumerate(pieces.metadata) if len(entry) > 200]
    if large:
        i = chance.choice(large)
        entry = bytearray(pieces.metadata[i])
        entry[chance.randrange(40, len(entry))] = chance.choice((0, 1, 32, 255, chance.randrange(256)))
        pieces.metadata[i] = bytes(entry)
    return pieces.joined()


def _info(pieces: Pieces, chance: random.Random) -> bytes:
    """Another shape, type or offset, or another tensor's."""
    if not pieces.infos:
        return pieces.joined()
    i = chance.randrange(len(pieces.infos))
    entry = bytearray(pieces.infos[i])
    at = _end_of_text(entry, 0)
    fields = [(at, 4), (len(entry) - 12, 4), (len(entry) - 8, 8)]
    fields += [(at + 4 + 8 * j, 8) for j in range((len(entry) - at - 16) // 8)]
    where, width = chance.choice(fields)
    number = chance.choice(ODD_NUMBERS) if chance.random() < 0.6 else chance.randrange(64)
    if chance.random() < 0.3:
        other = pieces.infos[chance.randrange(len(pieces.infos))]
        number = struct.unpack_from("<Q", other, len(other) - 8)[0]
    entry[where : where + width] = struct.pack("<Q", number)[:width]
    pieces.infos[i] = bytes(entry)
    return pieces.joined()


def _rename(pieces: Pieces, chance: random.Random) -> bytes:
    entries = chance.choice((pieces.metadata, pieces.infos))
    if entries:
        i = chance.randrange(len(entries))
        name = chance.choice(ODD_TEXTS)
        if chance.random() < 0.4:
            other = chance.choice(entries)
            name = other[8 : _end_of_text(other, 0)]
        entries[i] = text(name) + entries[i][_end_of_text(entries[i], 0) :]
    return pieces.joined()


def _drop_or_double(pieces: Pieces, chance: random.Random) -> bytes:
    entries = chance.choice((pieces.metadata, pieces.infos))
    if entries:
        i = chance.randrange(len(entries))
        if chance.random() < 0.6:
            del entries[i]
        else:
            entries.insert(chance.randrange(len(entries) + 1), entries[i])
    return pieces.joined()


def _data(pieces: Pieces, chance: random.Random) -> bytes:
    rest = bytearray(pieces.rest)
    for _ in range(chance.randint(1, 8)):
        if rest:
            rest[chance.randrange(len(rest))] = chance.choice((0x7C, 0x7E, 0xFF, 0x80, chance.randrange(256)))
    pieces.rest = bytes(rest)
    return pieces.joined()


def _flipped(pieces: Pieces, chance: random.Random) -> bytes:
    return _flip(pieces.joined(), chance)


_DAMAGES = [
    _value,
    _value,
    _value,
    _within_array,
    _info,
    _info,
    _cut,
    _count,
    _rename,
    _drop_or_double,
    _data,
    _flipped,
]
