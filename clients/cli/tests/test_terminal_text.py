"""Text of agents and tools cannot command the terminal."""

import pytest
from agentmesh_cli.rendering.terminal_text import ControlStripper, one_line, strip_controls
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;new title\x07text", "text"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==\x1b\\clipboard", "clipboard"),
        ("a\x9b2Jb", "ab"),
        ("\x1bP1$r q\x1b\\dcs", "dcs"),
        ("\x1b(Bcharset", "charset"),
        ("back\x08\x08space\x7f", "backspace"),
        ("over\rwritten", "over\nwritten"),
        ("dos\r\nline", "dos\nline"),
        ("tab\tstays\nline", "tab\tstays\nline"),
        ("safe \u202egnp.exe", "safe gnp.exe"),
        ("\x1b]0;never ended\nnext line", "\nnext line"),
        ("[bold]no markup[/bold]", "[bold]no markup[/bold]"),
        ("naïve 日本 🎉", "naïve 日本 🎉"),
    ],
)
def test_sequences_go_and_text_stays(text: str, shown: str) -> None:
    assert strip_controls(text) == shown


@given(st.text(st.sampled_from("a\x1b[]0;m\x07\\\n\r\x9bP\x9c9"), max_size=40), st.data())
def test_pieces_give_the_same_as_the_whole(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    stripper = ControlStripper()
    assert "".join(map(stripper.feed, pieces)) == strip_controls(text)


@given(st.text(max_size=60))
def test_nothing_that_commands_a_terminal_is_left(text: str) -> None:
    left = strip_controls(text)
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in left)


def test_one_line_is_one_line() -> None:
    assert one_line("a\n\x1b[2Jb\t c", 80) == "a b c"
    assert one_line("x" * 50, 10) == "x" * 9 + "…"
