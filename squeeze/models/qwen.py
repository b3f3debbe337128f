"""Qwen2.5-VL as the reader, the way LongCat-Image-Edit was trained to be read to.

Picture first, then the prompt, padded to a fixed length; the padding is passed on like words. Text in quotes is spelled
out, one token or more per character, since the model paints it. The suffix of its template comes after everything that
is kept and attention is causal, so it is left out.
"""

from __future__ import annotations

import re

import torch
from PIL import Image
from torch import Tensor

from .mllm import PLAIN, PROMPT_TOKENS, Mllm, Reading, check_tokens

QUOTED = re.compile("""('[^']*?'|"[^"]*?"|‘[^‘’]*?’|“[^“”]*?”)""")
APOSTROPHE = re.compile(r"(?<=[a-zA-Z])'(?=[a-zA-Z])")  # inside a word it quotes nothing
HIDDEN = "\0"  # stands for such an apostrophe; clean prompts have no control characters


class Qwen(Mllm):
    """A `Qwen2_5_VLForConditionalGeneration` (or its inner model) with tokenizer, `Qwen2VLImageProcessorPil` and
    template; of the template's pictures the marks around them are kept too."""

    def view(self, picture: Image.Image) -> Image.Image:
        """Half the size of what the VAE gets; the processor then rounds the sides to whole tokens."""
        width, height = picture.size
        return picture.resize((width // 2, height // 2), Image.Resampling.LANCZOS)

    def encode(self, references: list[Image.Image], prompt: str) -> Reading:
        """One prompt with its pictures (see view), as a batch of one: L is 2 marks and the picture's tokens for each
        reference, then PROMPT_TOKENS. Raises RequestError where the prompt has more."""
        words = self._spelled(prompt)
        check_tokens(words)
        seen = self.image_processor(references, return_tensors="pt")
        grid = seen["image_grid_thw"]
        before, start = self._before((grid.prod(-1) // self.image_processor.merge_size**2).tolist())
        text = self.tokenizer.pad(
            {"input_ids": [words]}, padding="max_length", max_length=PROMPT_TOKENS,
            return_attention_mask=True, return_tensors="pt",
        )  # fmt: skip
        ids = torch.cat([torch.tensor([before]), text["input_ids"]], 1)
        mask = torch.cat([torch.ones(1, len(before), dtype=torch.long), text["attention_mask"]], 1)
        given = {
            "input_ids": ids, "attention_mask": mask, "position_ids": self._positions(ids, mask, grid),
            "pixel_values": seen["pixel_values"], "image_grid_thw": grid,
        }  # fmt: skip
        device = self.model.get_input_embeddings().weight.device
        given = {name: value.to(device) for name, value in given.items()}
        out = self.model(**given, output_hidden_states=True, use_cache=False)
        hidden = torch.stack(out.hidden_states, 2)[:, start:]
        image = torch.arange(hidden.shape[1], device=device)[None] < len(before) - start
        pictures = (ids[:, start:] == self.config.image_token_id).to(device)
        return Reading(hidden=hidden, image=image, valid=torch.ones_like(image), vision=hidden[:, :, 0][pictures][None])

    def _before(self, counts: list[int]) -> tuple[list[int], int]:
        """Token ids of everything before the prompt, for pictures of so many tokens, and where the first of those that
        are kept stands."""
        template, text = self.template, self.tokenizer
        before = text.encode(template.before, add_special_tokens=False)
        start = len(before)
        for count in counts:
            before += text.encode(template.open, add_special_tokens=False)
            before += [self.config.image_token_id] * count
            before += text.encode(template.close, add_special_tokens=False)
        return before, start

    def _spelled(self, prompt: str) -> list[int]:
        """Token ids of the prompt, quoted text character by character; <|image_pad|> in a prompt is text, no token."""
        parts = QUOTED.split(APOSTROPHE.sub(HIDDEN, prompt))
        words = [piece for i, part in enumerate(parts) for piece in (part if i % 2 else [part])]
        return [token for word in words for token in self.tokenizer.encode(word.replace(HIDDEN, "'"), **PLAIN)]

    def _positions(self, ids: Tensor, mask: Tensor, grid: Tensor) -> Tensor:
        """Positions (3, 1, L) in time, row and column, which picture tokens need; padding is at 1.

        So it was in the transformers 4 that LongCat was trained with. Version 5 takes all tokens for text where nobody
        says which are pictures, and diffusers 0.42.1 does not say it (huggingface/diffusers issue 14194).
        """
        kinds = (ids == self.config.image_token_id).int()
        positions, _ = self.model.get_rope_index(ids, kinds, image_grid_thw=grid, attention_mask=mask)
        return positions.masked_fill(mask[None] == 0, 1)
