"""
Text that somebody else wrote, as a terminal may show it.

A container, a tag, a log or whatever answers in AWS's place can hold characters that move the cursor, change
what stands there already, or have the terminal answer in the user's name. They are shown as Python writes
them.
"""

from __future__ import annotations


def escaped(text: str) -> str:
    """
    ``text`` with everything escaped that is not printed as it stands: ``\\x1b``, ``\\u202e``, and ``\\n``.

    Bytes that were no UTF-8, and came as surrogates, are shown as ``\\xff``.
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(each) for each in text)


def escaped_line(line: str) -> str:
    """The same for a line of a log, in which tabs stay."""
    return "\t".join(escaped(part) for part in line.split("\t"))


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
