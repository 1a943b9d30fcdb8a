"""Records encoders of transformers and timm at their published sizes with random weights, as cases of the parity test.

    python tests/python/encoder_full_width.py cases && REALIGN_GOLDEN=cases cargo xtask test parity

Further arguments choose cases by name; the large ones need about 7 GB of memory each in the test. Norms, biases and layer
scales are drawn too, so that none is hidden behind its initial value.
"""
import json
import sys
from pathlib import Path

import timm
import torch
import transformers as hf
from safetensors.torch import save_file


def hub(model_class, config_class, **settings):
    def build():
        config = config_class(**settings)
        model = model_class(config)
        names = {"pixels": "in.pixels.0", "cls": "out.0.cls", "patch": "out.0.patch"}
        return model, settings | {"layer_norm_eps": config.layer_norm_eps}, names, lambda x: model(x).last_hidden_state
    return build


def in_timm(name, **settings):
    def build():
        model = timm.create_model(name, pretrained=False, num_classes=0, **settings)
        model.norm, model.fc_norm, norm = torch.nn.Identity(), torch.nn.Identity(), model.norm
        config = dict(embed_dim=model.embed_dim, depth=len(model.blocks), num_heads=model.blocks[0].attn.num_heads,
                      img_size=224, patch_size=16, mlp_ratio=4)
        names = {"pixels": "in.pixels", "cls": "out.cls", "patch": "out.patch"}
        return model, config, names, model.forward_features
    return build


CASES = {
    "encoder_dinov2_b": (224, 1, hub(hf.Dinov2Model, hf.Dinov2Config, hidden_size=768, num_hidden_layers=12,
                                     num_attention_heads=12, mlp_ratio=4, image_size=518, patch_size=14)),
    "encoder_dinov3_b16": (256, 5, hub(hf.DINOv3ViTModel, hf.DINOv3ViTConfig, hidden_size=768, num_hidden_layers=12,
                                       num_attention_heads=12, intermediate_size=3072, image_size=256, patch_size=16,
                                       num_register_tokens=4, query_bias=True, key_bias=False, value_bias=True)),
    "encoder_siglip_b": (256, 0, hub(hf.SiglipVisionModel, hf.SiglipVisionConfig, hidden_size=768, num_hidden_layers=12,
                                     num_attention_heads=12, intermediate_size=3072, image_size=256, patch_size=16,
                                     hidden_act="gelu_pytorch_tanh")),
    "encoder_clip_hf_l": (224, 1, hub(hf.CLIPVisionModel, hf.CLIPVisionConfig, hidden_size=1024, num_hidden_layers=24,
                                      num_attention_heads=16, intermediate_size=4096, image_size=224, patch_size=14,
                                      hidden_act="quick_gelu")),
    "encoder_mae_l": (224, 1, in_timm("vit_large_patch16_224")),
}


def shaken(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.dim() >= 2 and "embed" not in name and "token" not in name:
                p.copy_(noise / p[0].numel() ** 0.5)
            elif name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "lambda1")) or "norm" in name and "weight" in name:
                p.copy_(1 + 0.1 * noise)
            else:
                p.copy_(0.1 * noise)
    return model.eval()


def record(name, folder):
    side, num_prefix, build = CASES[name]
    model, config, names, forward = build()
    shaken(model, 7)
    pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        tokens = forward(pixels)
    tensors = {f"param.{key}": value for key, value in model.state_dict().items() if value.is_floating_point()}
    tensors |= {names["pixels"]: pixels, names["patch"]: tokens[:, num_prefix:]}
    if num_prefix:
        tensors[names["cls"]] = tokens[:, 0]
    tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
    save_file(tensors, folder / f"{name}.safetensors")
    sidecar = {
        "case": name,
        "config": config,
        "tolerance": {"forward": {"rtol": 2e-4, "atol": 2e-5}},
        "tensors": {key: {"shape": list(value.shape)} for key, value in tensors.items()},
    }
    (folder / f"{name}.json").write_text(json.dumps(sidecar, indent=1))
    print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters, largest token {tokens.abs().max():.2f}")


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or CASES:
        record(name, folder)


main()
