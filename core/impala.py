"""The layers of IMPALA's large torso (Espeholt et al. 2018, arXiv:1802.01561, figure 3), and what later work made of them: more filters,
spectral normalisation, and pooling of the last maps (Clark et al. 2024, arXiv:2411.03820)."""

from __future__ import annotations

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm as normalised

FILTERS = (16, 32, 32)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), 3x3, as many filters out as in.

    spectral_norm: each convolution's weights are divided by their largest singular value (Miyato et al. 2018, arXiv:1802.05957).  A step of
    the power iteration that finds it is made whenever the module is called in training mode, and at no other time.
    """

    def __init__(self, channels: int, spectral_norm: bool = False):
        super().__init__()

        def convolution() -> nn.Module:
            made = nn.Conv2d(channels, channels, 3, padding=1)
            return normalised(made) if spectral_norm else made

        self.relu1, self.conv1 = nn.ReLU(), convolution()
        self.relu2, self.conv2 = nn.ReLU(), convolution()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.relu2(self.conv1(self.relu1(x))))


def impala_layers(
    channels: int, width: int = 1, spectral_norm: bool = False, average_pool: bool = False, max_pool: int = 0
) -> OrderedDict[str, nn.Module]:
    """[B, channels, H, W] -> maps of the last section: average-pooled to one place each, or max-pooled to max_pool x max_pool places.
    width: filters of each section, times this."""
    out: OrderedDict[str, nn.Module] = OrderedDict()
    for i, filters in enumerate((width * filters for filters in FILTERS), 1):
        out[f"conv{i}"] = nn.Conv2d(channels, filters, 3, padding=1)
        out[f"pool{i}"] = nn.MaxPool2d(3, 2, padding=1)
        out[f"block{i}a"], out[f"block{i}b"] = ResidualBlock(filters, spectral_norm), ResidualBlock(filters, spectral_norm)
        channels = filters
    if max_pool:
        out["max_pool"] = nn.AdaptiveMaxPool2d(max_pool)
    out["relu"] = nn.ReLU()
    if average_pool:
        out["average_pool"] = nn.AdaptiveAvgPool2d(1)
    return out
