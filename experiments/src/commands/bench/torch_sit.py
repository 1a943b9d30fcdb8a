"""SiT in PyTorch, from weights by the names of the reference: what our network is compared with."""
import json
import math
import struct
import sys

import torch
import torch.nn.functional as F


def read(path):
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        data = bytearray(file.read())
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            flat = torch.frombuffer(data, dtype=torch.float32, count=(end - begin) // 4, offset=begin)
            tensors[name] = flat.reshape(entry["shape"]).clone()
    return tensors


def forward(w, x, t, y, size):
    d, heads, grid = size["hidden_size"], size["num_heads"], x.shape[-1] // 2

    def linear(name, value):
        return F.linear(value, w[name + ".weight"], w[name + ".bias"])

    def norm(value, shift, scale):
        return F.layer_norm(value, (d,), eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
    angles = t[:, None] * frequencies[None]
    c = linear("t_embedder.mlp.2", F.silu(linear("t_embedder.mlp.0", torch.cat([angles.cos(), angles.sin()], -1))))
    c = F.silu(c + w["y_embedder.embedding_table.weight"][y])
    h = F.conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=2)
    h = h.flatten(2).transpose(1, 2) + w["pos_embed"]
    batch, tokens, _ = h.shape
    projected = None
    for n in range(size["depth"]):
        p = f"blocks.{n}."
        shift1, scale1, gate1, shift2, scale2, gate2 = linear(p + "adaLN_modulation.1", c).chunk(6, -1)
        qkv = linear(p + "attn.qkv", norm(h, shift1, scale1)).reshape(batch, tokens, 3, heads, d // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, d)
        h = h + gate1.unsqueeze(1) * linear(p + "attn.proj", a)
        m = F.gelu(linear(p + "mlp.fc1", norm(h, shift2, scale2)), approximate="tanh")
        h = h + gate2.unsqueeze(1) * linear(p + "mlp.fc2", m)
        if n + 1 == size["tap"]:
            name = "projectors.0.projection_layer."
            picture = h.transpose(1, 2).reshape(batch, d, grid, grid)
            projected = F.conv2d(picture, w[name + "weight"], w[name + "bias"], padding=1).flatten(2).transpose(1, 2)
    shift, scale = linear("final_layer.adaLN_modulation.1", c).chunk(2, -1)
    h = linear("final_layer.linear", norm(h, shift, scale))
    h = h.reshape(batch, grid, grid, 2, 2, -1).permute(0, 5, 1, 3, 2, 4)
    return h.reshape(batch, -1, 2 * grid, 2 * grid), projected


def loss_of(w, tensors, step, size):
    """Flow matching and alignment on the batch and noise of this step."""
    x0, noise, t, target = (tensors[f"{name}.{step}"] for name in ("x0", "noise", "t", "target"))
    y = tensors[f"y.{step}"].long()
    time = t.reshape(-1, 1, 1, 1)
    prediction, projected = forward(w, (1 - time) * x0 + time * noise, t, y, size)
    aligned = F.cosine_similarity(projected, target, dim=-1, eps=1e-12).mean()
    return (prediction - (noise - x0)).square().mean() - 0.5 * aligned
