"""The helper heads: each token answers for its own cells, and what cannot be seen is not asked."""

import pytest
import torch
import torch.nn.functional as F

from squeeze.plush.render import CELLS, MATERIALS
from squeeze.training.data import draw_labelled
from squeeze.training.helpers import Helper

SIDE = CELLS // 4  # of a token, in cells


def knowing(truth: dict[str, torch.Tensor]) -> tuple[Helper, torch.Tensor]:
    """A helper whose tokens are handed the logits of exactly the cells that they cover."""
    cells = truth["cells"].float().div(255).clamp(0.01, 0.99).logit()
    tokens = F.pixel_unshuffle(cells, SIDE).flatten(2).transpose(1, 2)
    helper = Helper(4, (MATERIALS + 1) * SIDE**2, 16 * tokens.shape[-1])
    torch.nn.init.eye_(helper.cells.weight)
    for head in (*helper.heads.values(), helper.direction, helper.proportions):  # which know nothing at first
        torch.nn.init.normal_(head.weight, std=0.02, generator=torch.Generator().manual_seed(1))
    return helper, tokens


def test_a_token_answers_for_its_own_cells():
    truth = draw_labelled(8, 0, 64)
    helper, tokens = knowing(truth)
    right = helper.loss(tokens, torch.zeros_like(tokens), truth)
    for wrong in (tokens.flip(1), tokens.roll(1, 0)):  # tokens of other places, tokens of another picture
        assert right < helper.loss(wrong, torch.zeros_like(tokens), truth), "the cells are not where the tokens are"


def test_proportions_are_asked_where_they_are_told():
    truth = draw_labelled(8, 2, 64)
    helper, tokens = knowing(truth)
    for told in (truth, {name: value for name, value in truth.items() if name != "proportions"}):
        helper.zero_grad()
        helper.loss(tokens, torch.randn(tokens.shape, generator=torch.Generator().manual_seed(0)), told).backward()
        assert (helper.proportions.weight.grad is not None) == ("proportions" in told)


@pytest.mark.parametrize("name", ["tail", "azimuth"])
def test_attributes_are_learnt_where_they_can_be_seen(name: str):
    truth = draw_labelled(8, 1, 64)
    helper, tokens = knowing(truth)
    if name != "azimuth":
        truth[name] = torch.where(torch.arange(8) < 4, truth[name].clamp_min(0), -1)
    whole = torch.randn(8, 16, tokens.shape[-1], generator=torch.Generator().manual_seed(0), requires_grad=True)
    helper.loss(tokens, whole, truth).backward()
    assert whole.grad.abs().sum((1, 2)).min() > 0, "a picture whose other attributes show teaches nothing"
    if name != "azimuth":
        head = helper.heads[name]
        head.zero_grad()
        unseen = truth | {name: torch.full((8,), -1)}
        helper.loss(tokens, whole.detach(), unseen).backward()
        assert head.weight.grad.abs().max() == 0, f"a {name} that nobody sees is asked for"
