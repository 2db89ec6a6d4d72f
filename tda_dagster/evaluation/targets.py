"""Which training segments to test an attribution method on, so that few stand for all."""

import torch
from sklearn.cluster import KMeans

from tda_dagster.attribution.similarity import standardised
from tda_dagster.embedding import Embedding
from tda_dagster.errors import TdaError


def choose_targets(embedding: Embedding, count: int, seed: int) -> tuple[str, ...]:
    """`count` pieces spread over an embedding: k-means of the standardised vectors, and of each
    cluster the piece nearest to its centre, as arXiv:2506.18312 chooses its self-influence targets.

    Returns distinct ids in the order of the embedding. The choice depends on the pieces and on
    `seed`, not on the pieces' order. Raises TdaError when there are fewer pieces than `count`.
    """
    if not 1 <= count <= len(embedding.ids):
        raise TdaError(
            f"{count} targets cannot be chosen from {len(embedding.ids)} pieces; ask for at least "
            f"1 and at most {len(embedding.ids)}"
        )
    ids = tuple(sorted(embedding.ids))
    vectors = embedding.of(ids).flatten(1)
    points = standardised(vectors, vectors)
    clusters = KMeans(count, n_init=10, random_state=seed).fit(points.numpy())
    distances = torch.cdist(torch.from_numpy(clusters.cluster_centers_).double(), points)
    chosen: set[int] = set()
    for row in distances:
        # Equal pieces share centres: let each of those stand for another piece.
        row[list(chosen)] = torch.inf
        chosen.add(int(row.argmin()))
    wanted = {ids[index] for index in chosen}
    return tuple(name for name in embedding.ids if name in wanted)
