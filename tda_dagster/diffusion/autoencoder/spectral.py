"""The reference study's autoencoder: a small convolutional codec of magnitude spectra.

It stands where a Stable Audio pipeline has its `AutoencoderOobleck`, with the same interface. An
Oobleck decoder has to learn to draw waveforms, which takes a GPU for days; this one learns
magnitudes only, in minutes on a CPU, and leaves the phases to the Griffin-Lim algorithm.
"""

import math
from functools import cached_property

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_oobleck import (
    AutoencoderOobleckOutput,
    OobleckDecoderOutput,
    OobleckDiagonalGaussianDistribution,
)
from torch import Tensor, nn

FLOOR = 1e-3
"""Magnitudes are relative to a full-scale sinusoid; those far below the floor (-60 dB) are lost."""


class ResidualBlock(nn.Module):
    """Two convolutions over time around a skip connection."""

    def __init__(self, width: int, kernel_size: int = 3) -> None:
        super().__init__()
        padding = kernel_size // 2
        self.layers = nn.Sequential(
            nn.GELU(),
            nn.Conv1d(width, width, kernel_size, padding=padding),
            nn.GELU(),
            nn.Conv1d(width, width, 1),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = hidden + self.layers(hidden)
        return out


class SpectralAutoencoder(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """Log-magnitude spectra, `stack` frames at a time, as `latent_channels` numbers.

    Latents have zero mean and unit variance over the music it was trained on. Decoding is
    deterministic: Griffin-Lim starts from fixed phases.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sampling_rate: int = 16_000,
        audio_channels: int = 1,
        fft_size: int = 1024,
        frame_hop: int = 256,
        stack: int = 3,
        latent_channels: int = 32,
        width: int = 256,
        phase_iterations: int = 60,
    ) -> None:
        super().__init__()
        bins = fft_size // 2 + 1
        self.hop_length = frame_hop * stack
        self.sampling_rate = sampling_rate
        self.encoder = nn.Sequential(
            nn.Conv1d(bins, width, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(width, width, stack, stride=stack),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.Conv1d(width, latent_channels, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(latent_channels, width, 3, padding=1),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.ConvTranspose1d(width, width, stack, stride=stack),
            ResidualBlock(width, 5),
            nn.GELU(),
            nn.Conv1d(width, bins, 3, padding=1),
        )
        self.register_buffer("latent_mean", torch.zeros(latent_channels, 1))
        self.register_buffer("latent_std", torch.ones(latent_channels, 1))
        self.register_buffer("spectrum_mean", torch.zeros(bins, 1))

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderOobleckOutput:
        """The distribution of the latents [n, C, T] of audio [n, 1, samples]."""
        mean = (self.bottleneck(self.log_magnitudes(x)) - self.latent_mean) / self.latent_std
        # Very small deviations: sampling from the posterior is as good as taking its mode.
        posterior = OobleckDiagonalGaussianDistribution(
            torch.cat([mean, torch.full_like(mean, -7.0)], dim=1)
        )
        return AutoencoderOobleckOutput(latent_dist=posterior)

    def decode(self, z: Tensor, return_dict: bool = True) -> OobleckDecoderOutput:
        """Audio [n, 1, samples] of latents [n, C, T]; samples = T · hop_length."""
        spectrum = self.spectrum(z * self.latent_std + self.latent_mean)
        magnitudes = torch.clamp(torch.exp(spectrum) - FLOOR, min=0.0) * self._full_scale
        return OobleckDecoderOutput(sample=self._griffin_lim(magnitudes).unsqueeze(1))

    def log_magnitudes(self, audio: Tensor) -> Tensor:
        """log(|STFT| + FLOOR) of audio [n, 1, samples]: [n, bins, stack · T], samples padded with
        silence to whole latent frames."""
        missing = -audio.shape[-1] % self.hop_length
        samples = nn.functional.pad(audio[:, 0], (0, missing))
        spectrum = self._stft(samples).abs()[..., :-1] / self._full_scale
        return torch.log(spectrum + FLOOR)

    def bottleneck(self, log_magnitudes: Tensor) -> Tensor:
        """Latents before normalisation."""
        latents: Tensor = self.encoder(log_magnitudes - self.spectrum_mean)
        return latents

    def spectrum(self, latents: Tensor) -> Tensor:
        """Log-magnitudes of latents before normalisation: the inverse of `bottleneck`."""
        log_magnitudes: Tensor = self.decoder(latents) + self.spectrum_mean
        return log_magnitudes

    @cached_property
    def _full_scale(self) -> float:
        return float(torch.hann_window(self.config.fft_size).sum()) / 2

    def _stft(self, samples: Tensor) -> Tensor:
        return torch.stft(
            samples,
            self.config.fft_size,
            self.config.frame_hop,
            window=torch.hann_window(self.config.fft_size, device=samples.device),
            pad_mode="constant",
            return_complex=True,
        )

    def _istft(self, spectrum: Tensor) -> Tensor:
        return torch.istft(
            spectrum,
            self.config.fft_size,
            self.config.frame_hop,
            window=torch.hann_window(self.config.fft_size, device=spectrum.device),
            length=(spectrum.shape[-1] - 1) * self.config.frame_hop,
        )

    def _griffin_lim(self, magnitudes: Tensor) -> Tensor:
        """Audio [n, samples] whose spectrum has the given magnitudes [n, bins, frames].

        Fast Griffin-Lim (Perraudin et al., WASPAA 2013, with momentum 0.99).
        """
        magnitudes = torch.cat([magnitudes, magnitudes[..., -1:]], dim=-1)
        start = torch.rand(
            magnitudes.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float32
        ).to(magnitudes.device)
        angles = (2 * math.pi * start).expand_as(magnitudes)
        phases = torch.polar(torch.ones_like(magnitudes), angles)
        previous = torch.zeros_like(phases)
        for _ in range(self.config.phase_iterations):
            consistent = self._stft(self._istft(magnitudes * phases))
            ahead = consistent - (0.99 / 1.99) * previous
            previous = consistent
            phases = ahead / (ahead.abs() + 1e-12)
        return self._istft(magnitudes * phases)
