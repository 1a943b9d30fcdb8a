"""Checks SAM, SAM 2's trunk and VGG at their published sizes against transformers and torchvision.

    python tests/python/further_encoders.py counts
    python tests/python/further_encoders.py cases && REALIGN_GOLDEN=cases cargo xtask test parity

`counts` compares parameter counts with those in the plugins' tests; classes are built on PyTorch's meta device. `cases`
records networks with random weights as cases of the parity test; further arguments choose some by name.
"""
import json
import re
import sys
from pathlib import Path

import torch
import torchvision
from safetensors.torch import save_file
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig
from transformers.models.sam2.modeling_sam2 import Sam2HieraDetModel

PLUGINS = Path(__file__).parents[2] / "plugins/src/encoders"


def sam2(width, heads, blocks, windows, global_blocks, background):
    return lambda: Sam2HieraDetModel(Sam2HieraDetConfig(
        hidden_size=width, num_attention_heads=heads, blocks_per_stage=blocks, window_size_per_stage=windows,
        embed_dim_per_stage=[width * factor for factor in (1, 2, 4, 8)],
        num_attention_heads_per_stage=[heads * factor for factor in (1, 2, 4, 8)],
        global_attention_blocks=global_blocks, window_positional_embedding_background_size=[background] * 2))


def sam(width, depth, heads):
    quarters = [depth * quarter // 4 - 1 for quarter in (1, 2, 3, 4)]
    return lambda: SamVisionEncoder(SamVisionConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, global_attn_indexes=quarters,
        mlp_dim=4 * width))


# Name, network, side of its pictures.
NETWORKS = {
    "sam2_s": (sam2(96, 1, [1, 2, 11, 2], [8, 4, 14, 7], [7, 10, 13], 7), 512),
    "sam2_b": (sam2(112, 2, [2, 3, 16, 3], [8, 4, 14, 7], [12, 16, 20], 14), 512),
    "sam2_l": (sam2(144, 2, [2, 6, 36, 4], [8, 4, 16, 8], [23, 33, 43], 7), 512),
    "sam_b": (sam(768, 12, 12), 1024),
    "sam_l": (sam(1024, 24, 16), 1024),
    "sam_h": (sam(1280, 32, 16), 1024),
    "vgg_16": (lambda: torchvision.models.vgg16().features[:24], 256),
    "vgg_19": (lambda: torchvision.models.vgg19().features[:28], 256),
}


def compare_counts():
    text = "".join((PLUGINS / name / "encoder.rs").read_text() for name in ("sam", "sam2", "vgg"))
    known = {int(number.replace("_", "")) for number in re.findall(r"\b\d{1,3}(?:_\d{3}){2}(?![\d_])", text)}
    failed = False
    for name, (build, _) in NETWORKS.items():
        with torch.device("meta"):
            count = sum(p.numel() for p in build().parameters())
        failed |= count not in known
        print(f"{name} {count} {'ok' if count in known else 'is not what the plugin tests'}")
    return failed


def shaken(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "pos" in name:
                p.copy_(noise * 0.2)
            elif p.dim() >= 2:
                p.copy_(noise / p[0].numel() ** 0.5)
            else:
                p.copy_(0.2 * noise + (1 if "norm" in name and "weight" in name else 0))
    return model.eval()


def record(name, build, side):
    model = shaken(build(), 11)
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(12))
    prefix = "param.backbone." if name.startswith("sam2") else "param."
    tensors = {prefix + key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        if name.startswith("vgg"):
            raw = (pixels * 50 + 128).clamp(0, 255).to(torch.uint8)
            norm = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
            out = model(norm(raw / 255.0)).permute(0, 2, 3, 1).flatten(1, 2)
            tensors |= {"in.raw": raw, "out.patch": out}
            config = dict(widths=[64, 128, 256, 512], resolution=side)
        else:
            tensors |= {"in.pixels.0": pixels, "out.0.last_hidden_state": model(pixels).last_hidden_state}
            config = dict(backbone=model.config.to_dict()) if name.startswith("sam2") else model.config.to_dict()
    folder = Path("cases")
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / f"encoder_{name}.safetensors")
    listed = {key: dict(shape=list(value.shape)) for key, value in tensors.items()}
    # Dozens of layers of f32 sums, compared as the recorded narrow networks are.
    tolerance = dict(forward=dict(rtol=2e-4, atol=2e-5))
    case = dict(case=f"encoder_{name}", config=config, tolerance=tolerance, tensors=listed)
    (folder / f"encoder_{name}.json").write_text(json.dumps(case))


if __name__ == "__main__":
    if sys.argv[1:2] == ["counts"]:
        sys.exit(compare_counts())
    for name in sys.argv[2:] or NETWORKS:
        record(name, *NETWORKS[name])
