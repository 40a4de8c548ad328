"""A small mutator, for where no package may be needed. The same random numbers make the same inputs."""

import random
from typing import List, Sequence

_WORDS = (
    b"\0", b"\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff", b'"', b"\\", b"\\ud800",
    b"{", b"}", b"[", b"]", b"null", b"true", b"-1", b"1e999", b"9999999999999999999999", b":", b",",
    b"\r\n", b"\r\n\r\n",
    b"{{ a }}", b"\xc2\xb2", b" ",
)  # fmt: skip


def mutate(data: bytes, others: Sequence[bytes], chance: random.Random) -> bytes:
    """The input after one to four small changes; ``others`` are inputs to take pieces from."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(changed) + 1)
        what = chance.randrange(7)
        if what == 0 and changed:
            changed[at % len(changed)] ^= 1 << chance.randrange(8)
        elif what == 1 and changed:
            changed[at % len(changed)] = chance.randrange(256)
        elif what == 2:
            del changed[at : at + chance.randint(1, 8)]
        elif what == 3:
            changed[at:at] = chance.choice(_WORDS)
        elif what == 4:
            piece = changed[at : at + chance.randint(1, 64)]
            changed[at:at] = piece * chance.choice((1, 1, 3, 500))
        elif what == 5:
            other = chance.choice(others)
            begin = chance.randrange(len(other) + 1)
            changed[at:] = other[begin:]
        else:
            del changed[at:]
    return bytes(changed[:65536])


def inputs(seeds: Sequence[bytes], count: int, number: int = 0) -> List[bytes]:
    """So many inputs made from seeds, always the same."""
    chance = random.Random(number)
    return [mutate(chance.choice(seeds), seeds, chance) for _ in range(count)]
