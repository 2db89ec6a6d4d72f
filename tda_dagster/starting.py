"""The first line of a command that takes seconds to start: heavy imports come after it."""

from tda_dagster.terminal import Terminal


def announce(what: str) -> None:
    """Print at once what is going on, where it is not mistaken for the command's answer."""
    Terminal(stderr=True).say((what, "dim"))
