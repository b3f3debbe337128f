"""Brings a picture's subject to the place and size in which a small vision tower reads it best: a spatial transformer
(Jaderberg et al., arXiv 1506.02025), trained by itself, before the MLLM."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import Tensor, nn

from ..images import moved, to_picture, to_tensor

LEAST, MOST = (-1.0, -1.0, 0.5), (1.0, 1.0, 1.5)  # bounds of squares; beyond the edges a picture is mirrored


class Block(nn.Module):
    """A residual block that halves the side."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width_out, 3, 2, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width_out)
        self.conv2 = nn.Conv2d(width_out, width_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width_out)
        self.skip = nn.Conv2d(width_in, width_out, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.skip(F.avg_pool2d(x, 2)))


class Framing(ModelMixin, ConfigMixin):
    """Pictures (B, 3, size, size) in [-1, 1] to the squares of them that are to be seen (B, 3): the x and y of the
    centre, to the right and down, in [-1, 1], and the side as a share of the picture's; in evaluation mode between
    LEAST and MOST. Every `fold` x `fold` pixels enter as one of more channels."""

    @register_to_config
    def __init__(self, size: int = 128, fold: int = 4, widths: tuple[int, ...] = (32, 48, 96, 128)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3 * fold**2, widths[0], 3, 1, 1)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        side = size // fold // 2 ** (len(widths) - 1)
        self.neck = nn.Linear(widths[-1] * side * side, 128)
        self.square = nn.Linear(128, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        """The squares (B, 3) of pictures (B, 3, size, size)."""
        coarse = self.blocks(F.relu(self.stem(F.pixel_unshuffle(pixels, self.config["fold"]))))
        told = F.relu(self.neck(coarse.flatten(1)))
        with torch.autocast(pixels.device.type, enabled=False):  # bfloat16 knows no third of a pixel
            centre, side = self.square(told.float()).split([2, 1], 1)
        squares = torch.cat([centre, (side / 4).exp()], 1)
        return squares if self.training else squares.clamp(squares.new_tensor(LEAST), squares.new_tensor(MOST))

    def framed(self, pixels: Tensor) -> Tensor:
        """What is to be seen of pictures (B, 3, H, W) in [-1, 1], as squares whatever their shape is: (B, 3, size,
        size)."""
        size = self.config["size"]
        with torch.autocast(pixels.device.type, enabled=False):  # as `view` sees them
            squares = self(F.interpolate(pixels, (size, size), mode="bicubic", antialias=True))
        return resized_crop(pixels, squares, size)

    @torch.inference_mode()
    def view(self, picture: Image.Image) -> Image.Image:
        """The same of a picture; one that is larger is sharper for it where the square is a part of it."""
        size = self.config["size"]
        square = self(to_tensor(picture.resize((size, size), Image.Resampling.BICUBIC)))
        whole = round(size / float(square[0, 2]))
        finer = picture.resize((whole, whole), Image.Resampling.BICUBIC)
        return to_picture(resized_crop(to_tensor(finer), square, size))


def resized_crop(pixels: Tensor, squares: Tensor, size: int | None = None) -> Tensor:
    """The `squares` (B, 3) of pictures (B, C, H, W), see Framing: (B, C, size, size), or as large as they came."""
    centre, side = squares.float().split([2, 1], 1)
    theta = torch.cat([side[..., None] * torch.eye(2, device=side.device), centre[..., None]], -1)
    return moved(pixels, theta, size)
