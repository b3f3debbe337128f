"""The embedded MLLM's lessons, and its vision tower trained alone: finer than it was, and held to what it told."""

from pathlib import Path

import pytest
import torch
from tiny import randomised
from transformers import InternVLForConditionalGeneration

from squeeze.models.profiles import PROFILES
from squeeze.models.sources import LoadError
from squeeze.plush.language import QUESTIONS
from squeeze.plush.render import MATERIALS
from squeeze.training import mllm
from squeeze.training.loop import fit, read_start
from squeeze.training.mllm import IGNORED, MllmPart, finer, make_mllm

SHIPPED = PROFILES["plush"].folder


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mllm, "CHUNK", 8)


def vision(start: Path = SHIPPED) -> MllmPart:
    return MllmPart(batch=2, start=start, vision_only=True)


def test_lessons_hold_answers_and_strangers():
    part = MllmPart(batch=4)
    lessons = part.lessons(64, 1)
    labelled = lessons["labels"] != IGNORED
    assert labelled.any(1).all(), "a lesson without anything to learn"
    assert torch.equal(lessons["labels"][labelled], lessons["ids"][labelled]), "labels are not the tokens they stand at"
    unknown = part._reader.tokenizer.unk_token_id
    assert (lessons["ids"] == unknown).any(), "unknown words should be strewn in, as visitors write them"
    assert (lessons["belly"] == -1).any(), "hidden attributes must not be asked for"
    assert (lessons["size"] < 0).all(), "how far away a toy was is not to be seen once it is framed"
    toy = lessons["cells"][:, :MATERIALS].sum(1).float().mean((1, 2)) / 255
    assert toy.std() / toy.mean() < 0.4, "they are not framed"


def test_a_vision_tower_is_asked_about_what_is_small_and_a_little_of_the_rest():
    part = vision()
    lessons = part.lessons(64, 1)
    texts = [part._reader.tokenizer.decode(row) for row in lessons["ids"]]

    def asked(about: str) -> float:
        return sum(any(question in text for question in QUESTIONS[about]) for text in texts) / len(texts)

    assert asked("pattern") > 0.8
    assert all(0.2 < asked(about) < 0.5 for about in ("place", "facing", "body"))
    assert 0.05 < asked("then hat") < 0.5


def test_a_vision_tower_trained_alone_speaks_to_the_same_language_model(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(mllm, "HEADS_FIRST", 0)
    part = vision()
    assert [progress.step for progress in fit(part, tmp_path, steps=3)][-1] == 3
    assert mllm.HELD > 0
    before, after = (read_start(InternVLForConditionalGeneration, folder / "mllm") for folder in (SHIPPED, tmp_path))
    same = {name: torch.equal(value, after.state_dict()[name]) for name, value in before.state_dict().items()}
    assert all(kept for name, kept in same.items() if "language_model" in name or "lm_head" in name)
    for learning in ("vision_tower", "multi_modal_projector"):
        assert not all(kept for name, kept in same.items() if learning in name), f"{learning} learnt nothing"


def test_a_resumed_vision_tower_is_held_to_what_it_was_at_first(tmp_path: Path):
    first = vision()
    list(fit(first, tmp_path, steps=3, pause_at=2))
    again = vision(tmp_path)
    pixels = first.lessons(2, 1)["pixels"]
    assert not torch.equal(again.tell(pixels), first.tell(pixels)), "the weights beside the checkpoint are others"
    list(fit(again, tmp_path, steps=3, resume=tmp_path))
    assert torch.equal(again.tell(pixels), first.tell(pixels))


def test_what_a_vision_tower_tells_is_held(monkeypatch):
    """Of its first steps only this and the answers reach it, not what heads guess that know nothing yet."""

    def pulled(held: float, step: int) -> torch.Tensor:
        monkeypatch.setattr(mllm, "HELD", held)
        part = vision()
        for head in part.model.helper.parameters():
            torch.nn.init.normal_(head)  # else they are silent at first anyway
        part.loss(step).backward()
        return part.model.mllm.model.multi_modal_projector.linear_1.weight.grad.clone()

    assert not pulled(0.0, 1).any(), "an odd step tells what was not asked"
    assert pulled(1.0, 1).any()
    assert pulled(0.0, 2).any(), "the answers teach nothing"


@torch.no_grad()
def test_a_finer_tower_sees_what_it_saw():
    coarse = randomised(InternVLForConditionalGeneration(make_mllm(64).config), 0)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    sharp = finer(coarse, 128)
    assert sharp.config.vision_config.image_size == [128, 128] != coarse.config.vision_config.image_size
    doubled = pixels.repeat_interleave(2, 2).repeat_interleave(2, 3)
    seen, told = (one.model.get_image_features(of).pooler_output for one, of in ((coarse, pixels), (sharp, doubled)))
    assert torch.allclose(seen, told, atol=1e-5)
    shifted = sharp.model.get_image_features(doubled.roll(1, -1)).pooler_output
    assert not torch.allclose(seen, shifted, atol=1e-3), "half a pixel is not seen"
    with pytest.raises(LoadError, match="128 px, which cannot become 64"):
        finer(sharp, 64)
