"""Pretrains the embedded MLLM on captions of pictures, questions about them, and questions about what a prompt asks
for."""

from __future__ import annotations

import copy
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from ..models.mllm import IGNORED, Mllm, Template
from ..models.sources import LoadError
from ..plush.language import (
    SPELLINGS,
    UNKNOWN,
    Question,
    ask_picture,
    ask_request,
    describe,
    vocabulary,
)
from ..plush.render import near_squares, render
from .data import IDENTITY, SCENE, Chunk, Pool, chunk_seed, draw_cases, grainy, parts_of, to_bytes, to_unit, truth
from .framing import jittered
from .helpers import Helper
from .loop import Schedule, read_start, save_bf16
from .parts import CHUNK, tile

PAD, IMAGE = "[PAD]", "<IMG_CONTEXT>"
LONGEST = 128  # tokens of prompt and questions together; longer ones lose their last question
KERNEL = "model.vision_tower.embeddings.patch_embeddings.projection.weight"
SMALL = ("pattern", "ears", "tail")  # what a vision tower trained alone is always asked about
ASKED = 5  # questions about a picture then
HELD = 1.0  # weight of how far what it tells has gone, in variances
HEADS_FIRST = 400  # steps in which only the helper heads learn from what they ask about, which know nothing yet


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the world's vocabulary: lower case, British spelling, punctuation apart."""
    special = [PAD, UNKNOWN, "<img>", "</img>", IMAGE]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *vocabulary()])}, unk_token=UNKNOWN)
    )
    respell = [normalizers.Replace(Regex(rf"\b{wrong}\b"), right) for wrong, right in SPELLINGS.items()]
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), *respell])
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=special[2:],
        clean_up_tokenization_spaces=False,
    )


def make_mllm(size: int = 128) -> Mllm:
    """An untrained InternVL of the embedded model's size; a picture of any `size` becomes 16 tokens of width 128."""
    tokenizer = make_tokenizer()
    patch = size // 8
    vision = InternVLVisionConfig(
        hidden_size=128, num_hidden_layers=5, num_attention_heads=4, intermediate_size=384, image_size=size,
        patch_size=patch, norm_type="layer_norm", use_qk_norm=True, layer_scale_init_value=1.0,
    )  # fmt: skip
    text = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
        intermediate_size=352, max_position_embeddings=512, tie_word_embeddings=True, pad_token_id=0,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    config = InternVLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=16,
        tie_word_embeddings=True,
    )
    processor = GotOcr2ImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
        crop_to_patches=False,
        resample=Image.Resampling.BICUBIC,
    )
    return Mllm(InternVLForConditionalGeneration(config), tokenizer, processor, Template())


def finer(model: InternVLForConditionalGeneration, size: int) -> InternVLForConditionalGeneration:
    """The given model for pictures of `size` px a side, in as many patches: at first it sees what it saw of them
    shrunk to its own size, each number the mean of a square. Raises LoadError where squares would not be whole."""
    config, state = copy.deepcopy(model.config), model.state_dict()
    vision = config.vision_config
    times, over = divmod(size, vision.image_size[0])
    if over:
        raise LoadError(
            f"The MLLM reads pictures of {vision.image_size[0]} px, which cannot become {size}. Name another folder "
            f"with --resume, or leave it out to start afresh."
        )
    vision.image_size, vision.patch_size = [size] * 2, [side * times for side in vision.patch_size]
    kernel = state[KERNEL].repeat_interleave(times, 2).repeat_interleave(times, 3) / times**2
    sharper = InternVLForConditionalGeneration(config)
    sharper.load_state_dict(state | {KERNEL: kernel})
    return sharper


class _Taught(nn.Module):
    """The MLLM with a helper on its vision tower, which teaches it to see before it can talk. `earlier` is what its
    vision tower and projector were before they were trained alone, as buffers, which a checkpoint brings back."""

    def __init__(self, model: InternVLForConditionalGeneration, vision_only: bool) -> None:
        super().__init__()
        self.mllm = model
        self.earlier = None
        if vision_only:
            self.earlier = copy.deepcopy(model.model)
            self.earlier.language_model = model.model.language_model.requires_grad_(False)
            for part in (self.earlier.vision_tower, self.earlier.multi_modal_projector):
                _as_buffers(part)
        vision = model.config.vision_config
        patches = vision.image_size[0] // vision.patch_size[0]
        features = model.config.image_seq_length * model.config.text_config.hidden_size
        self.helper = Helper(patches, vision.hidden_size, features)


def _as_buffers(model: nn.Module) -> None:
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            module.register_buffer(name, weight.detach())


class MllmPart:
    """A small InternVL. Each sample is one picture with a prompt and questions, or with a caption. With `vision_only`
    its language model stays as it is, and what the vision tower tells it is held near what it told before, so that what
    was trained on its states stays nearly right."""

    def __init__(
        self,
        size: int = 128,
        device: str = "cpu",
        seed: int = 0,
        start: Path | None = None,
        batch: int | None = None,
        rate: float | None = None,
        vision_only: bool = False,
    ) -> None:
        torch.manual_seed(seed)
        self.name = "vision" if vision_only else "mllm"
        self.schedule = Schedule(batch=batch or 32, rate=rate or 1.5e-3, warmup=200, ema=0.998, decay=0.02)
        self._reader = make_mllm(size)
        full = InternVLForConditionalGeneration(self._reader.config)
        if start is not None:
            full = finer(read_start(InternVLForConditionalGeneration, start / "mllm"), size)
        full.set_attn_implementation("eager")  # twice as fast as SDPA's backward on a CPU at this size
        self.model = _Taught(full, vision_only).to(device)
        self._device, self._size, self._seed = device, size, seed
        self._before = self._reader.picture_ids()
        self._pool = Pool(self._make, batch=self.schedule.batch, chunk=CHUNK, window=16, reuse=6, seed=seed)

    def _make(self, index: int) -> Chunk:
        return self.lessons(CHUNK, chunk_seed(3, self._seed, index))

    def lessons(self, count: int, seed: int, held_out: bool = False) -> Chunk:
        """Pictures, framed more or less well, with token ids and labels (answers; captions whole) and, for the helper
        heads, the truth of each picture."""
        case = draw_cases(count, seed, held_out)
        toys, scenes = case.toys.to(self._device), case.references.to(self._device)
        squares = jittered(near_squares(scenes), torch.Generator().manual_seed(chunk_seed(11, seed, 0)))
        drawn = parts_of(render(toys, scenes, self._size), squares)
        told = {name: value.cpu() for name, value in truth(toys, scenes, drawn).items()}
        told["size"] = torch.full_like(told["size"], -1)  # how far away it was is not to be seen
        rng = random.Random(seed)
        ids = torch.zeros(count, LONGEST, dtype=torch.int64)
        labels = torch.full((count, LONGEST), IGNORED)
        columns = {name: told[name].tolist() for name in (*SCENE, "facing", *IDENTITY)}
        for row, wish in enumerate(case.wishes):
            known = {name: column[row] for name, column in columns.items() if column[row] >= 0}
            if rng.random() < 0.1:
                text = self._reader.tokenizer.encode(describe(known, rng))[:LONGEST]
                ids[row, : len(text)] = torch.tensor(text)
                labels[row, : len(text)] = torch.tensor(text)
                continue
            asked = [*ask_request(wish, rng)[:2], *ask_picture(known, rng)]
            rng.shuffle(asked)
            if self.model.earlier is not None:
                asked = sorted(asked, key=lambda one: one.about not in SMALL)[:ASKED]
                rng.shuffle(asked)
            text = self._reader.tokenizer.encode(_with_strangers(wish.text, rng) + " .")
            place = len(text)
            for question in asked:
                words, answer = self._tokens(question)
                if place + len(words) + len(answer) > LONGEST:
                    break
                labels[row, place + len(words) : place + len(words) + len(answer)] = torch.tensor(answer)
                text += words + answer
                place = len(text)
            ids[row, : len(text)] = torch.tensor(text)
        lessons = {"pixels": to_bytes(drawn.pixels).cpu(), "ids": ids, "labels": labels, **told}
        return lessons if self.model.earlier is None else lessons | {"held": self.tell(lessons["pixels"])}

    @torch.no_grad()
    def tell(self, pixels: Tensor) -> Tensor:
        """What the vision tower told of pictures, uint8, before it was trained alone: (B, L_img, D)."""
        parts = [self.model.earlier.get_image_features(to_unit(part.to(self._device))) for part in pixels.split(64)]
        return torch.cat([part.pooler_output for part in parts]).cpu()

    def _tokens(self, question: Question) -> tuple[list[int], list[int]]:
        encode = self._reader.tokenizer.encode
        return encode(question.text), encode(question.answer + " .")

    def loss(self, step: int) -> Tensor:
        """Every fourth step it talks: next-token cross-entropy on answers and captions, beside the helper heads' loss.
        Else it only looks, at a third of the cost: seeing takes longer to learn than talking. With `vision_only` it
        talks every other step, about less, since nothing else tells what the language model makes of what is seen.
        """
        batch = {key: value.to(self._device) for key, value in self._pool.batch(step).items()}
        seen = self.model.mllm.model.get_image_features(grainy(batch["pixels"], step))
        tokens, told = seen.last_hidden_state[:, 1:], seen.pooler_output
        if self.model.earlier is None:
            loss, pause = self.model.helper.loss(tokens, told, batch), 4
        else:
            asked = (tokens.detach(), told.detach()) if step < HEADS_FIRST else (tokens, told)
            held = F.mse_loss(told.float(), batch["held"]) / batch["held"].var()
            loss, pause = self.model.helper.loss(*asked, batch) + HELD * held, 2
        if step % pause:
            return loss
        logits, labels = self.talk(told, batch)
        return loss + F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)

    def talk(self, vision: Tensor, batch: Chunk) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) that predict labels (B, T), T being the batch's longest text, after a picture of features
        (B, L_img, D)."""
        inner, longest = self.model.mllm.model, int((batch["ids"] > 0).sum(1).max())
        before = torch.tensor(self._before, device=self._device)
        ids = torch.cat([before.expand(len(batch["ids"]), -1), batch["ids"][:, :longest]], 1)
        words = inner.get_input_embeddings()(ids)
        image = (ids == inner.config.image_token_id)[..., None]
        spoken = inner.language_model(
            inputs_embeds=words.masked_scatter(image, vision.to(words.dtype)), use_cache=False
        ).last_hidden_state
        return self.model.mllm.lm_head(spoken[:, len(self._before) - 1 : -1]), batch["labels"][:, :longest]

    def grid(self, model: nn.Module) -> Image.Image:
        """Held-out pictures it is asked about."""
        return tile(to_unit(self.lessons(16, 7, held_out=True)["pixels"]), 16)

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes `mllm/`: weights, tokenizer and image processor."""
        save_bf16(model.mllm, folder / "mllm", self._reader.tokenizer, self._reader.image_processor)


def _with_strangers(text: str, rng: random.Random) -> str:
    """Now and then strews unknown words over a prompt, as visitors do."""
    if rng.random() > 0.15:
        return text
    spoken = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        spoken.insert(rng.randint(0, len(spoken)), UNKNOWN)
    return " ".join(spoken)
