"""Compares the parameter counts in docs/encoders.md with the classes of transformers and timm.

    python tests/python/encoder_parameter_counts.py

Classes are built on PyTorch's meta device at their published sizes: no weights are made or fetched. Counted is what the
features depend on: heads, pooling, mask tokens and norms that the encoder does not apply are left out by name.
"""
import re
import sys
from pathlib import Path

import timm
import torch
import transformers as hf

SIZES = dict(s=(384, 12, 6), b=(768, 12, 12), l=(1024, 24, 16), g=(1536, 40, 24))


def count(model, unused=()):
    is_used = lambda name: not any(re.search(pattern, name) for pattern in unused)
    return sum(p.numel() for name, p in model.named_parameters() if is_used(name))


def in_timm(name, unused=(), **settings):
    return count(timm.create_model(name, pretrained=False, num_classes=0, **settings), unused)


def dinov2(size, num_registers):
    width, depth, heads = SIZES[size]
    settings = dict(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=518, patch_size=14)
    settings |= dict(use_swiglu_ffn=size == "g")
    if num_registers:
        config = hf.Dinov2WithRegistersConfig(num_register_tokens=num_registers, **settings)
        return count(hf.Dinov2WithRegistersModel(config), ["mask_token"])
    return count(hf.Dinov2Model(hf.Dinov2Config(**settings)), ["mask_token"])


def webssl(width, depth, heads):
    # The published configs state mlp_ratio 4 at every size; SwiGLU takes two thirds, in multiples of 8.
    config = hf.Dinov2Config(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, image_size=224,
                             patch_size=14, use_swiglu_ffn=True)
    return count(hf.Dinov2Model(config), ["mask_token"])


def dinov3(width, depth, heads, hidden, is_gated, has_qkv_bias=True):
    config = hf.DINOv3ViTConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                                intermediate_size=hidden, use_gated_mlp=is_gated, num_register_tokens=4,
                                query_bias=has_qkv_bias, value_bias=has_qkv_bias, key_bias=False, patch_size=16)
    return count(hf.DINOv3ViTModel(config), ["mask_token"])


def siglip(width, depth, heads, patch, hidden, image):
    config = hf.SiglipVisionConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads,
                                   patch_size=patch, intermediate_size=hidden, image_size=image)
    return count(hf.SiglipVisionModel(config), [r"(^|\.)head\."])


def clip():
    config = hf.CLIPVisionConfig(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14,
                                 intermediate_size=4096, image_size=224)
    return count(hf.CLIPVisionModel(config), ["post_layernorm"])


def radio(width, depth, heads, has_layer_scale):
    config = hf.RadioConfig(hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, patch_size=16,
                            max_img_size=2048, num_cls_tokens=3, num_registers=5, patch_dim=768)
    return count(hf.RadioModel(config), [] if has_layer_scale else ["layer_scale"])


# timm's Perception Encoder has a pooling head and, in Core, a norm behind the blocks that the features do not pass.
PE_UNUSED = [r"^attn_pool", r"^head", r"^norm\.", r"^fc_norm"]

COUNTS = {
    "dino-vit-s": lambda: in_timm("vit_small_patch16_224"),
    "dino-vit-b": lambda: in_timm("vit_base_patch16_224"),
    "mocov3-vit-s": lambda: in_timm("vit_small_patch16_224", num_heads=12),
    "mocov3-vit-b": lambda: in_timm("vit_base_patch16_224"),
    "mocov3-vit-l": lambda: in_timm("vit_large_patch16_224"),
    "mae-vit-l": lambda: in_timm("vit_large_patch16_224", [r"^norm\.", r"^fc_norm"]),
    "jepa-vit-h": lambda: in_timm("vit_huge_patch14_224", class_token=False, global_pool="avg", fc_norm=False),
    "dinov3-vit-b16": lambda: dinov3(768, 12, 12, 3072, False),
    "dinov3-vit-l16": lambda: dinov3(1024, 24, 16, 4096, False),
    "dinov3-vit-h16plus": lambda: dinov3(1280, 32, 20, 5120, True),
    "dinov3-vit-7b16": lambda: dinov3(4096, 40, 32, 8192, True, has_qkv_bias=False),
    "webssl-vit-dino300m_full2b_224": lambda: webssl(1024, 24, 16),
    "webssl-vit-dino1b_full2b_224": lambda: webssl(1536, 40, 24),
    "webssl-vit-dino2b_full2b_224": lambda: webssl(2688, 24, 21),
    "webssl-vit-dino3b_full2b_224": lambda: webssl(3072, 26, 24),
    "webssl-vit-dino5b_full2b_224": lambda: webssl(3584, 32, 28),
    "webssl-vit-dino7b_full8b_224": lambda: webssl(4096, 32, 32),
    "pe-vit-t": lambda: in_timm("vit_pe_core_tiny_patch16_384", PE_UNUSED),
    "pe-vit-s": lambda: in_timm("vit_pe_core_small_patch16_384", PE_UNUSED),
    "pe-vit-b": lambda: in_timm("vit_pe_core_base_patch16_224", PE_UNUSED),
    "pe-vit-l": lambda: in_timm("vit_pe_core_large_patch14_336", PE_UNUSED),
    "pe-vit-g": lambda: in_timm("vit_pe_core_gigantic_patch14_448", PE_UNUSED),
    "langpe-vit-l": lambda: in_timm("vit_pe_lang_large_patch14_448", PE_UNUSED),
    "langpe-vit-g": lambda: in_timm("vit_pe_lang_gigantic_patch14_448", PE_UNUSED),
    "spatialpe-vit-b": lambda: in_timm("vit_pe_spatial_base_patch16_512", PE_UNUSED),
    "spatialpe-vit-l": lambda: in_timm("vit_pe_spatial_large_patch14_448", PE_UNUSED),
    "spatialpe-vit-g": lambda: in_timm("vit_pe_spatial_gigantic_patch14_448", PE_UNUSED),
    "cradio-vit-b": lambda: radio(768, 12, 12, True),
    "cradio-vit-l": lambda: radio(1024, 24, 16, True),
    "cradio-vit-h": lambda: radio(1280, 32, 16, False),
    "cradio-vit-g": lambda: radio(1536, 40, 24, False),
    "clip-vit-L": clip,
    "siglip-vit-b": lambda: siglip(768, 12, 12, 16, 3072, 256),
    "siglip-vit-l": lambda: siglip(1024, 24, 16, 16, 4096, 256),
    "siglip-vit-so400m": lambda: siglip(1152, 27, 16, 14, 4304, 224),
    "siglip2-vit-b": lambda: siglip(768, 12, 12, 16, 3072, 256),
    "siglip2-vit-l": lambda: siglip(1024, 24, 16, 16, 4096, 256),
    "siglip2-vit-so400m": lambda: siglip(1152, 27, 16, 16, 4304, 256),
    "siglip2-vit-g": lambda: siglip(1536, 40, 16, 16, 6144, 256),
}
for size in SIZES:
    for name, num_registers in [("dinov2", 0), ("dinov2mixed", 0), ("dinov2reg", 4), ("dinov2mixedreg", 4)]:
        COUNTS[f"{name}-vit-{size}"] = lambda size=size, num_registers=num_registers: dinov2(size, num_registers)


def main():
    page = Path(__file__).resolve().parents[2] / "docs" / "encoders.md"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines()]
    stated = {row[0].strip("`"): int(row[7]) for row in rows if len(row) == 9 and row[7].isdigit()}
    problems = [f"{name}: no class is known here" for name in stated.keys() - COUNTS.keys()]
    problems += [f"{name}: not in the table" for name in COUNTS.keys() - stated.keys()]
    with torch.device("meta"):
        for name in sorted(stated.keys() & COUNTS.keys()):
            found = COUNTS[name]()
            print(f"{name:34} {stated[name]:>13,} {found:>13,} {'ok' if found == stated[name] else 'DIFFERS'}")
            if found != stated[name]:
                problems.append(f"{name}: {stated[name]} in the table, {found} in the class")
    print("\n".join(problems) or f"all {len(stated)} presets have the parameters of their classes")
    sys.exit(bool(problems))


main()
