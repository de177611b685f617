#!/usr/bin/env python3
"""Keyword samples as a network of pictures reads them, [N, 1, 49, 10] in binary32: 200 to calibrate on, the others to judge by.

usage: keywords.py kws01_mfcc_int8.npz OUT        (needs numpy)
"""
import sys
from pathlib import Path

import numpy as np

data, out = np.load(sys.argv[1]), Path(sys.argv[2])
out.mkdir(parents=True, exist_ok=True)
x = (data["mfcc_int8"].astype(np.float32) - data["zero_point"]).astype(np.float32) * data["scale"]
for name, part in (("calibration", slice(0, 200)), ("test", slice(200, None))):
    np.savez(out / f"{name}.npz", x=x[part, None], label=data["label"][part].astype(np.int64))
