"""Scale and shift around the autoencoder, and the preview map."""

import pytest
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from tiny import CHANNELS, furthest, make_vae

from squeeze.models.parts import read_map
from squeeze.models.profiles import PROFILES
from squeeze.models.vae import PreviewMap, Vae, drawn, fit_preview, fitted_preview
from squeeze.training.data import draw_labelled, to_unit
from squeeze.training.preview import foreseen


def uniform(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def vae():
    return Vae(make_vae())


@torch.inference_mode()
def test_encode_is_the_mode_shifted_then_scaled(vae):
    pixels = uniform(2, 3, 32, 48)
    direct = vae.model.encode(pixels).latent_dist.mode()
    latent = vae.encode(pixels)
    assert latent.shape == (2, CHANNELS, 4, 6)
    torch.testing.assert_close(latent, (direct - 0.3) * 0.6, msg=lambda m: f"(latent - shift) * scale: {m}")
    assert torch.equal(vae.encode(pixels), latent), "nothing may be sampled: the same reference, the same tokens"


@torch.inference_mode()
def test_decode_undoes_scale_and_shift(vae):
    direct = 0.2 * uniform(1, CHANNELS, 4, 6, seed=1)
    wanted = vae.model.decode(direct).sample.clamp(-1, 1)
    got = vae.decode((direct - 0.3) * 0.6)
    assert got.shape == (1, 3, 32, 48)
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5, msg=lambda m: f"latent / scale + shift: {m}")


@torch.inference_mode()
def test_decoded_pictures_are_in_range_and_float32(vae):
    got = vae.decode(100 * uniform(1, CHANNELS, 4, 4))
    assert got.abs().max() <= 1
    assert got.dtype == torch.float32


def test_factor_and_channels_come_from_the_model(vae):
    assert (vae.factor, vae.channels) == (8, CHANNELS)


def known_map():
    """Weights so small that nothing is clipped, and not alike in any direction."""
    return PreviewMap(0.05 * uniform(3 * 4, CHANNELS, 3, 3, seed=2), 0.05 * uniform(12, seed=3))


def test_the_fit_recovers_a_known_linear_map():
    known, latents = known_map(), uniform(64, CHANNELS, 6, 5, seed=4)
    fitted = fit_preview(latents, known(latents), patch=2)
    assert furthest(fitted.weight, known.weight) < 2e-3, "the least squares are set up for another order of values"
    assert furthest(fitted.bias, known.bias) < 2e-3
    fresh = uniform(2, CHANNELS, 4, 7, seed=5)
    assert furthest(fitted(fresh), known(fresh)) < 1e-2
    assert known(fresh).std() > 0.1, "the known map is all but constant: the test tests nothing"


def test_the_fit_sees_large_pictures_at_the_preview_size():
    known, latents = known_map(), uniform(64, CHANNELS, 6, 5, seed=4)
    large = F.interpolate(known(latents), scale_factor=4, mode="nearest")
    assert furthest(fit_preview(latents, large, patch=2).weight, known.weight) < 2e-3


def test_a_network_beside_the_map_adds_nothing_at_first_and_comes_back_from_its_file():
    known, latents = known_map(), uniform(2, CHANNELS, 6, 5, seed=4)
    beside = PreviewMap(known.weight, known.bias, hidden=8)
    assert torch.equal(beside(latents), known(latents))
    torch.nn.init.normal_(beside.network[-1].weight, generator=torch.Generator().manual_seed(1))
    assert furthest(beside(latents), known(latents)) > 0.1
    for made in (known, beside):
        assert torch.equal(PreviewMap.of(made.state_dict())(latents), made(latents))
    state = beside.state_dict()
    del state["network.2.weight"]
    with pytest.raises(RuntimeError, match=r"network\.2\.weight"):
        PreviewMap.of(state)


def test_pictures_to_fit_to_have_fields_edges_and_grain():
    pixels = drawn(4, 64, torch.Generator().manual_seed(1))
    assert pixels.shape == (4, 3, 64, 64)
    assert pixels.abs().max() <= 1
    smooth = F.avg_pool2d(pixels, 4)
    step = (smooth[..., 1:] - smooth[..., :-1]).abs().amax((1, 2, 3))
    assert (step > 0.3).all(), "no edge in some picture"
    assert 0.01 < (pixels - F.interpolate(smooth, scale_factor=4)).abs().median() < 0.1, "grain"
    assert furthest(pixels[0], pixels[1]) > 0.5


def test_a_fitted_preview_follows_the_decoder():
    """The shipped autoencoder, on pictures it was not fitted to: far nearer than each picture's mean colour."""
    vae = Vae(AutoencoderKL.from_pretrained(PROFILES["plush"].folder / "vae", torch_dtype=torch.float32).eval())
    preview = fitted_preview(vae, pictures=8, side=64)
    fresh = drawn(4, 64, torch.Generator().manual_seed(9))
    with torch.inference_mode():
        seen = preview(vae.encode(fresh))
    error, spread = (seen - fresh).square().mean(), (fresh - fresh.mean((2, 3), keepdim=True)).square().mean()
    assert seen.shape == fresh.shape
    assert error < 0.25 * spread, f"error {error:.3f}, spread {spread:.3f}"


def test_the_shipped_network_sees_more_of_what_is_foreseen_than_its_linear_map():
    """Of what the decoder shows of held-out renders, in the middle of their way and undisturbed."""
    folder = PROFILES["plush"].folder / "vae"
    vae, preview = Vae(AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32).eval()), read_map(folder)
    pixels = to_unit(draw_labelled(8, 99, 128, held_out=True)["pixels"])
    with torch.inference_mode():
        clean = vae.encode(pixels)
        for latents in (clean, foreseen(clean, torch.Generator().manual_seed(0))):
            shown, linear = vae.decode(latents), PreviewMap(preview.weight, preview.bias)
            errors = [F.mse_loss(seen(latents), shown) for seen in (linear, preview)]
            assert errors[0] > 1.8 * errors[1], f"squared errors of linear map and network: {errors}"


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_a_preview_of_anything_is_a_picture(models, scale):
    picture = models.preview(scale * uniform(1, CHANNELS, 4, 8, seed=6))
    assert picture.shape == (1, 3, 32, 64), "each latent position becomes a patch of 8 x 8 pixels"
    assert picture.abs().max() <= 1
