"""Text of others on the user's terminal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagemaker_ssh_helper.client.terminal_text import escaped, escaped_line


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("trained, 100 % größer", "trained, 100 % größer"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("a\rb\nc", r"a\rb\nc"),
        ("\x9b31m", r"\x9b31m"),
        ("\x7f\x00", r"\x7f\x00"),
        ("\u202efdp.exe", r"\u202efdp.exe"),
        ("\U000e0001", r"\U000e0001"),
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
        ("back\\slash", r"back\slash"),
    ],
)
def test_what_is_not_printed_as_it_stands_is_escaped(text: str, shown: str) -> None:
    assert escaped(text) == shown


def test_tabs_of_a_log_stay() -> None:
    assert escaped_line("step\t7\x1b]0;title\x07") == r"step\t7".replace(r"\t", "\t") + r"\x1b]0;title\x07"


@given(st.text(st.characters(), max_size=50))
def test_whatever_it_is_it_moves_no_cursor(text: str) -> None:
    assert escaped(text).isprintable()
