"""What `realign bench data` is compared with: a DataLoader over JPEG files with ADM's center crop, and DINOv2's preprocessing. A step is a batch.
"""
import json
import os
import sys

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image

MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def center_crop(picture, size):
    """ADM's crop, as iREPA and REPA write it."""
    while min(*picture.size) >= 2 * size:
        picture = picture.resize(tuple(x // 2 for x in picture.size), resample=Image.BOX)
    scale = size / min(*picture.size)
    picture = picture.resize(tuple(round(x * scale) for x in picture.size), resample=Image.BICUBIC)
    pixels = np.array(picture)
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return Image.fromarray(pixels[top : top + size, left : left + size])


def write_pictures(folder, count, sizes):
    """Gradients with noise of every scale, as photographs have it, in JPEG with halved colors."""
    generator = torch.Generator().manual_seed(0)
    os.makedirs(os.path.join(folder, "a"), exist_ok=True)
    for i in range(count):
        width, height = sizes[i % len(sizes)]
        pixels = torch.zeros(1, 3, height, width)
        for scale in (2, 4, 8, 16, 32, 64, 128):
            coarse = torch.randn(1, 3, -(-height // scale) + 1, -(-width // scale) + 1, generator=generator)
            pixels += F.interpolate(coarse, (height, width), mode="bilinear") * scale**0.5
        pixels += torch.linspace(-20, 20, width) + torch.linspace(-20, 20, height)[:, None]
        pixels = (128 + 6 * pixels).clamp(0, 255).byte()[0].permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(os.path.join(folder, "a", f"{i:04}.jpg"), quality=90)


class Loader:
    def __init__(self, size, settings):
        transforms = torchvision.transforms.Compose([
            torchvision.transforms.Lambda(lambda picture: center_crop(picture, size)),
            torchvision.transforms.RandomHorizontalFlip(),
            torchvision.transforms.PILToTensor(),
        ])
        write_pictures(settings["folder"], settings["pictures"], settings["sizes"])
        self.data = torchvision.datasets.ImageFolder(settings["folder"], transforms)
        self.options = {"batch_size": settings["batch"], "num_workers": settings["workers"], "drop_last": True}
        self.options["persistent_workers"] = settings["workers"] > 0
        self.loader = torch.utils.data.DataLoader(self.data, shuffle=True, **self.options)
        self.batches = iter(self.loader)

    def __call__(self):
        try:
            pictures, _ = next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            pictures, _ = next(self.batches)
        return pictures


class Preprocessing:
    def __init__(self, size, settings):
        self.pictures = torch.randint(0, 256, (settings["batch"], 3, size, size)).float()

    def __call__(self):
        pictures = F.interpolate(self.pictures / 255.0, (224, 224), mode="bicubic")
        return torchvision.transforms.functional.normalize(pictures, MEAN, DEVIATION)


def main():
    settings = json.loads(sys.argv[1])
    torch.set_num_threads(max(1, settings["threads"]))
    torch.manual_seed(0)
    task = {"load": Loader, "preprocess": Preprocessing}[settings["task"]](settings["size"], settings)

    def step():
        with torch.inference_mode():
            task()

    version = f"{torch.__version__}, torchvision {torchvision.__version__}, Pillow {Image.__version__}"
    serve({"version": version, "num_params": 0}, lambda count: [time_of(step) for _ in range(count)])


main()
