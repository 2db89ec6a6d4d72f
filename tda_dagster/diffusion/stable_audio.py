"""The adapter for `StableAudioPipeline`.

Its denoiser is a DiT over [C, T] latents, told the caption and the segment's place in its track
by cross-attention and by a prepended global token.
"""

import logging
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import (
    CosineDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
)
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from torch import Tensor, nn
from torch.func import functional_call

from tda_dagster.diffusion.autoencoder import AUTOENCODERS
from tda_dagster.diffusion.latents import Conditioning
from tda_dagster.diffusion.model import ModelError, MusicModel

# The scheduler's noise sampler warns of rounding at the ends of its interval. Once for all, because
# changing filters for a while is not safe among threads.
warnings.filterwarnings("ignore", module="torchsde")

# Every caption that is cut at the tokenizer's length would be announced again in every sweep.
for _announcer in (
    "diffusers.pipelines.stable_audio.pipeline_stable_audio",
    "transformers.tokenization_utils_base",
):
    logging.getLogger(_announcer).setLevel(logging.ERROR)


# More tokens than this are the placeholder of a tokenizer whose own limit is missing.
_MOST_TOKENS = 1_000_000


class StableAudioModel(MusicModel):
    """Stable Audio as a `MusicModel`; see the base class for what each part promises."""

    pipeline_class = StableAudioPipeline
    objective = "v-prediction, cosine schedule (t = 2/π · atan σ)"
    modules: Mapping[str, Mapping[str, Any] | None] = {
        "projection_model": {"StableAudioProjectionModel": StableAudioProjectionModel},
        "text_encoder": None,
        "vae": AUTOENCODERS,
        "transformer": {"StableAudioDiTModel": StableAudioDiTModel},
    }

    def __init__(self, pipeline: StableAudioPipeline) -> None:
        self.pipeline = pipeline
        pipeline.set_progress_bar_config(disable=True)
        for module in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
            module.eval().requires_grad_(False)
        pipeline.projection_model.eval().requires_grad_(False)
        self.sampling_rate = int(pipeline.vae.config.sampling_rate)
        self.audio_channels = int(pipeline.vae.config.audio_channels)
        self.hop_length = int(pipeline.vae.hop_length)
        config = pipeline.transformer.config
        self.latent_shape = (int(config.in_channels), int(config.sample_size))

    @staticmethod
    def scheduler_of(name: str, config: Mapping[str, Any]) -> Any:
        """The scheduler of a `scheduler_config.json`; raises ModelError unless it noises as the
        objective does (`objective.diffuse`)."""
        ours = CosineDPMSolverMultistepScheduler
        if name != ours.__name__:
            raise ModelError(
                f"it is {name}, whose noise levels are not those of the objective "
                f"({StableAudioModel.objective}); only {ours.__name__} is"
            )
        for key, wanted in (("prediction_type", "v_prediction"), ("sigma_data", 1.0)):
            found = config.get(key, wanted)
            if found != wanted:
                raise ModelError(
                    f"{key} is {str(found)[:40]!r}, and the objective needs {wanted!r}: a model "
                    "that was trained otherwise cannot be attributed"
                )
        low, high = (config.get(key, 1.0) for key in ("sigma_min", "sigma_max"))
        if not all(isinstance(s, int | float) and math.isfinite(s) for s in (low, high)) or not (
            0 < low <= high
        ):
            raise ModelError("sigma_min and sigma_max are no range of noise levels above zero")
        try:
            return ours.from_config(dict(config))
        except Exception as error:  # any setting may be nonsense
            raise ModelError(f"its settings cannot be used: {error}") from None

    @staticmethod
    def require_consistent(configs: Mapping[str, Mapping[str, Any]]) -> None:
        """Raise ModelError unless the widths of the modules fit each other; `configs` are their
        settings by name."""
        for component, key in (
            ("transformer", "sample_size"),
            ("vae", "sampling_rate"),
            ("vae", "audio_channels"),
        ):
            value = configs[component].get(key)
            if not isinstance(value, int) or value < 1:
                raise ModelError(f"{component}: {key} is {value!r}, and should be a count above 0")
        projection, transformer = configs["projection_model"], configs["transformer"]
        width = projection["conditioning_dim"]
        pairs = [
            ("transformer", "out_channels", transformer["in_channels"], "its in_channels"),
            ("transformer", "cross_attention_input_dim", width, "the projection's width"),
            ("transformer", "global_states_input_dim", 2 * width, "twice the projection's width"),
        ]
        text_width = configs["text_encoder"].get("d_model")
        if text_width is not None:
            pairs.append(
                ("projection_model", "text_encoder_dim", text_width, "the text encoder's d_model")
            )
        if configs["vae"].get("_class_name") == "AutoencoderOobleck":
            latents = transformer["in_channels"]
            pairs.append(
                ("vae", "decoder_input_channels", latents, "the transformer's in_channels")
            )
        for component, key, value, meaning in pairs:
            if configs[component].get(key) != value:
                raise ModelError(
                    f"{component}: {key} is {configs[component].get(key)}, and {meaning} is "
                    f"{value}: the parts are not of one pipeline"
                )

    @staticmethod
    def require_vocabulary(tokenizer: Any, text_encoder: nn.Module) -> None:
        """Raise ModelError unless the tokenizer's pieces are those of the text encoder."""
        limit = tokenizer.model_max_length
        if not 1 <= limit <= _MOST_TOKENS:
            raise ModelError(
                "tokenizer_config.json: model_max_length is missing; captions are padded to it"
            )
        rows = text_encoder.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
        pieces = tokenizer.get_vocab()
        needed = {tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id}
        optional = set(tokenizer.all_special_ids) - needed
        beyond = [p for p, i in pieces.items() if i >= rows and i not in optional]
        if beyond:
            raise ModelError(
                f"{min(beyond, key=pieces.__getitem__)!r} is number {min(map(pieces.get, beyond))} "
                f"of its vocabulary, but the text encoder knows {rows}: it is another model's"
            )
        if 2 * len(pieces) < rows:
            raise ModelError(
                f"its vocabulary has {len(pieces)} pieces, but the text encoder knows {rows}: it "
                "is incomplete or another model's; copy the tokenizer's files again"
            )

    def distinct_captions(self) -> tuple[str, str]:
        tokenizer = self.pipeline.tokenizer
        special = set(tokenizer.all_special_ids)
        pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
        found: dict[tuple[int, ...], str] = {}
        for piece, _ in pieces:
            text = tokenizer.convert_tokens_to_string([piece]).strip()
            tokens = tuple(i for i in tokenizer(text).input_ids if i not in special)
            if text and tokens:
                found.setdefault(tokens, text)
            if len(found) == 2:
                first, second = found.values()
                return first, second
        raise ModelError(
            f"tokenizer: its vocabulary has no two words ({len(pieces)} pieces): all captions "
            "would be the same to the model; copy the tokenizer's files again"
        )

    @property
    def denoiser(self) -> nn.Module:
        transformer: nn.Module = self.pipeline.transformer
        return transformer

    @torch.no_grad()
    def encode(self, audio: Tensor) -> Tensor:
        mean: Tensor = self.pipeline.vae.encode(audio.to(self.device)).latent_dist.mode()
        return mean.float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        audio: Tensor = self.pipeline.vae.decode(latents.to(self.device)).sample
        return audio

    @torch.no_grad()
    def condition(
        self,
        captions: Sequence[str],
        seconds_start: Sequence[float],
        seconds_total: Sequence[float],
    ) -> Conditioning:
        distinct = sorted(set(captions))
        position = {caption: index for index, caption in enumerate(distinct)}
        text = self.pipeline.encode_prompt(distinct, self.device, do_classifier_free_guidance=False)
        text = text[[position[caption] for caption in captions]]
        start, end = self.pipeline.encode_duration(
            list(seconds_start), list(seconds_total), self.device, False, len(captions)
        )
        return Conditioning(torch.cat([text, start, end], dim=1), torch.cat([start, end], dim=2))

    def __call__(self, noised: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        velocity: Tensor = self.denoiser(noised, timesteps, **self._keywords(noised, conditioning))[
            0
        ]
        return velocity

    def predict(
        self, weights: Mapping[str, Tensor], noised: Tensor, timesteps: Tensor, cond: Conditioning
    ) -> Tensor:
        velocity: Tensor = functional_call(
            self.denoiser,
            dict(weights),
            (noised, timesteps),
            self._keywords(noised, cond),
        )[0]
        return velocity

    def _keywords(self, noised: Tensor, conditioning: Conditioning) -> dict[str, object]:
        return {
            "encoder_hidden_states": conditioning.cross,
            "global_hidden_states": conditioning.global_,
            "rotary_embedding": self._rotary(noised.shape[-1]),
            "return_dict": False,
        }

    def _rotary(self, frames: int) -> tuple[Tensor, Tensor]:
        # One position more than frames: the global token is prepended to the sequence.
        cos, sin = get_1d_rotary_pos_embed(
            self.pipeline.rotary_embed_dim, frames + 1, use_real=True, repeat_interleave_real=False
        )
        return cos.to(self.device), sin.to(self.device)

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        *,
        negative_prompt: str,
        seed: int,
        seconds: float,
        steps: int,
        guidance_scale: float,
    ) -> Tensor:
        latents: Tensor = self.pipeline(
            prompt,
            negative_prompt=negative_prompt or None,
            audio_end_in_s=seconds,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            generator=torch.Generator(self.device).manual_seed(seed),
            output_type="latent",
        ).audios
        return latents[0]

    @property
    def blocks(self) -> Sequence[nn.Module]:
        blocks: nn.ModuleList = self.pipeline.transformer.transformer_blocks
        return list(blocks)

    @property
    def output_layer(self) -> str:
        return "proj_out.weight"

    def layer_groups(self) -> dict[str, tuple[str, ...]]:
        # The Fourier features of the timestep are fixed, not learnt.
        names = sorted(n for n, _ in self.denoiser.named_parameters() if n != "time_proj.weight")
        blocks = [n for n in names if n.startswith("transformer_blocks.")]
        return {
            "cross_attention_kv": tuple(
                n for n in blocks if ".attn2.to_k." in n or ".attn2.to_v." in n
            ),
            "cross_attention": tuple(n for n in blocks if ".attn2." in n),
            "self_attention": tuple(n for n in blocks if ".attn1." in n),
            "feed_forward": tuple(n for n in blocks if ".ff." in n),
            "transformer": tuple(blocks),
            "everything": tuple(names),
        }
