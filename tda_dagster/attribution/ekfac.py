"""Fisher information factored by layers: EK-FAC (George et al., arXiv:1806.03884).

What belongs here: what enters and what pulls at linear maps, example by example, and the factors
that follow from it. What they are used for is a method's business.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tda_dagster.attribution.gradients import draw_rows
from tda_dagster.diffusion.latents import LatentSegments
from tda_dagster.diffusion.model import MusicModel
from tda_dagster.diffusion.noise import NoisePlan
from tda_dagster.diffusion.objective import Objective, denoising_loss


@dataclass(frozen=True)
class LayerGradient:
    """The gradients of a linear map as the products that they are made of: `inputs` float32
    [rows, tokens, in] (with a one at the end where the map has a bias that counts), `outputs` the
    gradients of each row's loss at the map's output, [rows, tokens, out]."""

    inputs: Tensor
    outputs: Tensor

    @property
    def weight(self) -> Tensor:
        """Per row the gradient in the weights, [rows, out, in]: Σ over tokens of output ⊗ input."""
        return torch.einsum("rto,rti->roi", self.outputs, self.inputs)


@dataclass(frozen=True)
class KroneckerFactors:
    """The Fisher information of one linear map as (U_S ⊗ U_A) Λ (U_S ⊗ U_A)ᵀ: orthonormal `inputs`
    U_A [in, in] and `outputs` U_S [out, out], `eigenvalues` Λ [out, in], all float64."""

    inputs: Tensor
    outputs: Tensor
    eigenvalues: Tensor

    def inverse(self, gradient: Tensor, damping: float) -> Tensor:
        """(F + λI)⁻¹ applied to [..., out, in], λ being `damping` times the mean eigenvalue."""
        floor = damping * self.eigenvalues.mean()
        rotated = self.outputs.T @ gradient.double() @ self.inputs
        return self.outputs @ (rotated / (self.eigenvalues + floor)) @ self.inputs.T


def kronecker_factors(
    batches: Callable[[], Iterable[Mapping[str, LayerGradient]]],
) -> dict[str, KroneckerFactors]:
    """The factors of every layer from its gradients, which are gone through twice.

    U_A and U_S are the eigenvectors of E[a·aᵀ] and E[s·sᵀ], with a what enters and s the gradient
    at the output of a token (K-FAC, arXiv:1503.05671, section 3); Λ is the variance that examples'
    gradients really have along each pair of them (arXiv:1806.03884, eq. 10), so that among all
    matrices of these eigenvectors it is the nearest to the empirical Fisher information.
    """
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for batch in batches():
        for name, gradient in batch.items():
            for sums, vectors in ((inputs, gradient.inputs), (outputs, gradient.outputs)):
                flat = vectors.flatten(0, 1).double()
                sums[name] = sums.get(name, 0) + flat.T @ flat
    bases = {
        name: (torch.linalg.eigh(inputs[name])[1], torch.linalg.eigh(outputs[name])[1])
        for name in inputs
    }
    variances: dict[str, Tensor] = {}
    rows = 0
    for batch in batches():
        for name, gradient in batch.items():
            entering, leaving = bases[name]
            rotated = leaving.T @ gradient.weight.double() @ entering
            variances[name] = variances.get(name, 0) + rotated.square().sum(dim=0)
        rows += len(next(iter(batch.values())).inputs)
    return {name: KroneckerFactors(*bases[name], variances[name] / rows) for name in bases}


def layer_gradients(
    model: MusicModel,
    names: Sequence[str],
    segments: LatentSegments,
    plan: NoisePlan,
    *,
    mask_padding: bool,
    batch_size: int,
    objective: Objective = denoising_loss,
) -> Iterator[dict[str, LayerGradient]]:
    """The gradients of every (segment, draw)'s objective in the linear maps whose weights are among
    `names`, in chunks of at most `batch_size` rows, draws running fastest; on the model's device.

    A map's name is its weight's without `.weight`. Other weights (norms, convolutions) are left
    out: what pulls at them is no such product.
    """
    modules = dict(model.denoiser.named_modules())
    layers = {
        name: (modules[name], f"{name}.bias" in names) for name in linear_layers(model, names)
    }
    for rows in draw_rows(model, segments, plan, batch_size):
        with torch.enable_grad(), _watched(layers) as (entering, probes):
            values = objective(
                model,
                rows.latents,
                rows.conditioning,
                rows.noise,
                rows.timesteps,
                rows.mask if mask_padding else None,
            )
            # Rows do not meet inside the model, so the sum's gradient at a row is the row's own.
            pulls = torch.autograd.grad(values.sum(), [probes[name] for name in layers])
        count = len(rows.latents)
        yield {
            name: LayerGradient(entering[name].reshape(count, -1, entering[name].shape[-1]), pull)
            for name, pull in zip(
                layers, (p.reshape(count, -1, p.shape[-1]) for p in pulls), strict=True
            )
        }


def linear_layers(model: MusicModel, names: Sequence[str]) -> list[str]:
    """The linear maps whose weights are among `names`, by module name."""
    return [
        name
        for name, module in model.denoiser.named_modules()
        if isinstance(module, nn.Linear) and f"{name}.weight" in names
    ]


@contextmanager
def _watched(
    layers: Mapping[str, tuple[nn.Module, bool]],
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Inside the block, forward passes leave what entered each layer, and a zero that was added to
    its output: the gradient there is the output's."""
    entering: dict[str, Tensor] = {}
    probes: dict[str, Tensor] = {}

    def watch(name: str, biased: bool):  # type: ignore[no-untyped-def]  # torch's hooks have no type
        def hook(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            vectors = arguments[0].detach()
            ones = vectors.new_ones((*vectors.shape[:-1], 1))
            entering[name] = torch.cat([vectors, ones], dim=-1) if biased else vectors
            probes[name] = torch.zeros_like(output, requires_grad=True)
            return output + probes[name]

        return hook

    hooks = [
        module.register_forward_hook(watch(name, biased))
        for name, (module, biased) in layers.items()
    ]
    try:
        yield entering, probes
    finally:
        for hook in hooks:
            hook.remove()
