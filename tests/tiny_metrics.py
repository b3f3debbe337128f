"""CLIP and DINO at tiny size with random weights, saved as the published checkpoints lie on the hub, and a small
DreamBench folder with drawn photos."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tiny import random_picture, randomised
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, ViTConfig, ViTModel

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LIST = """Classes

subject_name,class
can,can
dog,dog
grey_sloth_plushie,stuffed animal
vase,vase

Prompts

Object Prompts

prompt_list = [
'a {0} {1} in the jungle'.format(unique_token, class_token),
'a red {0} {1}'.format(unique_token, class_token)
]

Live Subject Prompts

prompt_list = [
'a {0} {1} in the snow'.format(unique_token, class_token),
'a {0} {1} wearing a red hat'.format(unique_token, class_token)
]
"""


def write_metrics(folder: Path, seed: int = 0) -> Path:
    """`folder`/dino and `folder`/clip; the processors' files are of the old form that the hub holds."""
    torch.manual_seed(seed)
    dino = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, image_size=32, patch_size=8
    )
    randomised(ViTModel(dino, add_pooling_layer=False), seed).save_pretrained(folder / "dino")
    vocabulary = {letter: index for index, letter in enumerate([*LETTERS, *(f"{one}</w>" for one in LETTERS)])}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    common = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    clip = CLIPConfig(
        text_config=common | {
            "vocab_size": len(vocabulary), "max_position_embeddings": 24, "projection_dim": 12,
            "bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1,
        },
        vision_config=common | {"image_size": 32, "patch_size": 8, "projection_dim": 12},
        projection_dim=12,
    )  # fmt: skip
    randomised(CLIPModel(clip), seed + 1).save_pretrained(folder / "clip")
    CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder / "clip")
    for name, more in (("dino", {"resample": 2}), ("clip", {"resample": 3, "crop_size": 32, "do_center_crop": True})):
        kind = {"dino": "ViTFeatureExtractor", "clip": "CLIPFeatureExtractor"}[name]
        old = {
            "do_normalize": True, "do_resize": True, "feature_extractor_type": kind, "image_mean": [0.5, 0.4, 0.3],
            "image_std": [0.2, 0.3, 0.4], "size": 32,
        }  # fmt: skip
        (folder / name / "preprocessor_config.json").write_text(json.dumps(old | more))
    return folder


def write_bench(folder: Path) -> Path:
    """Three subjects with three photos each, four in the list, two prompts each."""
    for place, name in enumerate(("can", "dog", "grey_sloth_plushie")):
        (folder / name).mkdir(parents=True)
        for photo in range(3):
            random_picture(10 * place + photo).save(folder / name / f"{photo:02}.jpg")
    (folder / "prompts_and_classes.txt").write_text(LIST)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
