"""Values at and beyond the bounds of what fields take, and ids of things that exist."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

INTEGERS = (
    *(0, 1, -1, 2, 7, 100, 101, 200, 201, 1000, 10_001, 65_536),
    *(2**31 - 1, 2**31, -(2**31), -(2**31) - 1, 2**32, 2**53, 2**53 + 1),
    *(2**63 - 1, 2**63, -(2**63), 2**64 - 1, 2**64, 10**30),
)
# Of times and durations: the first and the last that can be, and what is beyond.
SECONDS = (
    *(0, 1, -1, 60, 3600, 86_400, 1_800_000_000, 9_300_000_000),
    *(253_402_300_799, 253_402_300_800, -62_135_596_800, -62_135_596_801),
    *(315_576_000_000, 315_576_000_001, -315_576_000_000, 2**63 - 1, -(2**63)),
)
NANOS = (0, 0, 0, 1, 999_999_999, 1_000_000_000, -1, 2**31 - 1)
FLOATS = (0.0, -0.0, 1e-320, 1.5, -1.0, 2.0, 1e308, float("inf"), float("-inf"), float("nan"))
TEXTS = (
    "",
    " ",
    "a",
    "\x00",
    "a\x00b",
    "\n\r\t",
    "../../etc/passwd",
    "%00%2e%2e%2f",
    "-1",
    "1e400",
    "null",
    "true",
    "2026-01-01T00:00:00Z",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "10000-01-01T00:00:00Z",
    "1s",
    "-1s",
    "315576000001s",
    "' OR 1=1 --",
    '{"a": 1}',
    "conv_",
    "conv_00000000000000000000000000",
    "${jndi:ldap://x}",
    "\u202e\u200b\ufeff",
    "\U0001f4a3" * 40,
    "e\u0301" * 10,
    "*",
    "a.b.c",
    "conversation.task,labels",
    "AAAA",
    "====",
    "sha256:" + "0" * 64,
    "text/plain; charset=utf-8\r\nx-evil: 1",
)
# Bytes that no UTF-8 decoder takes: a lone continuation, an overlong slash, a surrogate, a cut end.
BROKEN_TEXTS = (b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"abc\xe2\x82", b"\xff\xfe", b"\xf8\x88\x80")
# A policy that is accepted limits all that come after: only values that limit nobody.
POLICY = "TenantPolicy"
HARMLESS = (-1, -(2**31), 2**31 - 1)
CALM_TEXTS = ("a", "hello", "x1", "b.txt", "some words", "")
LENGTHS = (64, 65, 128, 129, 256, 257, 1024, 4097, 70_000)


@dataclass
class Known:
    """Values with which a request gets further than its first check, by the field's name."""

    values: dict[str, list[str]] = field(default_factory=dict)

    calm: bool = False
    """Whether requests are to keep to what fields take, mostly, so that they get far."""

    def calmed(self) -> Known:
        """The same for a request that is to get far."""
        return Known(self.values, calm=True)

    def without(self, name: str) -> Known:
        """The same, but for fields of that name."""
        return Known({key: some for key, some in self.values.items() if key != name}, self.calm)

    def pick(self, random: Random, name: str) -> str | None:
        """One for a field of this name, if any is known."""
        some = self.values.get(name)
        return random.choice(some) if some else None


def text(random: Random, name: str, known: Known) -> str:
    """Text for a field: known, hostile, long or random."""
    if known.calm and random.random() < 0.95:
        return known.pick(random, name) or random.choice(CALM_TEXTS)
    dice = random.random()
    if dice < 0.45 and (value := known.pick(random, name)) is not None:
        return value
    if dice < 0.8:
        return random.choice(TEXTS)
    if dice < 0.84:
        return random.choice("aé\U0001f4a3\x00 ") * random.choice(LENGTHS)
    return "".join(map(chr, random.choices(range(1, 0x2FF), k=random.randrange(12))))


def integer(random: Random) -> int:
    """An integer that may fit no field."""
    return random.choice(INTEGERS) if random.random() < 0.8 else random.getrandbits(70) - 2**69


def known_for(random: Random, method: str, known: Known) -> Known:
    """What a request for a method may use. What removes things would soon leave none to ask for."""
    if random.random() < 0.35:
        known = known.calmed()
    if method.startswith(("Delete", "Cancel", "Revoke")) and random.random() < 0.85:
        known = known.without("conversation_id").without("agent_id").without("key_id")
    return known
