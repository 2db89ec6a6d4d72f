"""bergson: preconditioned inner products of gradients
(https://github.com/EleutherAI/bergson, 2.5), in an environment of its own.

Its requirements are too many to share an environment with. It is another process, started by the
Python that `TDA_BERGSON_PYTHON` names, of an environment with tda-dagster and bergson; what passes
between the two is safetensors and JSON. Where torchvision is not of the same build as torch,
install bergson with `--no-deps`, and of its requirements all but torchvision, torchaudio and
bitsandbytes, which it does not use here: another build of the first two breaks transformers.
"""

import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field
from safetensors.torch import load_file
from torch import Tensor

from tda_dagster.attribution.methods.spec import Material
from tda_dagster.bench.peers.peer import PeerSpec
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.errors import TdaError

PYTHON_VARIABLE = "TDA_BERGSON_PYTHON"
_WORKER = "tda_dagster.bench.peers.bergson_worker"
_LABELS = {
    "identity": "inner products",
    "autocorrelation": "autocorrelation",
    "trackstar": "TrackStar",
    "ekfac": "EK-FAC",
    "ekfac_cg": "EK-FAC + CG",
}


class Bergson(PeerSpec):
    """g_q·(H + λI)⁻¹·g_i, summed over linear layers, with g the mean of a piece's gradients over
    draws and H an approximation of the curvature, by `strategy`:

    - `identity`: none;
    - `autocorrelation`: of the gradients of rows, a piece under one draw, per layer and projected;
    - `trackstar` (Chang et al., arXiv:2410.17413): the same mixed with the queries'
      autocorrelation, its inverse square root on both sides, and both sides divided by their norm,
      so that scores are cosines;
    - `ekfac` (Grosse et al., arXiv:2308.03296, section 2): of outputs sampled from the model, as
      is the library's default, of gradients that are not projected;
    - `ekfac_cg`: from that solution on, the library's preconditioned conjugate gradients under the
      Gauss-Newton matrix of the loss. Products with it are ours, for the library's are of the
      cross-entropy.

    Only linear layers of the layer group take part, without their biases, as by its default.
    Defaults are the library's: 16 × 16 per layer, a damping of 0.1 of the mean eigenvalue, a
    mixture in which the 1,000 largest components are down-weighted, curvature of 16 rows under
    conjugate gradients. Of their steps it has no default.
    """

    method: Literal["bergson"] = "bergson"
    strategy: Literal["identity", "autocorrelation", "trackstar", "ekfac", "ekfac_cg"] = (
        "autocorrelation"
    )
    dimension: int | None = Field(
        16, gt=0, description="of the projection, from each side (null, and EK-FAC: no projection)"
    )
    damping: float = Field(0.1, gt=0, description="relative to each layer's mean eigenvalue")
    downweighted: int | None = Field(
        1000, gt=0, description="trackstar: components that mixing weighs down (null: no mixing)"
    )
    use_dataset_labels: bool = Field(
        False, description="EK-FAC of the training's own targets, not of sampled outputs"
    )
    cg_steps: int = Field(10, gt=0, description="of conjugate gradients, for each query")
    cg_rows: int = Field(16, gt=0, description="training rows that their curvature is of")

    @property
    def label(self) -> str:
        return f"bergson: {_LABELS[self.strategy]}"

    @property
    def slug(self) -> str:
        return f"{self.method} {self.strategy}"

    def score(self, material: Material, queries: LatentSegments) -> Tensor:
        python = os.environ.get(PYTHON_VARIABLE)
        if not python:
            raise TdaError(
                f"{self.method}: the library wants an environment of its own; make one with "
                f"tda-dagster and bergson 2.5, and set {PYTHON_VARIABLE} to its python"
            )
        with TemporaryDirectory() as name:
            folder = Path(name)
            material.model.pipeline.save_pretrained(folder / "model")
            material.train.save(folder / "train.safetensors")
            queries.save(folder / "queries.safetensors")
            (folder / "spec.json").write_text(self.model_dump_json())
            command = [python, "-m", _WORKER, str(folder), str(material.model.device)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError as error:
                raise TdaError(f"{PYTHON_VARIABLE}: {python} does not start: {error}") from error
            if done.returncode != 0:
                last = "\n".join(done.stderr.strip().splitlines()[-5:])
                raise TdaError(f"{self.method}: {python} failed ({PYTHON_VARIABLE}):\n{last}")
            scores: Tensor = load_file(folder / "scores.safetensors")["scores"]
        return scores
