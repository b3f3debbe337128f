"""A preview is a look at x0 and nothing else."""

import numpy as np
import torch
from tiny import CHANNELS

from squeeze.images import to_picture
from squeeze.previews import preview
from squeeze.sampling import unpack


def test_a_preview_is_the_linear_map_of_x0(models):
    x0 = torch.randn(1, 8, 4 * CHANNELS, generator=torch.Generator().manual_seed(0))
    kept = x0.clone()
    picture = preview(models, x0, 4, 8)
    assert (picture.mode, picture.size) == ("RGB", (64, 32)), "height and width are the latent's"
    assert torch.equal(x0, kept), "looking changed what was looked at"
    wanted = to_picture(models.preview(unpack(x0, 4, 8)))
    assert np.array_equal(np.asarray(picture), np.asarray(wanted))
    assert np.asarray(picture).std() > 10, "the preview is all but one colour"


def test_a_preview_by_the_autoencoder(models):
    x0 = torch.randn(1, 8, 4 * CHANNELS, generator=torch.Generator().manual_seed(0))
    picture = preview(models, x0, 4, 8, decoded=True)
    assert picture == to_picture(models.vae.decode(unpack(x0, 4, 8)).detach())
    assert picture != preview(models, x0, 4, 8), "both ways give the same"


def test_a_preview_takes_no_part_in_gradients(models):
    x0 = torch.zeros(1, 8, 4 * CHANNELS, requires_grad=True)
    assert preview(models, x0, 4, 8).size == (64, 32), "x0 must be detached before it becomes a picture"
