"""From a performance to samples: General MIDI through a SoundFont, levelled and faded.

The soundfont is TimGM6mb, which the pretty_midi package ships.
"""

import io
from functools import cache
from pathlib import Path

import midirenderer
import numpy as np
import pretty_midi
import soundfile
import soxr
from numpy.typing import NDArray

from tda_dagster.corpus.reference.arrangement import Performance

TAIL_S = 0.6  # room for the last notes to ring
FADE_S = 0.35
PEAK = 10 ** (-3 / 20)
RENDERER_LATENESS_S = 0.1  # the renderer stops at its last event: keep one beyond the tail


def synthesise(performance: Performance, sample_rate_hz: int) -> NDArray[np.float32]:
    """Samples [n] float32, mono, peak at -3 dBFS, ending in a fade."""
    stereo, rendered_rate_hz = _render(performance)
    mono = soxr.resample(stereo.mean(axis=1), rendered_rate_hz, sample_rate_hz, quality="HQ")
    samples = np.asarray(mono[: round((performance.length_s + TAIL_S) * sample_rate_hz)])
    fade = round(FADE_S * sample_rate_hz)
    samples[-fade:] *= np.cos(np.linspace(0, np.pi / 2, fade)) ** 2
    return np.asarray(samples * (PEAK / np.max(np.abs(samples))), dtype=np.float32)


def write_flac(path: Path, samples: NDArray[np.float32], sample_rate_hz: int) -> None:
    """16-bit mono FLAC; the file appears under its name only when it is complete."""
    partial = path.with_suffix(".partial")
    soundfile.write(partial, samples, sample_rate_hz, subtype="PCM_16", format="FLAC")
    partial.replace(path)


def _render(performance: Performance) -> tuple[NDArray[np.float64], int]:
    midi = pretty_midi.PrettyMIDI(resolution=960, initial_tempo=120)
    for voice in performance.voices:
        instrument = pretty_midi.Instrument(voice.instrument.program)
        instrument.control_changes.append(pretty_midi.ControlChange(7, voice.instrument.volume, 0))
        instrument.notes = [
            pretty_midi.Note(note.velocity, note.pitch, note.start_s, note.end_s)
            for note in voice.notes
        ]
        midi.instruments.append(instrument)
    last_event_s = performance.length_s + TAIL_S + RENDERER_LATENESS_S
    midi.instruments[0].control_changes.append(
        pretty_midi.ControlChange(7, performance.voices[0].instrument.volume, last_event_s)
    )
    file = io.BytesIO()
    midi.write(file)
    wave = midirenderer.render_wave_from(_soundfont(), file.getvalue())
    samples, rate_hz = soundfile.read(io.BytesIO(wave), always_2d=True)
    return samples, rate_hz


@cache
def _soundfont() -> bytes:
    return (Path(pretty_midi.__file__).parent / "TimGM6mb.sf2").read_bytes()
