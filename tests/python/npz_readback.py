"""Reads an exported `.npz` with numpy, as the ADM evaluator does, and prints what it finds, as JSON.

Usage: python npz_readback.py FILE    (needs the `numpy` package)

    {"shape": [num, height, width, 3], "dtype": "uint8", "mean": ..., "sha256": digest of the array's bytes}

It fails when the archive is damaged, is compressed, holds anything but `arr_0`, or is no array of RGB pictures.
"""

import hashlib
import json
import sys
import zipfile

import numpy as np


def main():
    if len(sys.argv) != 2:
        sys.exit("usage: npz_readback.py FILE")
    with zipfile.ZipFile(sys.argv[1]) as archive:
        names = [entry.filename for entry in archive.infolist()]
        assert names == ["arr_0.npy"], f"entries {names}"
        assert archive.infolist()[0].compress_type == zipfile.ZIP_STORED, "the entry is compressed"
        assert archive.testzip() is None, "the checksum is wrong"
    with np.load(sys.argv[1]) as arrays:
        pictures = arrays["arr_0"]
    assert pictures.dtype == np.uint8, f"dtype {pictures.dtype}"
    assert pictures.ndim == 4 and pictures.shape[3] == 3, f"shape {pictures.shape}"
    assert pictures.flags.c_contiguous, "not in C order"
    found = {
        "shape": list(pictures.shape),
        "dtype": str(pictures.dtype),
        "mean": float(pictures.mean()),
        "sha256": hashlib.sha256(pictures.tobytes()).hexdigest(),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
