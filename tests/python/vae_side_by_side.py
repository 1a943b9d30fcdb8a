"""The autoencoder beside diffusers: the same random weights and pictures, errors and the ratio of the times.

Usage: vae_side_by_side.py PROGRAM PICTURES [--image-size 256] [--batch 4] [--rounds 3]

PROGRAM is the built `realign`, PICTURES a folder or zip of `<class>/<picture>`. Needs torch, diffusers and Pillow. A full
f8d4 autoencoder gets random weights, `realign prepare latents` encodes the pictures, and the moments that it wrote are
compared with those of diffusers for the same crops. Both are timed in turn, without loading weights.
"""

import argparse
import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image
from safetensors.torch import load_file, save_file

RECIPE = "recipes/sit.yaml"


def autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[128, 256, 512, 512],
        layers_per_block=2,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=256,
    ).eval()


def pictures_of(folder):
    files = sorted(Path(folder).glob("*/*.png"))
    arrays = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def encode(vae, pictures, batch):
    begin, moments = time.perf_counter(), []
    for part in pictures.split(batch):
        posterior = vae.encode(part).latent_dist
        moments.append(torch.cat([posterior.mean, posterior.std], 1))
    return torch.cat(moments), time.perf_counter() - begin


def ours(program, sets, out, batch, count):
    command = [program, "prepare", "latents", RECIPE, "--profile", "tiny-imagenet", "--out", str(out)]
    command += ["--batch", str(batch), "--shard", str(count)]
    for item in sets:
        command += ["--set", item]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seconds = float(re.search(r"latents in ([\d.]+) s", said).group(1))
    return load_file(out / "latents-00000.safetensors")["moments"], seconds


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("pictures")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        vae, weights, crops = autoencoder(), folder / "vae.safetensors", folder / "crops"
        save_file({name: value.contiguous() for name, value in vae.state_dict().items()}, weights)
        size = str(args.image_size)
        subprocess.run([args.program, "prepare", "images", args.pictures, "--out", str(crops), "--image-size", size], check=True)
        pictures = pictures_of(crops)
        sets = [
            "data={type: image_folder, path: %s}" % crops,
            f"image_size={size}",
            "device=cpu",
            "autoencoder={type: sd_vae, weights: {type: file, path: %s}, latent_norm: {type: fixed_scale}}" % weights,
        ]
        encode(vae, pictures[: args.batch], args.batch)
        ratios = []
        for turn in range(args.rounds):
            expected, theirs_s = encode(vae, pictures, args.batch)
            found, ours_s = ours(args.program, sets, folder / f"cache-{turn}", args.batch, len(pictures))
            error = ((found - expected).abs().max() / expected.abs().max()).item()
            ratios.append(ours_s / theirs_s)
            print(f"round {turn}: largest error {error:.1e} of the largest value, {ours_s:.1f} s, diffusers {theirs_s:.1f} s, ratio {ratios[-1]:.3f}")
        print(f"median ratio of the times {sorted(ratios)[len(ratios) // 2]:.3f}")


if __name__ == "__main__":
    main()
