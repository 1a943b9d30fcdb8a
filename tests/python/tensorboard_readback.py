"""Reads a folder of TensorBoard event files with TensorBoard itself and prints what it finds, as JSON.

Usage: python tensorboard_readback.py FOLDER    (needs the `tensorboard` package)

    {"scalars":    {tag: [[step, value], ...]},
     "images":     {tag: [{"step", "width", "height"}, ...]},
     "histograms": {tag: [{"step", "num", "min", "max", "sum", "buckets"}, ...]},
     "texts":      {tag: [[step, text], ...]}}

It fails when a picture is no PNG of the size the event states, or when a histogram's buckets do not add up.
"""

import json
import struct
import sys
import zlib

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
KEEP_ALL = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0, "compressedHistograms": 1, "audio": 1}


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: tensorboard_readback.py FOLDER")
    events = EventAccumulator(sys.argv[1], size_guidance=KEEP_ALL)
    events.Reload()
    tags = events.Tags()
    texts = [tag for tag in tags["tensors"] if events.SummaryMetadata(tag).plugin_data.plugin_name == "text"]
    found = {
        "scalars": {tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in tags["scalars"]},
        "images": {tag: [read_image(tag, e) for e in events.Images(tag)] for tag in tags["images"]},
        "histograms": {tag: [read_histogram(tag, e) for e in events.Histograms(tag)] for tag in tags["histograms"]},
        "texts": {tag: [read_text(e) for e in events.Tensors(tag)] for tag in texts},
    }
    print(json.dumps(found, indent=1))


def read_image(tag, event):
    width, height = decode_png_size(event.encoded_image_string)
    assert (width, height) == (event.width, event.height), (
        f"{tag} step {event.step}: the event says {event.width}x{event.height}, the PNG is {width}x{height}"
    )
    return {"step": event.step, "width": width, "height": height}


def decode_png_size(png):
    """Width and height of an RGB PNG, after checking that its pixels unpack to exactly that size."""
    assert png[:8] == PNG_SIGNATURE, "not a PNG"
    width, height, depth, color = struct.unpack(">IIBB", png[16:26])
    assert (depth, color) == (8, 2), f"expected 8-bit RGB, found depth {depth}, color type {color}"
    packed, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, content = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        (checksum,) = struct.unpack(">I", png[at + 8 + length : at + 12 + length])
        assert zlib.crc32(kind + content) == checksum, f"checksum of {kind}"
        packed += content if kind == b"IDAT" else b""
        at += 12 + length
    num_bytes = len(zlib.decompress(packed))
    assert num_bytes == height * (1 + 3 * width), f"{num_bytes} bytes of pixels for {width}x{height}"
    return width, height


def read_histogram(tag, event):
    value = event.histogram_value
    assert sum(value.bucket) == value.num, f"{tag} step {event.step}: buckets hold {sum(value.bucket)} of {value.num}"
    assert len(value.bucket) == len(value.bucket_limit)
    return {
        "step": event.step,
        "num": value.num,
        "min": value.min,
        "max": value.max,
        "sum": value.sum,
        "buckets": len(value.bucket),
    }


def read_text(event):
    return [event.step, event.tensor_proto.string_val[0].decode("utf-8")]


if __name__ == "__main__":
    main()
