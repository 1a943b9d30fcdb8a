"""What `realign bench step` and `bench sample` are compared with: a step of SiT or JiT with projector, clip, AdamW and
EMA, and sampling.
"""
import json
import math
import sys

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

NUM_CONTEXT, CONTEXT_START, BOTTLENECK = 32, 4, 128  # of JiT
MLP = 2048  # width of REPA's projector


def modulate(x, shift, scale):
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


class Block(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, self.d = heads, d
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.fc1, self.fc2 = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.ada = nn.Linear(d, 6 * d)

    def norm(self, x, shift, scale):
        return modulate(F.layer_norm(x, (self.d,), eps=1e-6), shift, scale)

    def forward(self, x, c):
        batch, tokens, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c).chunk(6, -1)
        qkv = self.qkv(self.norm(x, shift1, scale1)).reshape(batch, tokens, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, d)
        x = x + gate1.unsqueeze(1) * self.proj(h)
        h = self.fc2(F.gelu(self.fc1(self.norm(x, shift2, scale2)), approximate="tanh"))
        return x + gate2.unsqueeze(1) * h


def rotate(x, cos, sin):
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack((-b, a), -1).flatten(-2) * sin


class JiTBlock(nn.Module):
    def __init__(self, d, heads):
        super().__init__()
        self.heads, hidden = heads, int(int(4 * d) * 2 / 3)
        self.norm1, self.norm2 = nn.RMSNorm(d, eps=1e-6), nn.RMSNorm(d, eps=1e-6)
        self.q_norm, self.k_norm = nn.RMSNorm(d // heads, eps=1e-6), nn.RMSNorm(d // heads, eps=1e-6)
        self.qkv, self.proj = nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.w12, self.w3 = nn.Linear(d, 2 * hidden), nn.Linear(hidden, d)
        self.ada = nn.Linear(d, 6 * d)

    def forward(self, x, c, rotation):
        batch, tokens, d = x.shape
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c).chunk(6, -1)
        qkv = self.qkv(modulate(self.norm1(x), shift1, scale1)).reshape(batch, tokens, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        q, k = rotate(self.q_norm(q), *rotation), rotate(self.k_norm(k), *rotation)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, d)
        x = x + gate1.unsqueeze(1) * self.proj(h)
        a, b = self.w12(modulate(self.norm2(x), shift2, scale2)).chunk(2, -1)
        return x + gate2.unsqueeze(1) * self.w3(F.silu(a) * b)


class Step(nn.Module):
    def __init__(self, size):
        super().__init__()
        d, depth, heads, side = size["hidden_size"], size["depth"], size["num_heads"], size["side"]
        self.is_jit, self.has_interval = size["backbone"] == "jit", size["objective"] == "mean_flow"
        self.channels, self.patch_size = (3, 16) if self.is_jit else (4, 2)
        self.d, self.side, self.tap = d, side, size["tap"]
        if self.is_jit:
            first = nn.Conv2d(3, BOTTLENECK, 16, 16, bias=False)
            self.patch = nn.Sequential(first, nn.Conv2d(BOTTLENECK, d, 1))
            self.context = nn.Parameter(torch.randn(1, NUM_CONTEXT, d) * 0.02)
            self.final_norm = nn.RMSNorm(d, eps=1e-6)
            angles = torch.rand(side * side, d // heads // 2).repeat_interleave(2, -1)
            before = torch.cat([torch.zeros(NUM_CONTEXT, d // heads), angles])
            for name, table in (("turns", angles), ("turns_with_context", before)):
                self.register_buffer(name, torch.stack([table.cos(), table.sin()]))
        else:
            self.patch = nn.Conv2d(4, d, 2, 2)
        self.pos = nn.Parameter(torch.randn(1, side * side, d), requires_grad=False)
        self.t1, self.t2 = nn.Linear(256, d), nn.Linear(d, d)
        if self.has_interval:
            self.r1, self.r2 = nn.Linear(256, d), nn.Linear(d, d)
        self.labels = nn.Embedding(1001, d)
        self.blocks = nn.ModuleList([(JiTBlock if self.is_jit else Block)(d, heads) for _ in range(depth)])
        self.ada, self.last = nn.Linear(d, 2 * d), nn.Linear(d, self.channels * self.patch_size**2)
        self.is_conv, self.recomputes = size["projector"] == "conv", size["recomputes"]
        if self.is_conv:
            self.projector = nn.Conv2d(d, size["target"], 3, padding=1)
        else:
            first, second, third = nn.Linear(d, MLP), nn.Linear(MLP, MLP), nn.Linear(MLP, size["target"])
            self.projector = nn.Sequential(first, nn.SiLU(), second, nn.SiLU(), third)

    def through(self, block, *inputs):
        return checkpoint(block, *inputs, use_reentrant=False) if self.recomputes else block(*inputs)

    def project(self, tokens):
        if not self.is_conv:
            return self.projector(tokens)
        grid = tokens.transpose(1, 2).reshape(len(tokens), self.d, self.side, self.side)
        return self.projector(grid).flatten(2).transpose(1, 2)

    def features(self, t):
        frequencies = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32, device=t.device) / 128)
        angles = t[:, None] * frequencies[None]
        return torch.cat([angles.cos(), angles.sin()], -1)

    def forward(self, x, t, y, r=None):
        batch, patches = x.shape[0], self.side**2
        label = self.labels(y)
        c = self.t2(F.silu(self.t1(self.features(t)))) + label
        if self.has_interval:
            c = c + self.r2(F.silu(self.r1(self.features(t - r))))
        c = F.silu(c)
        h = self.patch(x).flatten(2).transpose(1, 2) + self.pos
        projected = None
        for i, block in enumerate(self.blocks):
            if not self.is_jit:
                h = self.through(block, h, c)
            else:
                if i == CONTEXT_START:
                    h = torch.cat([label.unsqueeze(1) + self.context, h], 1)
                turns = self.turns_with_context if i >= CONTEXT_START else self.turns
                h = self.through(block, h, c, (turns[0], turns[1]))
            if i + 1 == self.tap:
                projected = self.project(h[:, -patches:])
        shift, scale = self.ada(c).chunk(2, -1)
        h = h[:, -patches:]
        h = self.final_norm(h) if self.is_jit else F.layer_norm(h, (self.d,), eps=1e-6)
        h = self.last(modulate(h, shift, scale))
        p = self.patch_size
        h = h.reshape(batch, self.side, self.side, p, p, self.channels).permute(0, 5, 1, 3, 2, 4)
        return h.reshape(batch, self.channels, p * self.side, p * self.side), projected


def training(model, size, device):
    """One optimizer step as a function, and the gradient part of it."""
    params = [p for p in model.parameters() if p.requires_grad]
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.AdamW(params, lr=1e-4, weight_decay=0.0, fused=True)
    batch, side = size["batch"], model.patch_size * size["side"]
    x0 = torch.randn(batch, model.channels, side, side, device=device)
    target = torch.randn(batch, size["side"] ** 2, size["target"], device=device)
    y = torch.randint(0, 1000, (batch,), device=device)

    def flow_matching(noise, times):
        t = times[0]
        time_ = t.reshape(-1, 1, 1, 1)
        prediction, projected = model((1 - time_) * x0 + time_ * noise, t, y)
        return (prediction - (noise - x0)).square().mean(), projected

    def mean_flow(noise, times):
        t, r = times.amax(0), times.amin(0)
        r = torch.where(torch.arange(batch, device=device) < int(batch * 0.75), t, r)
        time_, v = t.reshape(-1, 1, 1, 1), noise - x0
        xt = (1 - time_) * x0 + time_ * noise

        def network(x, t, r):
            return model(x, t, y, r)

        with sdpa_kernel(SDPBackend.MATH):
            tangents = (v, torch.ones_like(t), torch.zeros_like(r))
            u, dudt, projected = torch.func.jvp(network, (xt, t, r), tangents, has_aux=True)
        u_target = (v - (t - r).clamp(0, 1).reshape(-1, 1, 1, 1) * dudt).detach()
        error = (u - u_target).square().sum((1, 2, 3))
        return (error / (error.detach() + 0.01)).mean(), projected

    def loss(noise, times):
        denoising, projected = (mean_flow if model.has_interval else flow_matching)(noise, times)
        aligned = F.cosine_similarity(projected.float(), target, dim=-1, eps=1e-12).mean()
        return denoising.float() - 0.5 * aligned

    computed = torch.compile(loss) if size["compile"] else loss

    def differentiate():
        with torch.autocast(device.type, torch.bfloat16, enabled=size["precision"] == "bf16"):
            total = computed(torch.randn_like(x0), torch.rand(2, batch, device=device))
        total.backward()

    def step():
        differentiate()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, [p.detach() for p in model.parameters()], 1e-4)

    return step, differentiate


def sampling(model, size, device):
    """A batch of samples by Euler-Maruyama on the reverse SDE with diffusion 2t, as REPA writes it."""
    batch, side, last = size["batch"], model.patch_size * size["side"], 0.04
    y = torch.randint(0, 1000, (batch,), device=device)
    model.tap = 0  # samples need no projector
    network = torch.compile(model) if size["compile"] else model

    def drift(x, t):
        with torch.autocast(device.type, torch.bfloat16, enabled=size["precision"] == "bf16"):
            velocity = network(x.float(), torch.full((batch,), t, device=device), y)[0].double()
        ratio, variance = t - 1, t * t - (t - 1) * t
        return velocity - (ratio * velocity - x) / variance * t

    @torch.inference_mode()
    def sample():
        x = torch.randn(batch, model.channels, side, side, device=device, dtype=torch.float64)
        times = torch.linspace(1.0, last, size["num_steps"], dtype=torch.float64).tolist()
        for t, t_next in zip(times, times[1:]):
            kick = torch.randn_like(x) * math.sqrt(2 * t) * math.sqrt(t - t_next)
            x = x + drift(x, t) * (t_next - t) + kick
        return x - drift(x, times[-1]) * times[-1]

    return sample


def count_flops(differentiate):
    """Floating-point operations of forward and backward pass, attention taken apart into its products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        differentiate()
    return counter.get_total_flops()


def main():
    size = json.loads(sys.argv[1])
    device = torch.device(size["device"])
    torch.set_num_threads(size["threads"])
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = size["precision"] == "tf32"
    model = Step(size).to(device)
    about = {"version": torch.__version__, "num_params": sum(p.numel() for p in model.parameters() if p.requires_grad)}
    if device.type == "cuda":
        about["device_name"] = torch.cuda.get_device_name(device)
    if size["task"] == "sample":
        step = sampling(model.eval(), size, device)
    else:
        step, differentiate = training(model, size, device)
        if size["count_flops"]:
            about["flops"] = count_flops(differentiate)

    def synchronize():
        if device.type == "cuda":
            torch.cuda.synchronize()

    def finished(count):
        for _ in range(count):
            step()
        synchronize()

    def times(count):
        """Milliseconds of each step; on a GPU, which works behind the program, their mean."""
        if device.type != "cuda":
            return [time_of(step) for _ in range(count)]
        finished(1)
        found = [time_of(lambda: finished(count)) / count]
        torch.cuda.empty_cache()  # the other programs need it now
        return found

    serve(about, times, (lambda: torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else None)


main()
