"""What the phases train: deeper transformers that begin where shallower ones ended, and errors weighed by place."""

from pathlib import Path

import pytest
import torch
from tiny import make_framing, make_transformer

from squeeze.images import to_picture
from squeeze.models.sources import LoadError
from squeeze.plush.render import MATERIALS, render
from squeeze.plush.world import draw_scenes, draw_toys
from squeeze.sampling import pack, unpack
from squeeze.training.data import draw_cases, to_bytes
from squeeze.training.objective import flow_loss
from squeeze.training.phases import DEEPEST, SUBJECT, deepen, subject_weights
from squeeze.training.run import make_part


def test_the_subject_counts_more_than_the_place():
    toys, scenes = draw_toys(4, torch.Generator().manual_seed(0)), draw_scenes(4, torch.Generator().manual_seed(0))
    drawn = render(toys, scenes, 64)
    seen = drawn.cells[:, :MATERIALS].sum(1)
    weights = unpack(subject_weights(to_bytes(drawn.cells), 8, 16), 8, 8)
    assert weights.shape == (4, 16, 8, 8)
    share = seen.unflatten(1, (8, 2)).unflatten(3, (8, 2)).mean((2, 4))
    assert (weights[:, 5] - 1 - (SUBJECT - 1) * share).abs().max() < 0.02, "weights lie elsewhere than the toy"
    assert weights[share.unsqueeze(1).expand_as(weights) == 0].eq(1).all()

    x0, noise = torch.zeros(4, 16, 64), torch.zeros(4, 16, 64)
    wrong = pack(share.unsqueeze(1).expand(-1, 16, -1, -1))
    plain, weighted = flow_loss(wrong, x0, noise), flow_loss(wrong, x0, noise, pack(weights))
    assert weighted > 1.5 * plain, "what is wrong on the toy counts no more than before"
    torch.testing.assert_close(flow_loss(wrong, x0, noise, 2 * torch.ones_like(x0)), plain)


def test_a_deeper_transformer_draws_the_same_at_first_and_learns_with_all_of_it():
    given = make_transformer()
    deeper = deepen(given, 5)
    assert len(deeper.single_transformer_blocks) == 5
    generator = torch.Generator().manual_seed(0)
    told = {
        "hidden_states": torch.randn(2, 4, given.config.in_channels, generator=generator),
        "encoder_hidden_states": torch.randn(2, 3, given.config.joint_attention_dim, generator=generator),
        "pooled_projections": torch.randn(2, given.config.pooled_projection_dim, generator=generator),
        "timestep": torch.tensor([0.2, 0.9]), "img_ids": torch.zeros(4, 3), "txt_ids": torch.zeros(3, 3),
        "return_dict": False,
    }  # fmt: skip
    out = deeper(**told)[0]
    assert torch.equal(out, given(**told)[0])
    out.square().mean().backward()
    grads = [block.norm.linear.weight.grad for block in deeper.single_transformer_blocks]
    gates = [grad[-given.inner_dim :].abs().max() for grad in grads]
    assert min(gates) > 0, "a block that never learns"
    for count in (1, DEEPEST + 1):
        with pytest.raises(LoadError, match=f"has 2 single blocks, which cannot become {count}. Ask"):
            deepen(given, count)


@torch.inference_mode()
def test_phases_are_shown_what_a_generation_shows(tmp_path: Path):
    """As long as the folder of a training has a framing of its own, that one."""
    make_framing().save_pretrained(tmp_path / "framing")
    part = make_part("phase1", tmp_path, None, "cpu", 0)
    assert part._mllm.framing.config["size"] == 32
    assert make_part("phase1", tmp_path / "new", None, "cpu", 0)._mllm.framing.config["size"] == 128
    case = draw_cases(4, 3)
    pictures = [to_picture(one[None] * 2 - 1) for one in render(case.toys, case.references, 128).pixels]
    with torch.autocast("cpu", torch.bfloat16):  # as in a training
        told = part.encode(4, 3)["vision"].float()
    shown = torch.cat([part._mllm.encode([part._mllm.view(picture)], "a toy").vision for picture in pictures])
    assert (told - shown).norm() < 0.3 * shown.norm()
    part._mllm.framing = None
    assert (part.encode(4, 3)["vision"].float() - shown).norm() > 0.5 * shown.norm()
