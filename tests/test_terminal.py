"""What a terminal would obey is shown; markup is text."""

import io
import json
import logging

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from tda_dagster.terminal import PlainFormatter, Terminal, json_text, one_line, plain, styled

HOSTILE = (
    "a\x1b]0;title\x07b\x1b[31m\x9b31m\x00\b\rc\x7f [bold]d[/bold] [/x] [link=http://e]f[/link] "
    ":smile: \u202egnp.\u2066 \u2028 \udc80"
)
OBEYED = "\x1b\x07\x9b\x00\b\r\x7f\u202e\u2066\u2028\udc80"


def printed(*renderables: object, width: int = 300) -> str:
    out = io.StringIO()
    terminal = Terminal(file=out, width=width, force_terminal=True, color_system=None)
    for each in renderables:
        terminal.print(each)
    return out.getvalue()


def in_table() -> Table:
    table = Table(HOSTILE, title=HOSTILE, caption=HOSTILE)
    table.add_row(HOSTILE)
    table.add_row(Text("x\x1b[31m[/x]"))
    return table


def in_tree() -> Tree:
    tree = Tree(HOSTILE)
    tree.add(styled((HOSTILE, "bold"), HOSTILE))
    return tree


@pytest.mark.parametrize(
    "renderable", [HOSTILE, Text(HOSTILE.replace("\udc80", "")), in_table(), in_tree()]
)
def test_nothing_printed_is_obeyed_or_parsed(renderable: object) -> None:
    text = printed(renderable)
    assert not set(text) & set(OBEYED)
    assert "[bold]d[/bold] [/x] [link=http://e]f[/link]" in text
    assert r"\x1b]0;title" in text


def test_the_description_of_a_bar_is_text_too() -> None:
    out = io.StringIO()
    terminal = Terminal(file=out, width=300, force_terminal=True, color_system=None)
    with Progress(TextColumn("{task.description}", markup=False), console=terminal) as bars:
        bars.add_task(HOSTILE, total=1)
    assert "[/x]" in out.getvalue()
    assert "\x1b]" not in out.getvalue()
    assert "\x1b[31m" not in out.getvalue()


def test_plain_keeps_lines_and_one_line_does_not() -> None:
    assert plain("a\n\tb\r") == "a\n\tb\\r"
    assert one_line("a\n\tb\r") == r"a\n\tb\r"


@pytest.mark.parametrize("text", ["Ach wie nichtig", "日本語", "שלום", "naïve 🎵 [remix] \\ ok"])
def test_other_text_stays_as_it_is(text: str) -> None:
    assert plain(text) == one_line(text) == text
    assert printed(text) == text + "\n"


def test_styles_are_given_beside_the_text() -> None:
    out = io.StringIO()
    terminal = Terminal(file=out, width=80, force_terminal=True, color_system="standard")
    terminal.say(("[/x]", "bold"), " plain")
    assert out.getvalue() == "\x1b[1m[/x]\x1b[0m plain\n"


def test_a_log_line_is_text_without_secrets() -> None:
    record = logging.LogRecord(
        "x", logging.WARNING, "", 0, "%s: %s", (HOSTILE, "https://u:p@h/?sig=1"), None
    )
    text = PlainFormatter().format(record)
    assert not set(text) & set(OBEYED)
    assert text.endswith("https://***@h/?sig=***")


def test_json_is_safe_to_show_and_means_the_same() -> None:
    value = {HOSTILE: [HOSTILE, 1, None], "日": "é"}
    text = json_text(value)
    assert not set(text) & set(OBEYED)
    assert "日" in text
    assert json.loads(text) == value
