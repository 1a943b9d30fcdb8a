"""The features that `realign bench encoder` is compared with: DINOv2-B on pictures of 256 pixels, in PyTorch eager. A step encodes the batch.
"""
import json
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F

EPS, PIXELS = 1e-6, 224


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d, eps=EPS), nn.LayerNorm(d, eps=EPS)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.ls1, self.ls2 = nn.Parameter(torch.ones(d)), nn.Parameter(torch.ones(d))

    def forward(self, x):
        batch, tokens, d = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, d)
        x = x + self.ls1 * self.proj(h)
        return x + self.ls2 * self.fc2(F.gelu(self.fc1(self.norm2(x))))


class DinoV2(nn.Module):
    def __init__(self, d=768, depth=12, heads=12, patch=14):
        super().__init__()
        self.embed = nn.Conv2d(3, d, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, d) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, (PIXELS // patch) ** 2 + 1, d) * 0.02)
        self.blocks = nn.ModuleList(Block(d, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(d, eps=EPS)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).reshape(1, 3, 1, 1))

    def forward(self, pictures):
        x = (pictures / 255.0 - self.mean) / self.deviation
        x = F.interpolate(x, (PIXELS, PIXELS), mode="bicubic", align_corners=False)
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.norm(x)[:, 1:]


def main():
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(0)
    model = DinoV2().eval()
    pictures = torch.randint(0, 256, (settings["batch"], 3, 256, 256)).float()

    def step():
        with torch.inference_mode():
            model(pictures)

    num_params = sum(p.numel() for p in model.parameters())
    about = {"version": torch.__version__, "num_params": num_params}
    serve(about, lambda count: [time_of(step) for _ in range(count)])


main()
