"""`tda model`: what a pipeline is, and whether it is complete.

What belongs here: options and printing. Heavy imports wait until a command needs them.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tda_dagster.starting import announce
from tda_dagster.terminal import Terminal, json_text

if TYPE_CHECKING:
    from tda_dagster.diffusion.opening.inspection import Inspection

model_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="The model whose music is attributed."
)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(model_app, name="model")


@model_app.callback()
def _group() -> None:
    """A group, although it has one command so far."""


@model_app.command()
def check(
    path: Annotated[
        str, typer.Argument(help="A pipeline directory, a URL, or a model on the hub (owner/name).")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Prove that a pipeline is complete and can be attributed, and say what it is made of."""
    announce(f"checking {path} …")
    from tda_dagster.diffusion.opening.inspection import inspect_pipeline

    found = inspect_pipeline(path)
    if as_json:
        print(json_text(asdict(found)))
        return
    console = Terminal(soft_wrap=True)
    for lines in (_components(found), _facts(found), _groups(found)):
        for line in _aligned(lines):
            console.print(line)
        console.print()
    for note in _notes(found):
        console.say(("note  ", "yellow"), note)
    console.say(
        ("ok  ", "green"),
        "all tensors are there, finite and of the expected shapes; the tokenizer is the text "
        "encoder's, the scheduler that of the objective; the parts work together",
    )


def _components(found: "Inspection") -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [("component", "class", "parameters", "stored as", "files")]
    for part in found.components:
        files = part.files[0] if len(part.files) == 1 else f"{len(part.files)} files"
        lines.append(
            (
                part.name,
                part.kind,
                f"{part.parameters:,}" if part.parameters else "",
                ", ".join(part.stored_as),
                f"{files}, {_size(part.size_bytes)}",
            )
        )
    return lines


def _facts(found: "Inspection") -> list[tuple[str, ...]]:
    channels, frames = found.latent_shape
    low, high = found.sigma_range
    heard = {1: "mono", 2: "stereo"}.get(found.audio_channels, f"{found.audio_channels} channels")
    # While a group is unlearned, its Fisher information, gradient and change are in memory, too.
    widest = max(found.group_bytes(name) for name in found.groups)
    peak = found.weights_bytes + 3 * widest
    return [
        ("objective", f"{found.objective}; σ from {low:g} to {high:g}"),
        (
            "window",
            f"{found.window_seconds:.3f} s {heard} at {found.sampling_rate:,} Hz: {frames} frames "
            f"of {found.hop_length:,} samples, {channels} numbers each",
        ),
        (
            "captions",
            f"up to {found.caption_tokens} pieces of a vocabulary of {found.vocabulary:,}",
        ),
        (
            "memory",
            f"{_size(found.weights_bytes)} for the weights in float32, up to {_size(peak)} while "
            "unlearning, and the activations of a batch",
        ),
        (
            "denoising",
            f"a noised chord is {found.chord_error:.2f} times as far from the original as without "
            "a model",
        ),
    ]


def _groups(found: "Inspection") -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = [
        ("layer group", "parameters", "Fisher information, and a query's change")
    ]
    for name, count in sorted(found.groups.items(), key=lambda item: item[1]):
        lines.append((name, f"{count:,}", f"{_size(found.group_bytes(name))} each"))
    return lines


def _notes(found: "Inspection") -> list[str]:
    notes = list(found.notes)
    if found.chord_error >= 1:
        notes.append(
            "denoising a chord does not improve it: the model seems to be untrained, or trained on "
            "nothing like it, or with another objective"
        )
    return notes


def _aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """The lines with their columns below each other; those of numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if title == "parameters" else cell.ljust(width)
            for cell, width, title in zip(line, widths, lines[0], strict=True)
        ).rstrip()
        for line in lines
    ]


def _size(count: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} bytes"
