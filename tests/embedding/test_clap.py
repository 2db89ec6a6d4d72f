"""CLAP embeddings, with a small model of the genuine class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from renditions import RATE_HZ, WORKS, rendition
from safetensors.torch import load_file, save_file

from tda_dagster.embedding import open_embedders
from tda_dagster.embedding.clap import open_clap
from tda_dagster.errors import TdaError

RATE = 8000
WINDOW_S = 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import (
        ClapConfig,
        ClapFeatureExtractor,
        ClapModel,
        ClapProcessor,
        RobertaTokenizer,
    )

    out = tmp_path_factory.mktemp("clap")
    vocab = {token: index for index, token in enumerate(["<s>", "<pad>", "</s>", "<unk>", "a"])}
    tokenizer = RobertaTokenizer(vocab=vocab, merges=[])
    extractor = ClapFeatureExtractor(
        sampling_rate=RATE,
        max_length_s=WINDOW_S,
        hop_length=80,
        fft_window_size=256,
        frequency_max=4000,
        truncation="rand_trunc",
    )
    text = {
        "vocab_size": len(vocab),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    audio = {
        "patch_embeds_hidden_size": 8,
        "hidden_size": 32,
        "depths": [1, 1, 1],
        "num_attention_heads": [1, 2, 2],
        "num_hidden_layers": 3,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ClapModel(ClapConfig(text_config=text, audio_config=audio, projection_dim=24))
    model.save_pretrained(out)
    ClapProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(out)
    return out


def test_it_is_what_the_model_says(folder: Path) -> None:
    from transformers import ClapModel, ClapProcessor

    audio = np.ascontiguousarray(rendition(WORKS[0])[: 3 * RATE_HZ : RATE_HZ // RATE])[:RATE]
    model = ClapModel.from_pretrained(folder).eval()
    extractor = ClapProcessor.from_pretrained(folder).feature_extractor
    with torch.no_grad():
        output = model.get_audio_features(
            **extractor(audio, sampling_rate=RATE, return_tensors="pt")
        )
    expected = torch.nn.functional.normalize(output.pooler_output, dim=1)[0]
    vector = open_embedders(str(folder))["clap"](audio, RATE)
    assert vector.dtype == np.float32
    np.testing.assert_allclose(vector, expected.numpy(), atol=1e-6)


def test_long_audio_is_the_mean_of_its_windows(folder: Path) -> None:
    clap = open_clap(str(folder))
    audio = rendition(WORKS[0])[:: RATE_HZ // RATE].copy()[: int(2.5 * WINDOW_S * RATE)]
    size = WINDOW_S * RATE
    windows = [clap(audio[start : start + size], RATE) for start in range(0, len(audio), size)]
    mean = np.mean(windows, axis=0)
    assert len(windows) == 3
    np.testing.assert_allclose(clap(audio, RATE), mean / np.linalg.norm(mean), atol=1e-5)


def test_audio_is_resampled_to_the_models_rate(folder: Path) -> None:
    import soxr

    clap = open_clap(str(folder))
    audio = rendition(WORKS[0])[: RATE_HZ * WINDOW_S]
    resampled = soxr.resample(audio, RATE_HZ, RATE)
    np.testing.assert_allclose(clap(audio, RATE_HZ), clap(resampled, RATE), atol=1e-5)


def test_what_is_no_clap_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TdaError, match=r"embeddings\.clap: .*nowhere"):
        open_clap(str(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(TdaError, match=r"embeddings\.clap: .*empty"):
        open_clap(str(tmp_path / "empty"))


def test_weights_that_lack_tensors_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: w for name, w in weights.items() if not name.startswith("audio_projection")}
    assert len(kept) < len(weights)
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TdaError, match=r"embeddings\.clap: .*audio_projection"):
        open_clap(str(tmp_path))


def test_weights_that_are_not_finite_are_refused(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in weights if name.startswith("audio_projection"))
    weights[name] = torch.full_like(weights[name], float("nan"))
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TdaError, match=rf"embeddings\.clap: .*{name}: weights are not finite"):
        open_clap(str(tmp_path))


def test_a_relative_directory_is_one_of_the_study(folder: Path, tmp_path: Path) -> None:
    """Wherever the command runs."""
    (tmp_path / "clap").symlink_to(folder)
    assert "clap" in open_embedders("clap", tmp_path)
    with pytest.raises(TdaError, match=r"embeddings\.clap: clap: no CLAP model"):
        open_embedders("clap", tmp_path / "elsewhere")
