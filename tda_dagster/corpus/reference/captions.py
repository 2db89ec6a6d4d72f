"""Captions: one natural sentence a track, in several phrasings, from its metadata alone."""

import numpy as np

UNNAMED = ("Traditional", "Anonymous")  # composers whom a caption does not name
# upper limit of attacks a second -> word; what a listener calls fast is not the beat
PACES = ((1.5, "slow"), (2.4, "calm"), (3.8, "flowing"), (5.6, "lively"), (float("inf"), "fast"))
PHRASINGS = (
    "{a} {pace} {form} in {key} for {instruments}{by}, {bpm} BPM",
    "{instruments} playing {a_form} {form}{by}, {pace}, in {key}, {bpm} BPM",
    "{form}{by} in {key}, played by {instruments}, {pace}, {bpm} BPM",
    "{collection}: {a} {pace} {form} in {key}, {instruments}, {bpm} BPM",
    "{pace} {instruments}, {form}{by} in {key} at {bpm} BPM",
)


def write_caption(
    *,
    form: str,
    key: str,
    instruments: str,
    composer: str,
    collection: str,
    bpm: float,
    attacks_per_s: float,
    chance: np.random.Generator,
) -> str:
    """A text-to-music caption; which phrasing is used depends on `chance`."""
    pace = next(word for limit, word in PACES if attacks_per_s < limit)
    if composer in UNNAMED:
        form = f"{composer.lower()} {form}"
    sentence = PHRASINGS[int(chance.integers(len(PHRASINGS)))].format(
        a=_article(pace),
        a_form=_article(form),
        pace=pace,
        form=form,
        key=key,
        instruments=instruments,
        by="" if composer in UNNAMED else f" by {composer}",
        collection=collection,
        bpm=round(bpm),
    )
    return sentence[0].upper() + sentence[1:]


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
