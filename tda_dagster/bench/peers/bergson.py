"""bergson: preconditioned inner products of projected gradients
(https://github.com/EleutherAI/bergson, 2.5), in an environment of its own.

Its requirements are too many to share an environment with. It is another process, started by the
Python that `TDA_BERGSON_PYTHON` names, of an environment with tda-dagster and bergson; what passes
between the two is safetensors and JSON. Where torchvision is not of the same build as torch,
install bergson with `--no-deps`, and of its requirements all but torchvision and torchaudio, which
it does not use here: another build of them breaks transformers.
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


class Bergson(PeerSpec):
    """g_q·(H + λI)⁻¹·g_i, summed over linear layers, with g a layer's gradient projected from both
    sides and H the autocorrelation of the training rows' g.

    The library sees a row per piece and draw; scores are averaged over the draws of both pieces.
    Only linear layers of the layer group take part, without their biases, as by its default.
    Defaults are the library's: 16 × 16 per layer, as its Trackstar has it, and a damping of 0.1 of
    the mean eigenvalue.
    """

    method: Literal["bergson"] = "bergson"
    dimension: int | None = Field(
        16, gt=0, description="of the projection, from each side (null: no projection)"
    )
    damping: float | None = Field(
        0.1, gt=0, description="relative to each layer's mean eigenvalue (null: no curvature)"
    )

    @property
    def label(self) -> str:
        return "bergson"

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
