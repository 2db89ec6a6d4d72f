"""The first line of a command that takes seconds to start: heavy imports come after it."""

from rich.console import Console
from rich.markup import escape


def announce(what: str) -> None:
    """Print at once what is going on, where it is not mistaken for the command's answer."""
    Console(stderr=True, soft_wrap=True).print(f"[dim]{escape(what)}[/dim]", highlight=False)
