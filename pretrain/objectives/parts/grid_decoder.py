"""EAT's decoder (Chen et al. 2024, arXiv:2401.03497): convolutions over a grid of patches, and noise to begin with."""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from ....data.draws import normal
from ....models.beats import init_weights


class NoiseGrid(nn.Module):
    """What stands at the hidden places: normal numbers that are functions of seeds. A module, so that it compiles."""

    def forward(self, seeds: Tensor, places: int, dim: int) -> Tensor:
        """Seeds int64 [batch] to float32 [batch, places, dim]."""
        return normal(seeds, places * dim).unflatten(1, (places, dim))


class GridDecoder(nn.Module):
    """Residual 3 × 3 convolutions over the grid of times and bands, then the teacher's width."""

    def __init__(self, dim: int, layers: int, groups: int, published: bool = False) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(dim, dim, 3, padding=1, groups=groups) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, elementwise_affine=False) for _ in range(layers))
        self.predict = nn.Linear(dim, dim)
        if not published:  # EAT leaves PyTorch's first weights
            self.apply(_init_decoder)

    def forward(self, grid: Tensor) -> Tensor:
        """Grid [batch, times, bands, dim] to predictions of the same shape."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            picture = rearrange(grid, "batch times bands dim -> batch dim times bands")
            filtered = rearrange(convolution(picture), "batch dim times bands -> batch times bands dim")
            grid = grid + functional.gelu(norm(filtered))
        found: Tensor = self.predict(grid)
        return found


def _init_decoder(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
        assert module.bias is not None
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Linear):
        init_weights(module)
