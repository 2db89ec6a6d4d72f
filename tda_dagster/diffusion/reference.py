"""The reference study's model: a small, genuine `StableAudioPipeline` and its training.

What belongs here: the architecture, the tokenizer made from the captions, and a training loop
that can stop after any chunk of steps and go on to the same bits. The objective itself is
`objective.denoising_loss`.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderOobleck,
    CosineDPMSolverMultistepScheduler,
    StableAudioDiTModel,
    StableAudioPipeline,
)
from diffusers.pipelines.stable_audio.modeling_stable_audio import StableAudioProjectionModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from tda_dagster.diffusion.latents import Conditioning, LatentSegments
from tda_dagster.diffusion.modules import quiet
from tda_dagster.diffusion.noise import NoisePlan, keyed_generator
from tda_dagster.diffusion.objective import denoising_loss
from tda_dagster.diffusion.stable_audio import StableAudioModel

CAPTION_TOKENS = 40
TIME_RANGE_S = (0.0, 64.0)
_WEIGHTS = "weights/"


@dataclass(frozen=True)
class ReferenceTraining:
    """Settings of one training run of the reference model."""

    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int
    caption_dropout: float
    ema_decay: float
    layers: int
    heads: int
    head_dim: int
    seed: int


@dataclass(frozen=True)
class Progress:
    """A point of the loss curve: mean training loss since the last point, and the loss of the
    held-out segments under the averaged weights (None without held-out segments)."""

    step: int
    train_loss: float
    heldout_loss: float | None


def caption_tokenizer(captions: Sequence[str]) -> T5Tokenizer:
    """A T5 tokenizer whose pieces are the captions' words, with characters for unseen ones."""
    words = Counter(word for caption in captions for word in caption.split())
    characters = sorted({c for caption in captions for c in caption} - {" "})
    total = sum(words.values())
    scores = {"▁" + word: count / total for word, count in words.items()}
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -20.0)]
    vocabulary += [
        (piece, float(torch.tensor(scores[piece], dtype=torch.float64).log()))
        for piece in sorted(scores)
    ]
    vocabulary += [(c, -20.0) for c in characters if c not in scores]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0, model_max_length=CAPTION_TOKENS)


def build_pipeline(
    autoencoder: AutoencoderOobleck,
    captions: Sequence[str],
    frames: int,
    settings: ReferenceTraining,
) -> StableAudioPipeline:
    """A freshly initialised pipeline around the autoencoder; the same seed, the same weights."""
    tokenizer = caption_tokenizer(captions)
    width = settings.heads * settings.head_dim
    text_width = 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        text_encoder = T5EncoderModel(
            T5Config(
                vocab_size=len(tokenizer),
                d_model=text_width,
                d_kv=16,
                num_heads=4,
                d_ff=128,
                num_layers=2,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        projection = StableAudioProjectionModel(text_width, text_width, *TIME_RANGE_S)
        channels = _latent_channels(autoencoder)
        transformer = StableAudioDiTModel(
            sample_size=frames,
            in_channels=channels,
            out_channels=channels,
            num_layers=settings.layers,
            attention_head_dim=settings.head_dim,
            num_attention_heads=settings.heads,
            num_key_value_attention_heads=settings.heads,
            cross_attention_dim=width,
            cross_attention_input_dim=text_width,
            global_states_input_dim=2 * text_width,
            time_proj_dim=128,
        )
        for block in transformer.transformer_blocks:  # start as the identity, which trains faster
            nn.init.zeros_(block.attn1.to_out[0].weight)
            nn.init.zeros_(block.attn2.to_out[0].weight)
            nn.init.zeros_(block.ff.net[-1].weight)
        nn.init.zeros_(transformer.proj_out.weight)
    return StableAudioPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        projection_model=projection,
        tokenizer=tokenizer,
        transformer=transformer,
        scheduler=CosineDPMSolverMultistepScheduler(
            sigma_min=0.1, sigma_max=100.0, solver_order=2, sigma_schedule="exponential"
        ),
    )


def _latent_channels(autoencoder: AutoencoderOobleck) -> int:
    # Measured, because each class of autoencoder calls this setting by another name.
    frame = torch.zeros(1, autoencoder.config.audio_channels, autoencoder.hop_length)
    with torch.no_grad():
        return int(autoencoder.encode(frame).latent_dist.mode().shape[1])


def save_pipeline(pipeline: StableAudioPipeline, folder: Path) -> None:
    """Write the diffusers directory; equal pipelines give equal bytes wherever they were made."""
    with quiet():
        pipeline.save_pretrained(folder)
    for path in sorted(folder.rglob("*.json")):
        config = json.loads(path.read_text(encoding="utf-8"))
        if "_name_or_path" in config:  # where a part was loaded from: a path of this machine
            del config["_name_or_path"]
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


class Trainer:
    """Trains a pipeline's denoiser, projection and text encoder on latents.

    `advance` runs a number of steps and yields the loss curve; `save` and `load` carry the whole
    state (weights, average, optimizer moments, step), so that a training that was interrupted
    ends in the same weights as one that was not.
    """

    def __init__(
        self,
        pipeline: StableAudioPipeline,
        data: LatentSegments,
        heldout: LatentSegments,
        settings: ReferenceTraining,
    ) -> None:
        self.pipeline, self.data, self.heldout, self.settings = pipeline, data, heldout, settings
        self.model = StableAudioModel(pipeline)
        self.step = 0
        self.curve: list[Progress] = []
        self._tokens = self._tokenize(data.captions)
        self._modules = {
            "transformer": pipeline.transformer,
            "projection_model": pipeline.projection_model,
            "text_encoder": pipeline.text_encoder,
        }
        self._named = {
            f"{prefix}.{name}": parameter
            for prefix, module in self._modules.items()
            for name, parameter in module.named_parameters()
            if not name.endswith(("time_proj.weight", "time_positional_embedding.0.weights"))
        }
        for parameter in self._named.values():
            parameter.requires_grad_(True)
        self._average = {n: p.detach().clone() for n, p in self._named.items()}
        self._optimizer = torch.optim.AdamW(
            self._named.values(),
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=1e-3,
            fused=True,
        )

    def advance(self, steps: int, every: int = 50) -> Iterator[Progress]:
        """Train until `steps` more are done (or the settings' total), yielding a point of the
        curve `every` so many steps."""
        end = min(self.settings.steps, self.step + steps)
        losses: list[float] = []
        while self.step < end:
            losses.append(self._train_step())
            self.step += 1
            if self.step % every == 0 or self.step == self.settings.steps:
                mean = sum(losses) / len(losses)
                losses.clear()
                self.curve.append(Progress(self.step, mean, self._heldout_loss()))
                yield self.curve[-1]

    def finish(self) -> StableAudioPipeline:
        """Put the averaged weights into the pipeline and return it."""
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(self._average[name])
                parameter.requires_grad_(False)
        return self.pipeline

    def learning_rate(self, step: int) -> float:
        """The rate of a step: linear warm-up, then cosine decay to a twentieth."""
        settings = self.settings
        if step < settings.warmup_steps:
            return settings.learning_rate * (step + 1) / settings.warmup_steps
        done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
        decay = 0.05 + 0.95 * 0.5 * (1 + float(torch.cos(torch.tensor(torch.pi * done))))
        return settings.learning_rate * decay

    def save(self, path: Path) -> None:
        """Write the training state as one safetensors file."""
        tensors: dict[str, Tensor] = {}
        for name, parameter in self._named.items():
            state = self._optimizer.state[parameter]
            tensors[f"{_WEIGHTS}{name}"] = parameter.detach()
            tensors[f"average/{name}"] = self._average[name]
            for moment in ("exp_avg", "exp_avg_sq"):
                tensors[f"{moment}/{name}"] = state[moment]
        curve = [[p.step, p.train_loss, p.heldout_loss] for p in self.curve]
        # One entry only: safetensors writes several in a different order each time.
        header = {"training": json.dumps({"step": self.step, "curve": curve})}
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, path, metadata=header)

    def load(self, path: Path) -> None:
        """Go on from a state written by `save`."""
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["training"])
            # Cloned: what comes from the file is mapped to it, and it may be written again.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        self.step = header["step"]
        self.curve = [Progress(*point) for point in header["curve"]]
        with torch.no_grad():
            for name, parameter in self._named.items():
                parameter.copy_(tensors[f"{_WEIGHTS}{name}"])
                self._average[name].copy_(tensors[f"average/{name}"])
                self._optimizer.state[parameter] = {
                    "step": torch.tensor(float(self.step)),
                    "exp_avg": tensors[f"exp_avg/{name}"],
                    "exp_avg_sq": tensors[f"exp_avg_sq/{name}"],
                }

    @staticmethod
    def weights_in(path: Path) -> dict[str, Tensor]:
        """The weights of a state written by `save`, not averaged, by name with the part's name
        before it."""
        with safe_open(path, framework="pt") as file:
            return {
                name.removeprefix(_WEIGHTS): file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
                if name.startswith(_WEIGHTS)
            }

    def _train_step(self) -> float:
        settings = self.settings
        generator = keyed_generator(settings.seed, "train", str(self.step))
        count = min(settings.batch_size, len(self.data))
        rows = torch.randperm(len(self.data), generator=generator)[:count].tolist()
        latents = self.data.latents[rows]
        # One timestep per stratum: the loss depends on t far more than on the segment.
        strata = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        timesteps = (strata / count).clamp(1e-3, 1 - 1e-3)
        noise = torch.randn(latents.shape, generator=generator)
        conditioning = self._conditioning(rows)
        keep = torch.rand(count, generator=generator) >= settings.caption_dropout
        # Guidance without a negative prompt zeroes the cross-attention states, global kept.
        conditioning = Conditioning(conditioning.cross * keep.view(-1, 1, 1), conditioning.global_)
        loss = denoising_loss(self.model, latents, conditioning, noise, timesteps).mean()
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(list(self._named.values()), 1.0)
        self._optimizer.step()
        decay = min(settings.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self._average.values()), list(self._named.values()), 1 - decay
            )
        return float(loss.detach())

    def _tokenize(self, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = self.pipeline.tokenizer(
            list(captions),
            padding="max_length",
            max_length=CAPTION_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        return tokens.input_ids, tokens.attention_mask

    def _conditioning(self, rows: list[int]) -> Conditioning:
        """As `StableAudioModel.condition`, with gradients to the text encoder and projection."""
        ids, mask = self._tokens[0][rows], self._tokens[1][rows]
        text = self.pipeline.text_encoder(ids, attention_mask=mask)[0]
        projected = self.pipeline.projection_model(
            text_hidden_states=text,
            start_seconds=torch.tensor([self.data.seconds_start[r] for r in rows]),
            end_seconds=torch.tensor([self.data.seconds_total[r] for r in rows]),
        )
        text = projected.text_hidden_states * mask.unsqueeze(-1)
        start, end = projected.seconds_start_hidden_states, projected.seconds_end_hidden_states
        return Conditioning(torch.cat([text, start, end], dim=1), torch.cat([start, end], dim=2))

    @torch.no_grad()
    def _heldout_loss(self) -> float | None:
        if not len(self.heldout):
            return None
        current = {n: p.detach().clone() for n, p in self._named.items()}
        for name, parameter in self._named.items():
            parameter.copy_(self._average[name])
        segments = self.heldout
        plan = NoisePlan(draws=4, seed=self.settings.seed, mode="per_segment")
        conditioning = self.model.condition(
            segments.captions, segments.seconds_start, segments.seconds_total
        )
        noise = plan.noise(segments.segment_ids, self.model.latent_shape)
        losses = [
            denoising_loss(
                self.model, segments.latents, conditioning, noise[:, k], t.expand(len(segments))
            )
            for k, t in enumerate(plan.timesteps())
        ]
        for name, parameter in self._named.items():
            parameter.copy_(current[name])
        return float(torch.stack(losses).mean())
