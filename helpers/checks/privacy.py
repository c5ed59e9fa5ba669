"""Secrets and personal data: found, and never shown whole."""

from __future__ import annotations

import re
from collections.abc import Iterator

SECRET = re.compile(
    r"\b(?:sk-[A-Za-z0-9_-]{20,}|hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|AKIA[0-9A-Z]{16}|AIza[0-9A-Za-z_-]{35}|xox[abprs]-[0-9A-Za-z-]{10,})"
    r"|-----BEGIN (?:[A-Z]+ )?PRIVATE KEY-----[^-]*"
)
"""Keys that say by their form what they are."""

_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[A-Za-z]{2,24}\b")
_EXAMPLE = re.compile(r"@(?:\w+\.)*(?:example|test|invalid)(?:\.\w+)?$", re.IGNORECASE)
_CARD = re.compile(
    r"(?<![\w.-])(?:[3-6]\d{3}([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d\d([ -]?)\d{6}\2\d{5})"
    r"(?![\w-]|\.\d)"
)


def card_numbers(text: str) -> Iterator[re.Match[str]]:
    """Find 15 or 16 digits of an issuer's form with a right check digit."""
    for found in _CARD.finditer(text):
        if luhn(re.sub(r"\D", "", found[0])):
            yield found


def addresses(text: str) -> Iterator[re.Match[str]]:
    """Find e-mail addresses, but those of the domains kept for examples."""
    for found in _EMAIL.finditer(text):
        if not _EXAMPLE.search(found[0]):
            yield found


def masked(secret: str) -> str:
    """The beginning of a secret and its length.

    >>> masked("4111111111111111")
    '411… (16 characters)'
    """
    return f"{secret[:3]}… ({len(secret)} characters)"


def hide(text: str) -> str:
    """A text of the same length in which secrets and personal data are dots.

    >>> hide("Write to mira@cloud.io!")
    'Write to mir••••••••••!'
    """
    found = [*SECRET.finditer(text), *card_numbers(text), *addresses(text)]
    for one in found:
        start, end = one.span()
        text = text[: start + 3] + "•" * (end - start - 3) + text[end:]
    return text


def luhn(digits: str) -> bool:
    """Whether the last digit is the right check digit of the others.

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)

    Source: ISO/IEC 7812-1, annex B.
    """
    doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(digits[::-1])]
    repeated = len(set(digits)) == 1  # zeros and the like are no card
    return not repeated and sum(n - 9 * (n > 9) for n in doubled) % 10 == 0
