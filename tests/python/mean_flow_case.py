"""Records MeanFlow on a SiT with six blocks, with torch.func.jvp, in the layout of the recorded cases.

python tests/python/mean_flow_case.py FOLDER && REALIGN_GOLDEN=FOLDER cargo xtask test parity

The network is written anew from the published description; `out.dudt` is compared within 1e-5 of its largest value.
flex takes a central difference, which misses that by little.
"""
import json
import math
import pathlib
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

D, DEPTH, HEADS, PATCH, SIDE, CHANNELS, CLASSES, BATCH = 96, 6, 4, 2, 12, 4, 10, 6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)

    def forward(self, x):
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, HEADS, D // HEADS).permute(2, 0, 3, 1, 4).unbind(0)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, D))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(D, 4 * D), nn.Linear(4 * D, D)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


def norm(x, shift, scale):
    return F.layer_norm(x, (D,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn, self.mlp = Attention(), Mlp()
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D))

    def forward(self, x, c):
        shift1, scale1, gate1, shift2, scale2, gate2 = self.adaLN_modulation(c).chunk(6, -1)
        x = x + gate1[:, None] * self.attn(norm(x, shift1, scale1))
        return x + gate2[:, None] * self.mlp(norm(x, shift2, scale2))


class Embedder(nn.Module):
    def __init__(self):
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(256, D), nn.SiLU(), nn.Linear(D, D))

    def forward(self, t):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = t[:, None] * frequencies
        return self.mlp(torch.cat([angles.cos(), angles.sin()], -1))


class SiT(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2, D) * 0.5, requires_grad=False)
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(CHANNELS, D, PATCH, PATCH)
        self.t_embedder, self.r_embedder = Embedder(), Embedder()
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(CLASSES + 1, D)
        self.blocks = nn.ModuleList([Block() for _ in range(DEPTH)])
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(D, PATCH * PATCH * CHANNELS)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(D, 2 * D))

    def forward(self, x, r, t, y):
        c = self.t_embedder(t) + self.r_embedder(t - r) + self.y_embedder.embedding_table(y)
        h = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            h = block(h, c)
        shift, scale = self.final_layer.adaLN_modulation(c).chunk(2, -1)
        h = self.final_layer.linear(norm(h, shift, scale))
        n = SIDE // PATCH
        return h.reshape(-1, n, n, PATCH, PATCH, CHANNELS).permute(0, 5, 1, 3, 2, 4).reshape(x.shape)


def main():
    torch.manual_seed(6)
    model = SiT()
    x, noise = torch.randn(BATCH, CHANNELS, SIDE, SIDE), torch.randn(BATCH, CHANNELS, SIDE, SIDE)
    normal, equal, y = torch.randn(BATCH, 2), torch.rand(BATCH), torch.randint(0, CLASSES, (BATCH,))
    times = torch.sigmoid(normal - 0.4)
    t, r = times.amax(1), times.amin(1)
    r = torch.where(equal < 0.25, t, r)
    at = t[:, None, None, None]
    z, v = (1 - at) * x + at * noise, noise - x
    with sdpa_kernel(SDPBackend.MATH):
        tangents = (v, torch.zeros_like(r), torch.ones_like(t))
        u, dudt = torch.func.jvp(lambda z, r, t: model(z, r, t, y), (z, r, t), tangents)
    target = (v - (t - r).clamp(0, 1)[:, None, None, None] * dudt).detach()
    error = (u - target).square()
    m = error.sum((1, 2, 3))
    m.mean().backward()
    tensors = {"in.x": x, "in.noise": noise, "in.time_normal": normal, "in.equal_uniform": equal, "in.y": y}
    tensors |= {"out.r": r, "out.t": t, "out.z_t": z, "out.v": v, "out.v_tilde": v, "out.y": y, "out.u": u}
    tensors |= {"out.dudt": dudt, "out.target": target, "out.loss": m, "out.sq_err_sum": m}
    tensors |= {"out.total_loss": m.mean(), "out.loss_mean_ref": error.mean(), "out.cfg_mask": torch.ones_like(y)}
    tensors |= {f"param.{name}": value for name, value in model.state_dict().items()}
    tensors |= {f"grad.{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    tensors = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
    size = dudt.abs().max().item()
    loss = {"weighting": "uniform", "ratio_r_not_equal_t": 0.75, "label_dropout_prob": 0.0}
    sidecar = {
        "case": "meanflow_six_blocks",
        "variant": "own",
        "seed": 6,
        "config": {"hidden_size": D, "depth": DEPTH, "num_heads": HEADS, "patch_size": PATCH, "num_classes": CLASSES,
                   "mlp_ratio": 4.0, "loss": loss},
        "reference": [],
        "torch": torch.__version__,
        "tolerance": {"forward": {"rtol": 1e-5, "atol": 1e-5 * size}, "grad": {"rel_to_max": 1e-4}},
        "notes": "",
        "tensors": {name: {"shape": list(value.shape), "dtype": "F32"} for name, value in tensors.items()},
    }
    for name, value in tensors.items():
        if value.dtype == torch.int64:
            sidecar["tensors"][name]["dtype"] = "I64"
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "meanflow_six_blocks.safetensors")
    (folder / "meanflow_six_blocks.json").write_text(json.dumps(sidecar))
    print(f"largest |du/dt| {size:.3f}; it must agree within {1e-5 * size:.1e}")


main()
