"""Helper heads, thrown away after training: they ask of a model's features what is in the picture and where.

The error of a picture, or of an answer about it, says little about small parts; with these heads a model learns sooner
which way a toy faces (compare REPA, arXiv 2410.06940, whose teacher is another network; ours is the renderer's truth).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ..plush.probe import HEADS, build_loss, probe_loss
from ..plush.render import CELLS, MATERIALS
from ..plush.world import PROPORTIONS
from .data import Chunk


class Helper(nn.Module):
    """Heads over `patches` x `patches` tokens of `width`, and over `features` numbers of the whole picture."""

    def __init__(self, patches: int, width: int, features: int) -> None:
        super().__init__()
        self._patches = patches
        self.norm_tokens = nn.LayerNorm(width)
        self.cells = nn.Linear(width, (MATERIALS + 1) * (CELLS // patches) ** 2)
        self.norm = nn.LayerNorm(features)
        self.heads = nn.ModuleDict({name: nn.Linear(features, count) for name, count in HEADS.items()})
        self.direction = nn.Linear(features, 2)
        self.proportions = nn.Linear(features, len(PROPORTIONS))
        for head in (self.cells, *self.heads.values(), self.direction, self.proportions):
            nn.init.zeros_(head.weight)  # a model that is trained on is not disturbed by what knows nothing yet
            nn.init.zeros_(head.bias)

    def loss(self, tokens: Tensor, whole: Tensor, truth: Chunk) -> Tensor:
        """What the heads get wrong: of the attributes, and of the proportions where they are asked for, from `whole`
        (B, ...), and of what is in each cell of the picture, from `tokens` (B, patches * patches, width); `truth` as
        from `draw_labelled`."""
        guess = self.cells(self.norm_tokens(tokens)).transpose(1, 2).unflatten(2, (self._patches, -1))
        guess = F.pixel_shuffle(guess, CELLS // self._patches).float()
        where = F.binary_cross_entropy_with_logits(guess, truth["cells"].float() / 255)
        flat = self.norm(whole.flatten(1).float())
        told = {name: head(flat) for name, head in self.heads.items()} | {"direction": self.direction(flat)}
        wrong = probe_loss(told, truth)
        if "proportions" in truth:
            wrong = wrong + build_loss({"proportions": self.proportions(flat)}, truth)
        return 0.3 * wrong + 10 * where
