"""What attribution methods may read of the study, from the inputs of the asset that runs them."""

from functools import cached_property

from assets.base import base_model, load_shards
from tda_dagster.attribution.fisher import FisherSum
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.embedding import Embedding
from tda_dagster.errors import TdaError
from tda_dagster.materialization import Job, PerThread
from tda_dagster.store import Artifact


class StudyMaterial:
    """The `Material` of a job; each part is opened when a method first asks for it. Threads may
    share it: each of them has a model of its own."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._models = PerThread(lambda: base_model(job, job.settings.model.device))

    @property
    def model(self) -> MusicModel:
        return self._models()

    @cached_property
    def fisher(self) -> FisherSum:
        return FisherSum.load(self._job.inputs["base/fisher"].path("fisher.safetensors"))

    @cached_property
    def train(self) -> LatentSegments:
        return load_shards(self._job.inputs["dataset/latents"], "train")

    def embedding(self, name: str) -> Embedding:
        return read_embedding(self._job.inputs["dataset/embeddings"], name)

    def query_embedding(self, name: str) -> Embedding:
        return read_embedding(self._job.inputs["cohort/embeddings"], name)


def read_embedding(artifact: Artifact, name: str) -> Embedding:
    """An embedding by name; raises TdaError saying how to have it made."""
    file = f"{name}.safetensors"
    if not artifact.has(file):
        raise TdaError(
            f"there is no {name} embedding; name its model under embeddings.{name} in params.yaml"
        )
    return Embedding.load(artifact.path(file))
