"""The multimodal LLM: reference pictures and prompt read together, the hidden states of every layer kept.

Pictures come first, then the prompt, since attention is causal; template tokens are dropped from what is returned, and
nothing is needed after the prompt. No generation, no lm_head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ..request import RequestError

if TYPE_CHECKING:  # flags are read before diffusers is imported
    from .framing import Framing

IGNORED = -100  # label of tokens without a loss
PROMPT_TOKENS = 512  # of a prompt; memory is planned for so many
PLAIN = {"add_special_tokens": False, "split_special_tokens": True}  # <img> in a prompt is text, no token


def check_tokens(words: list[int]) -> None:
    """Raises RequestError where a prompt has more tokens than PROMPT_TOKENS."""
    if len(words) > PROMPT_TOKENS:
        raise RequestError("prompt_tokens", value=len(words), limit=PROMPT_TOKENS)


@dataclass(frozen=True, kw_only=True)
class Template:
    """The text around pictures and prompt: `before` + (`open` + image tokens + `close`) per picture + prompt."""

    before: str = ""
    open: str = "<img>"
    close: str = "</img>"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the MLLM made of its input, template tokens removed.

    `hidden` (B, L, M+1, D): embeddings first, then every layer, the last after the final norm. `image` (B, L) bool: the
    token belongs to a picture. `valid` (B, L) bool: false on padding that must not be seen, which comes last. `vision`
    (B * references, image_seq_length, D) are the projected features of the vision tower, what the embedding layer holds
    at the image positions.
    """

    hidden: Tensor
    image: Tensor
    valid: Tensor
    vision: Tensor


class Mllm:
    """An `InternVLForConditionalGeneration` (or its inner model) with tokenizer, image processor and template, and what
    frames pictures for it, if anything does; what another MLLM does otherwise is in a class of its own (qwen.py)."""

    def __init__(
        self, model: nn.Module, tokenizer: Any, image_processor: Any, template: Template, framing: Framing | None = None
    ) -> None:
        self.model = getattr(model, "model", model)  # without the language-model head
        self.tokenizer, self.image_processor, self.template = tokenizer, image_processor, template
        self.framing = framing
        self.config = self.model.config

    @property
    def layers(self) -> int:
        """M + 1, the number of hidden states of each token."""
        return self.config.text_config.num_hidden_layers + 1

    @property
    def width(self) -> int:
        """D, the width of a hidden state."""
        return self.config.text_config.hidden_size

    def picture_ids(self, references: int = 1) -> list[int]:
        """Token ids of everything before the prompt."""
        template, text = self.template, self.tokenizer
        one = [
            *text.encode(template.open, add_special_tokens=False),
            *[self.config.image_token_id] * self.config.image_seq_length,
            *text.encode(template.close, add_special_tokens=False),
        ]
        return text.encode(template.before, add_special_tokens=False) + one * references

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of a prompt that the tokenizer has no token for, in order, each once."""
        if self.tokenizer.unk_token_id is None:
            return []
        read = self.tokenizer(prompt, **PLAIN, return_offsets_mapping=True)
        pairs = zip(read["input_ids"], read["offset_mapping"], strict=True)
        return list(dict.fromkeys(prompt[a:b] for i, (a, b) in pairs if i == self.tokenizer.unk_token_id))

    def view(self, picture: Image.Image) -> Image.Image:
        """The very picture that the vision tower gets of one in its profile's frame: the part that is framed, or the
        whole, brought to the tower's size as the image processor would, sides not kept in proportion. The processor
        finds nothing left to resize."""
        if self.framing:
            picture = self.framing.view(picture)
        processor = self.image_processor
        return picture.resize((processor.size.width, processor.size.height), processor.resample)

    def view_tensors(self, pixels: Tensor) -> Tensor:
        """The same of pictures (B, 3, H, W) in [-1, 1] that no file holds, as large as the tower wants them."""
        if self.framing:
            pixels = self.framing.framed(pixels)
        size = self.image_processor.size
        return F.interpolate(pixels, (size.height, size.width), mode="bicubic", antialias=True)

    def pixels(self, references: list[Image.Image]) -> Tensor:
        """Pictures as the vision tower wants them, one tile each: (R, 3, H, W)."""
        kwargs = {"crop_to_patches": False} if hasattr(self.image_processor, "crop_to_patches") else {}
        return self.image_processor(references, return_tensors="pt", **kwargs)["pixel_values"]

    def encode(self, references: list[Image.Image], prompt: str) -> Reading:
        """One prompt with its pictures, as a batch of one. Raises RequestError where the prompt has more than
        PROMPT_TOKENS."""
        check_tokens(self.tokenizer.encode(prompt, **PLAIN))
        return self.encode_batch(self.pixels(references), [prompt], references=len(references))

    def encode_batch(self, pixels: Tensor, prompts: list[str], references: int = 1) -> Reading:
        """B prompts with `references` pictures each: pixels (B * references, 3, H, W), already normalised."""
        device = self.model.get_input_embeddings().weight.device
        before = self.picture_ids(references)
        texts = [self.tokenizer.encode(prompt, **PLAIN) for prompt in prompts]
        longest = max(map(len, texts))
        pad = self.tokenizer.pad_token_id or 0
        ids = torch.tensor([before + text + [pad] * (longest - len(text)) for text in texts], device=device)
        out = self.model(input_ids=ids, pixel_values=pixels.to(device), output_hidden_states=True, use_cache=False)
        hidden = torch.stack(out.hidden_states, 2)
        image = ids == self.config.image_token_id
        kept = image[0].clone()
        kept[len(before) :] = True  # the same positions in every row
        lengths = torch.tensor([len(before) + len(text) for text in texts], device=device)
        valid = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        return Reading(
            hidden=hidden[:, kept], image=image[:, kept], valid=valid[:, kept], vision=out.image_hidden_states
        )
