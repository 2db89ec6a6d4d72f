"""The adapter for `StableAudioPipeline`.

Its denoiser is a DiT over [C, T] latents, told the caption and the segment's place in its track
by cross-attention and by a prepended global token.
"""

import logging
import warnings
from collections.abc import Mapping, Sequence

import torch
from diffusers import StableAudioPipeline
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from torch import Tensor, nn
from torch.func import functional_call

from tda_dagster.diffusion.latents import Conditioning
from tda_dagster.diffusion.model import MusicModel

# The scheduler's noise sampler warns of rounding at the ends of its interval. Once for all, because
# changing filters for a while is not safe among threads.
warnings.filterwarnings("ignore", module="torchsde")

# Every caption that is cut at the tokenizer's length would be announced again in every sweep.
for _announcer in (
    "diffusers.pipelines.stable_audio.pipeline_stable_audio",
    "transformers.tokenization_utils_base",
):
    logging.getLogger(_announcer).setLevel(logging.ERROR)


class StableAudioModel(MusicModel):
    """Stable Audio as a `MusicModel`; see the base class for what each part promises."""

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
