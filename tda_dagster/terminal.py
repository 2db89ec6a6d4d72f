"""Text on a terminal: whatever a title, a prompt or a path contains, it is shown and nothing else.

What belongs here: the console that all commands print to, and the escaping of characters that a
terminal would obey. Nothing here reads a terminal.

A string is never parsed as rich's markup: `[bold]` in a title is five letters and two brackets.
Where a part of a line is to have a style, `styled` takes it as a pair.
"""

import json
import logging
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from tda_dagster.masking import masked

_OBEYED = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, and C1
    "\u2028\u2029"  # line breaks that editors and logs obey
    "\u202a-\u202e\u2066-\u2069"  # reorder the text around them
    "\ud800-\udfff"  # undecodable bytes of a file's name: they cannot be printed
    "]"
)
_OBEYED_OR_BREAKING = re.compile(_OBEYED.pattern + "|[\t\n]")

Styled = str | tuple[object, str]
"""A part of a line: text as it is, or a pair of text and rich style."""


def plain(text: object) -> str:
    r"""`text` with each character that a terminal would obey as a visible escape (`\x1b`).

    Tabs and line feeds stay: messages have several lines. See `one_line` for names and titles.
    """
    return _OBEYED.sub(_visible, str(text))


def one_line(text: object) -> str:
    r"""`text` as `plain` gives it, with tabs and line feeds as `\t` and `\n`, too."""
    return _OBEYED_OR_BREAKING.sub(_visible, str(text))


def styled(*parts: Styled) -> Text:
    """The parts as one text: strings as they are, pairs in the style they name."""
    text = Text()
    for part in parts:
        if isinstance(part, tuple):
            text.append(plain(part[0]), style=part[1])
        else:
            text.append(plain(part))
    return text


def json_text(value: Any) -> str:
    """`value` as indented JSON that is safe to show: what a terminal would obey is `\\uXXXX`."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class PlainFormatter(logging.Formatter):
    """Log records as text that a terminal shows and nothing else, without secrets of URLs."""

    def format(self, record: logging.LogRecord) -> str:
        """The record in one string; see `logging.Formatter`."""
        return masked(plain(super().format(record)))


class Terminal(Console):
    """A console that parses no markup, highlights nothing and passes no control characters on.

    Args:
        stderr: Whether to print to the standard error stream.
        soft_wrap: Whether lines are left to the terminal to break: people copy paths and commands.
    """

    def __init__(
        self, *, stderr: bool = False, soft_wrap: bool = False, quiet: bool = False, **rest: Any
    ) -> None:
        super().__init__(
            stderr=stderr,
            soft_wrap=soft_wrap,
            quiet=quiet,
            markup=False,
            emoji=False,
            highlight=False,
            **rest,
        )

    def render_str(self, text: str, **options: Any) -> Text:
        """The string as text, escaped before its width is measured, and without its markup."""
        return super().render_str(plain(text), **(options | {"markup": False, "emoji": False}))

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The segments of a renderable; no text of any of them holds a control character."""
        for segment in super().render(renderable, options):
            if segment.control is None and _OBEYED.search(segment.text):
                yield Segment(plain(segment.text), segment.style)
            else:
                yield segment

    def say(self, *parts: Styled, soft_wrap: bool = True) -> None:
        """Print a line, unbroken unless `soft_wrap` is False; see `styled` for its parts."""
        self.print(styled(*parts), soft_wrap=soft_wrap)


def _visible(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode("ascii")
