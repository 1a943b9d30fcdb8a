"""The training step that `realign bench step` is compared with: SiT, convolution projector, clip, AdamW, EMA.

Reads lines from stdin: `<count>` runs that many steps and answers with their milliseconds; an empty line ends.
"""
import json
import math
import resource
import sys
import time

import torch
import torch.nn as nn
import torch.nn.functional as F


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.d = heads, d
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.ada = nn.Linear(d, 6 * d)

    def norm(self, x, shift, scale):
        return F.layer_norm(x, (self.d,), eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)

    def forward(self, x, c):
        batch, tokens, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c).chunk(6, -1)
        qkv = self.qkv(self.norm(x, shift1, scale1)).reshape(batch, tokens, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, d)
        x = x + gate1.unsqueeze(1) * self.proj(h)
        h = self.fc2(F.gelu(self.fc1(self.norm(x, shift2, scale2)), approximate="tanh"))
        return x + gate2.unsqueeze(1) * h


class Step(nn.Module):
    def __init__(self, d, depth, heads, side, target, tap):
        super().__init__()
        self.d, self.side, self.tap = d, side, tap
        self.patch = nn.Conv2d(4, d, 2, 2)
        self.pos = nn.Parameter(torch.randn(1, side * side, d), requires_grad=False)
        self.t1, self.t2 = nn.Linear(256, d), nn.Linear(d, d)
        self.labels = nn.Embedding(1001, d)
        self.blocks = nn.ModuleList([Block(d, heads) for _ in range(depth)])
        self.ada, self.last = nn.Linear(d, 2 * d), nn.Linear(d, 16)
        self.projector = nn.Conv2d(d, target, 3, padding=1)

    def forward(self, x, t, y):
        batch = x.shape[0]
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        angles = t[:, None] * frequencies[None]
        features = torch.cat([angles.cos(), angles.sin()], -1)
        c = F.silu(self.t2(F.silu(self.t1(features))) + self.labels(y))
        h = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        projected = None
        for i, block in enumerate(self.blocks):
            h = block(h, c)
            if i + 1 == self.tap:
                grid = h.transpose(1, 2).reshape(batch, self.d, self.side, self.side)
                projected = self.projector(grid).flatten(2).transpose(1, 2)
        shift, scale = self.ada(c).chunk(2, -1)
        h = F.layer_norm(h, (self.d,), eps=1e-6) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
        h = self.last(h).reshape(batch, self.side, self.side, 2, 2, 4).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(batch, 4, 2 * self.side, 2 * self.side), projected


def main():
    size = json.loads(sys.argv[1])
    torch.set_num_threads(size["threads"])
    torch.manual_seed(0)
    model = Step(size["hidden_size"], size["depth"], size["num_heads"], size["side"], size["target"], size["tap"])
    params = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=True)
    batch, side = size["batch"], size["side"]
    x0 = torch.randn(batch, 4, 2 * side, 2 * side)
    target = torch.randn(batch, side * side, size["target"])
    y = torch.randint(0, 1000, (batch,))

    def loss(noise, t):
        time_ = t.reshape(-1, 1, 1, 1)
        prediction, projected = model((1 - time_) * x0 + time_ * noise, t, y)
        aligned = F.cosine_similarity(projected, target, dim=-1, eps=1e-12).mean()
        return (prediction - (noise - x0)).square().mean() - 0.5 * aligned

    if size["compile"]:
        loss = torch.compile(loss)

    def step():
        begin = time.perf_counter()
        loss(torch.randn_like(x0), torch.rand(batch)).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 1e-4)
        return (time.perf_counter() - begin) * 1e3

    print(json.dumps({"version": torch.__version__}), flush=True)
    for line in sys.stdin:
        if not line.strip():
            break
        times = [step() for _ in range(int(line))]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"ms": times, "peak_bytes": peak}), flush=True)


main()
