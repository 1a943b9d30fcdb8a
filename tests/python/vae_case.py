"""Records a small case of diffusers' AutoencoderKL with attention in its deepest level, on an oblong picture.

Usage: vae_case.py FOLDER. Writes `vae_attention_levels.safetensors` and its sidecar; needs torch, diffusers, safetensors.
"""

import json
import sys
from pathlib import Path

import diffusers
import torch
from diffusers import AutoencoderKL
from safetensors.torch import save_file

CONFIG = {
    "block_out_channels": [4, 8, 12],
    "layers_per_block": 1,
    "latent_channels": 3,
    "norm_num_groups": 2,
    "attention_levels": [2],
    "image_size": [12, 20],
}


def main(folder):
    torch.manual_seed(0)
    depth = len(CONFIG["block_out_channels"])
    attends = [level in CONFIG["attention_levels"] for level in range(depth)]
    vae = AutoencoderKL(
        down_block_types=[["DownEncoderBlock2D", "AttnDownEncoderBlock2D"][attend] for attend in attends],
        up_block_types=[["UpDecoderBlock2D", "AttnUpDecoderBlock2D"][attend] for attend in reversed(attends)],
        block_out_channels=CONFIG["block_out_channels"],
        layers_per_block=CONFIG["layers_per_block"],
        latent_channels=CONFIG["latent_channels"],
        norm_num_groups=CONFIG["norm_num_groups"],
    ).eval()
    for value in vae.parameters():
        value.data += 0.1 * torch.randn_like(value)
    channels, (height, width) = CONFIG["latent_channels"], CONFIG["image_size"]
    small = (2, channels, height // 4, width // 4)
    tensors = {f"param.{name}": value.detach() for name, value in vae.state_dict().items()}

    def given(name, value):
        tensors[f"in.{name}"] = value.detach()
        return value

    def found(name, value):
        tensors[f"out.{name}"] = value.detach()
        return value

    x = given("x", torch.rand(2, 3, height, width) * 2 - 1).requires_grad_()
    moments = found("moments", vae.quant_conv(vae.encoder(x)))
    mean, log_variance = moments.chunk(2, 1)
    std = torch.exp(log_variance.clamp(-30, 20) / 2)
    found("mean", mean), found("std", std)
    sample = found("sample", mean + std * given("eps", torch.randn(small)))
    found("scaled", 0.18215 * sample)
    scale = given("latents_scale", torch.rand(1, channels, 1, 1) + 0.5)
    found("stats_norm", (sample - given("latents_bias", torch.randn(1, channels, 1, 1))) * scale)
    z = given("z", torch.randn(small)).requires_grad_()
    decoded = found("decode", vae.decode(z).sample)
    found("decode_uint8", (255 * (decoded + 1) / 2).clamp(0, 255).to(torch.uint8))
    weights = given("w", torch.randn_like(moments)), given("wd", torch.randn_like(decoded))
    ((moments * weights[0]).sum() + (decoded * weights[1]).sum()).backward()
    tensors["grad.encode.x"], tensors["grad.decode.z"] = x.grad, z.grad
    for name, value in vae.named_parameters():
        if not name.endswith("to_k.bias"):  # softmax does not see it: its gradient is rounding noise
            tensors[f"grad.param.{name}"] = value.grad

    tensors = {name: value.contiguous() for name, value in tensors.items()}
    path = Path(folder) / "vae_attention_levels"
    save_file(tensors, path.with_suffix(".safetensors"))
    sidecar = {
        "case": path.name,
        "seed": 0,
        "config": CONFIG,
        "reference": [{"package": "diffusers", "version": diffusers.__version__, "function": "AutoencoderKL.encode / decode"}],
        "torch": torch.__version__,
        "tolerance": {
            "forward": {"rtol": 3e-4, "atol": 3e-5},
            "grad": {"rel_to_max": 1e-3},
            "reason": "a few dozen layers of f32 sums in another order differ by about 1e-5 of the largest value",
        },
        "notes": "Attention behind every block of level 2, which is 3 x 5 positions. grad.param.*: gradients of "
        "sum(moments * in.w) + sum(decode * in.wd) for every parameter but the keys' biases, whose gradient is zero.",
        "tensors": {name: {"shape": list(value.shape), "dtype": str(value.dtype)} for name, value in tensors.items()},
    }
    path.with_suffix(".json").write_text(json.dumps(sidecar, indent=1))


if __name__ == "__main__":
    main(sys.argv[1])
