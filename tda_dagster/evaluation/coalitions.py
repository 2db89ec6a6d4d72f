"""Coalitions of catalogues: the trainings that show what each catalogue is worth to a query.

A catalogue is the set of tracks of one party (a rightsholder). The game of a query has the parties
as players, and the worth of a coalition is v(S) = −(loss of the query under a model trained on the
catalogues in S alone). This module chooses the coalitions; `payout` estimates values from them.
"""

from collections.abc import Mapping, Sequence

import torch

from tda_dagster.diffusion.noise import keyed_generator

Catalogues = Mapping[str, tuple[str, ...]]
"""Party → its tracks, both sorted."""

_RATIO = 0.62
"""Of the sizes of two successive unequal catalogues: of 160 tracks, they are from 60 down to 1."""
_PARTIES = 10
_TRIES = 100
"""Random coalitions drawn for each one that is wanted, before there are taken to be no more."""


def catalogues_by(party_of: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The catalogues of an assignment of tracks to parties."""
    parties = sorted(set(party_of.values()))
    return {
        party: tuple(sorted(track for track, owner in party_of.items() if owner == party))
        for party in parties
    }


def unequal_catalogues(kind_of: Mapping[str, str], seed: int) -> dict[str, tuple[str, ...]]:
    """Catalogues whose sizes fall geometrically, from about 0.38 of all tracks down to one track.

    Tracks of one kind (`kind_of`: track → collection, for example) stay together, as far as the
    sizes allow, because a real catalogue is specialised. The order of kinds, and which of them the
    large catalogues take, depend on `seed` and the names alone. Raises ValueError for fewer than
    ten tracks.
    """
    sizes = _unequal_sizes(len(kind_of))
    generator = keyed_generator(seed, "unequal catalogues")
    kinds = sorted(set(kind_of.values()))
    place = torch.randperm(len(kinds), generator=generator).tolist()
    order = {kind: place[number] for number, kind in enumerate(kinds)}
    tracks = sorted(kind_of, key=lambda track: (order[kind_of[track]], track))
    found, start = {}, 0
    for number in torch.randperm(len(sizes), generator=generator).tolist():
        found[f"party-{number:02d}"] = tuple(sorted(tracks[start : start + sizes[number]]))
        start += sizes[number]
    return dict(sorted(found.items()))


def _unequal_sizes(tracks: int) -> list[int]:
    if tracks < _PARTIES:
        raise ValueError(f"{tracks} tracks are too few for {_PARTIES} catalogues")
    shares = [_RATIO**number for number in range(_PARTIES)]
    sizes = [max(1, int(tracks * share / sum(shares))) for share in shares]
    sizes[0] += tracks - sum(sizes)
    return sizes


def coalitions(sizes: Mapping[str, int], count: int, seed: int) -> list[tuple[str, ...]]:
    """The coalitions to train: all parties, all but each one, and random ones; sorted parties each.

    A random coalition has each party with probability 1/2, and is taken if it holds at least half
    of the training segments and is not in the list yet. `sizes` gives the segments of each party.
    There are `count` random coalitions, or fewer where there are no more of them. The i-th draw
    depends on (seed, i) and the parties alone, so that a longer list begins as a shorter one.
    """
    parties = sorted(sizes)
    found = [tuple(parties)]
    found += [tuple(p for p in parties if p != absent) for absent in parties]
    wanted, known = len(found) + count, set(found)
    half = sum(sizes.values()) / 2
    for draw in range(_TRIES * count):
        if len(found) == wanted:
            break
        generator = keyed_generator(seed, "coalition", str(draw))
        present = torch.rand(len(parties), generator=generator) < 0.5
        chosen = tuple(p for p, here in zip(parties, present.tolist(), strict=True) if here)
        if sum(sizes[party] for party in chosen) >= half and chosen not in known:
            found.append(chosen)
            known.add(chosen)
    return found


def tracks_of(coalition: Sequence[str], catalogues: Catalogues) -> tuple[str, ...]:
    """The tracks of all parties of a coalition, sorted."""
    return tuple(sorted(track for party in coalition for track in catalogues[party]))
