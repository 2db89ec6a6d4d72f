"""CLAP: embeddings of a model trained on audio and text together (arXiv:2211.06687)."""

from pathlib import Path

import numpy as np
import soxr
import torch
from transformers import ClapModel, ClapProcessor

from tda_dagster.diffusion.model import ModelError
from tda_dagster.diffusion.modules import require_finite
from tda_dagster.diffusion.weights import first_line
from tda_dagster.embedding import Embedder
from tda_dagster.errors import TdaError

_SETTING = "embeddings.clap"


def open_clap(directory: str, base: Path | None = None) -> Embedder:
    """Open a CLAP model of transformers: a directory, or the id of one on the Hugging Face hub.

    A relative path is one below `base` (by default the current folder); a folder comes before a
    hub id.

    Only a hub id is fetched from the network. The embedder gives float32 vectors of length one
    [projection_dim]; audio longer than the model's window (10 s) is the mean of its windows.
    Raises TdaError naming the setting `embeddings.clap`.
    """
    path = (base or Path.cwd()) / Path(directory).expanduser()
    local = path.exists()
    source = str(path) if local else directory
    try:
        processor = ClapProcessor.from_pretrained(source, local_files_only=local)
        model, loading = ClapModel.from_pretrained(
            source, local_files_only=local, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # the hub client and the tokenizers raise many kinds
        raise TdaError(
            f"{_SETTING}: {directory}: no CLAP model can be opened here; give a directory with "
            f"the model and its processor, or a hub id: {first_line(error)}"
        ) from error
    if loading["missing_keys"]:
        raise TdaError(
            f"{_SETTING}: {directory}: the weights lack {len(loading['missing_keys'])} of the "
            f"model's tensors, {min(loading['missing_keys'])} among them; save the model again"
        )
    try:
        require_finite(model)
    except ModelError as error:
        raise TdaError(f"{_SETTING}: {directory}: {error}; save the model again") from error
    extractor = processor.feature_extractor
    model.eval()

    def clap(audio: np.ndarray, rate: int) -> np.ndarray:
        resampled = soxr.resample(audio, rate, extractor.sampling_rate)
        # The extractor takes a random part of what is longer than its window.
        size = int(extractor.nb_max_samples)
        windows = [resampled[start : start + size] for start in range(0, len(resampled), size)]
        # A rest of less than a second says little and would count as much as a whole window.
        kept = [w for w in windows if len(w) >= extractor.sampling_rate] or windows[:1]
        vectors = torch.stack([_embedded(window) for window in kept])
        return np.asarray(torch.nn.functional.normalize(vectors.mean(0), dim=0).numpy())

    def _embedded(window: np.ndarray) -> torch.Tensor:
        features = extractor(window, sampling_rate=extractor.sampling_rate, return_tensors="pt")
        with torch.inference_mode():
            output = model.get_audio_features(**features)
        # Before version 5 transformers gave the tensor itself.
        vector: torch.Tensor = getattr(output, "pooler_output", output)[0]
        return vector

    return clap
