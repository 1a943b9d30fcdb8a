"""Compares `realign eval` with pytorch-fid, torch-fidelity and scipy, on pictures and weights that it draws.

    python tests/python/generation_metrics.py numbers REALIGN [COUNT]
    python tests/python/generation_metrics.py statistics [ROUNDS]
    python tests/python/generation_metrics.py cmmd REALIGN

Needs the packages numpy, scipy, torch, torchvision, pytorch-fid, torch-fidelity, transformers and safetensors.

`numbers` writes Inception's weights in the published layout (random kernels, norms set to the statistics of the pictures,
so that features are neither constant nor exploding) and two sets of COUNT pictures (500), runs REALIGN, the program, in
each convention, and prints every number beside the reference's; it fails when one differs by more than 1e-4 of itself.
`cmmd` does the same with a small CLIP of transformers.
`statistics` draws two sets of 10000 rows of 2048 features, and takes mean, covariance and distance of them with numpy and
scipy and with this project's test program `generation_speed` in turn, ROUNDS times (3): it prints both distances, the
fastest times and their ratio, and fails when the distances differ by more than 1e-4.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

TOLERANCE = 1e-4


def pictures(seed, count, shift):
    """Smooth colored noise of 64 x 64 pixels; `shift` moves its colors and roughness."""
    draw = np.random.RandomState(seed)
    coarse = torch.from_numpy(draw.randn(count, 3, 6 + shift, 6 + shift).astype(np.float32))
    fine = torch.from_numpy(draw.randn(count, 3, 64, 64).astype(np.float32))
    smooth = torch.nn.functional.interpolate(coarse, 64, mode="bicubic")
    tint = torch.from_numpy(draw.randn(count, 3, 1, 1).astype(np.float32))
    values = 128 + 40 * smooth + 10 * fine + 30 * tint + 6 * shift
    return values.clamp(0, 255).to(torch.uint8)


def save(path, images):
    np.savez(path, images.permute(0, 2, 3, 1).numpy())


def inception(weights, images):
    """torch-fidelity's network with random weights whose norms fit the pictures, written to a file."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Network
    torch.manual_seed(0)
    bare = Network.__new__(Network)
    loader = torch.load
    torch.load = lambda *_, **__: None
    original = torch.nn.Module.load_state_dict
    torch.nn.Module.load_state_dict = lambda self, state, *a, **k: None if state is None else original(self, state, *a, **k)
    Network.__init__(bare, "inception-v3-compat", ["2048", "logits_unbiased"], feature_extractor_weights_path="none")
    torch.load, torch.nn.Module.load_state_dict = loader, original
    for module in bare.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            torch.nn.init.uniform_(module.weight, 0.6, 1.4)
            torch.nn.init.uniform_(module.bias, -0.3, 0.3)
    torch.nn.init.normal_(bare.fc.weight, std=0.3)
    bare.train()
    with torch.no_grad():
        for part in images[:64].split(32):
            bare(part)
    bare.eval()
    torch.save(bare.state_dict(), weights)
    return bare


def features(network, images):
    """What ADM and torch-fidelity take: features, spatial features, logits."""
    spatial, out = [], {"2048": [], "logits_unbiased": []}
    hook = network.Mixed_6d.branch1x1.register_forward_hook(
        lambda _, __, map: spatial.append(map[:, :7].permute(0, 2, 3, 1).flatten(1)))
    with torch.no_grad():
        for part in images.split(50):
            found = network(part)
            out["2048"].append(found[0])
            out["logits_unbiased"].append(found[1])
    hook.remove()
    return [torch.cat(parts).double().numpy() for parts in (out["2048"], spatial, out["logits_unbiased"])]


def pytorch_fid_features(weights, images):
    from pytorch_fid import inception as module
    module.load_state_dict_from_url = lambda *_, **__: torch.load(weights)
    network = module.InceptionV3([3]).eval()
    with torch.no_grad():
        found = [network(part.float() / 255)[0].flatten(1) for part in images.split(50)]
    return torch.cat(found).double().numpy()


def distance(a, b):
    from pytorch_fid.fid_score import calculate_frechet_distance
    return calculate_frechet_distance(a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))


def precision_recall(samples, reference):
    def squared(a, b):
        return np.maximum((a**2).sum(1)[:, None] - 2 * a @ b.T + (b**2).sum(1)[None], 0)

    def radii(a):
        return np.sort(squared(a, a), axis=1)[:, 3]

    between = squared(samples, reference)
    return ((between <= radii(reference)[None]).any(1).mean(), (between <= radii(samples)[:, None]).any(0).mean())


def adm_score(logits, size=5000):
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    scores = []
    for at in range(0, len(p), size):
        part = p[at:at + size]
        scores.append(np.exp((part * (np.log(part) - np.log(part.mean(0, keepdims=True)))).sum(1).mean()))
    return np.mean(scores)


def run(realign, *arguments):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        subprocess.run([realign, "eval", *arguments, "--out", out], check=True, stdout=subprocess.DEVNULL)
        return {name: found["value"] for name, found in json.loads(out.read_text())["metrics"].items()}


def compare(title, found, expected):
    worst = 0
    for name, value in expected.items():
        gap = abs(found[name] - value) / max(abs(value), 1e-12)
        worst = max(worst, gap)
        print(f"{title:16} {name:24} {found[name]:14.8f} {value:14.8f}  {gap:.1e}")
    return worst


def numbers(realign, count=500):
    from torch_fidelity.metric_isc import isc_features_to_metric
    folder = Path(tempfile.mkdtemp())
    samples, reference = pictures(1, count, 1), pictures(2, count, 0)
    save(folder / "samples.npz", samples)
    save(folder / "reference.npz", reference)
    weights = folder / "inception.pth"
    network = inception(weights, reference)
    common = [folder / "samples.npz", "--reference", folder / "reference.npz", "--batch", "50"]

    def section(convention):
        return ["--features", f"{{type: inception, convention: {convention}, weights: {weights}}}"]

    (a, a_spatial, a_logits), (b, b_spatial, _) = features(network, samples), features(network, reference)
    precision, recall = precision_recall(a, b)
    adm = {"fid": distance(a, b), "sfid": distance(a_spatial, b_spatial), "inception_score": adm_score(a_logits),
           "precision": precision, "recall": recall}
    worst = compare("adm", run(realign, *common, *section("adm")), adm)
    score = isc_features_to_metric(torch.from_numpy(a_logits), splits=10, shuffle=True, rng_seed=2020)
    fidelity = {"fid": distance(a, b), "inception_score": score["inception_score_mean"]}
    worst = max(worst, compare("torch_fidelity", run(realign, *common, *section("torch_fidelity")), fidelity))
    fid = distance(pytorch_fid_features(weights, samples), pytorch_fid_features(weights, reference))
    worst = max(worst, compare("pytorch_fid", run(realign, *common, *section("pytorch_fid")), {"fid": fid}))
    sys.exit(int(worst > TOLERANCE))


def cmmd(realign, count=60):
    from safetensors.torch import save_file
    from PIL import Image
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
    folder = Path(tempfile.mkdtemp())
    torch.manual_seed(0)
    vision = CLIPVisionConfig(hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                              image_size=84, patch_size=14, projection_dim=20)
    text = CLIPTextConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                          projection_dim=20, vocab_size=100)
    model = CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=20)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3) if parameter.ndim > 1 else None
    state = {name.replace("vision_model.embeddings.position_ids", ""): value.contiguous()
             for name, value in model.state_dict().items() if not name.endswith("position_ids")}
    save_file(state, folder / "clip.safetensors")
    samples, reference = pictures(1, count, 1), pictures(2, count, 0)
    save(folder / "samples.npz", samples)
    save(folder / "reference.npz", reference)
    mean, deviation = (np.array(values, np.float32) for values in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))

    def embed(images):
        # Pillow, as cmmd-pytorch does; transformers' own processor resizes with torchvision, whose bytes differ.
        resized = [Image.fromarray(image.permute(1, 2, 0).numpy()).resize((84, 84), Image.BICUBIC) for image in images]
        pixels = np.stack([(np.asarray(image, np.float32) / 255 - mean) / deviation for image in resized])
        with torch.no_grad():
            pooled = model.vision_model(pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2)).pooler_output
            found = model.visual_projection(pooled).double()
        return found / found.norm(dim=1, keepdim=True)

    def kernel(a, b):
        return torch.expm1(-torch.cdist(a, b)**2 / 200).mean()

    x, y = embed(samples), embed(reference)
    expected = 1000 * (kernel(x, x) + kernel(y, y) - 2 * kernel(x, y))
    tower = ("{type: vit, preset: null, hidden_size: 48, depth: 3, num_heads: 4, patch_size: 14, mlp_size: 96, "
             "class_token: true, position_grid: 6, activation: quick_gelu, patch_bias: false, pre_norm: true, "
             f"norm_eps: 1.0e-5, norm: true, normalization: clip, resize: bicubic, weights: {folder}/clip.safetensors}}")
    network = f"{{type: clip, image_size: 84, weights: {folder}/clip.safetensors, encoder: {tower}}}"
    found = run(realign, folder / "samples.npz", "--reference", folder / "reference.npz", "--features", network)
    sys.exit(int(compare("clip", found, {"mmd_own_clip": expected.item()}) > TOLERANCE))


def drawn_features(seed):
    """10000 rows of 2048 features that depend on one another, with deviations from 3 down to 0.001."""
    draw = np.random.RandomState(seed)
    deviations = 3 * np.exp(-np.arange(2048) / 256)
    mixed = draw.randn(10000, 2048) * deviations + 0.1 * draw.randn(1, 2048)
    rotation = np.linalg.qr(np.random.RandomState(9 + seed).randn(2048, 2048))[0]
    return (mixed @ rotation).astype(np.float32)


def numpy_statistics(a, b):
    from pytorch_fid.fid_score import calculate_frechet_distance
    start = time.time()
    (mean_a, covariance_a), (mean_b, covariance_b) = (
        (x.astype(np.float64).mean(0), np.cov(x.astype(np.float64), rowvar=False)) for x in (a, b))
    middle = time.time()
    found = calculate_frechet_distance(mean_a, covariance_a, mean_b, covariance_b)
    return {"statistics_s": middle - start, "root_s": time.time() - middle, "distance": float(found)}


def own_statistics(folder):
    command = ["cargo", "test", "--release", "--package", "realign-tests", "--test", "generation_speed", "--", "--nocapture"]
    done = subprocess.run(command, env={**os.environ, "REALIGN_FEATURES": folder}, check=True, capture_output=True, text=True)
    return json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))


def statistics(rounds=3):
    a, b = drawn_features(1), drawn_features(2)
    with tempfile.TemporaryDirectory() as folder:
        a.tofile(Path(folder) / "a.f32")
        b.tofile(Path(folder) / "b.f32")
        pairs = [(own_statistics(folder), numpy_statistics(a, b)) for _ in range(rounds)]
    ours, theirs = zip(*pairs)
    for key in ("statistics_s", "root_s"):
        print(f"{key:14} realign {min(one[key] for one in ours):6.2f}  numpy and scipy {min(one[key] for one in theirs):6.2f}")
    whole = [min(one["statistics_s"] + one["root_s"] for one in side) for side in (ours, theirs)]
    gap = abs(ours[0]["distance"] / theirs[0]["distance"] - 1)
    print(f"together {whole[1] / whole[0]:.2f} times as fast; distance {ours[0]['distance']:.6f}, "
          f"{theirs[0]['distance']:.6f}, {gap:.1e} apart")
    sys.exit(int(gap > TOLERANCE))


if __name__ == "__main__":
    commands = {"numbers": lambda realign, *count: numbers(realign, *map(int, count)), "cmmd": cmmd,
                "statistics": lambda *rounds: statistics(*map(int, rounds))}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])
