#!/usr/bin/env python3
"""Noise suppression by NSNet2: the spectra that the network reads, and the signal-to-noise ratio of what its gains leave.

usage: nsnet2.py features SPEECH.wav OUT.npy        log10 power spectra of the speech and white noise 10 dB below it, [1, time, 161]
       nsnet2.py windows SPEECH.wav OUT.npy         to calibrate on: seconds 0 to 20 apart, under another noise, [20, 99, 161]
       nsnet2.py score SPEECH.wav GAIN.npy...       the ratio in dB for each file of gains, of all and of what follows second 20
       nsnet2.py onnxruntime MODEL.onnx IN.npy OUT.npy

Frames of 320 samples every 160 under the square root of a Hann window, on the way in and on the way out. Noise has seed 0. Needs numpy; the last
form onnxruntime.
"""
import sys
import wave

import numpy as np

SIZE, HOP = 320, 160
WINDOW = np.sqrt(np.hanning(SIZE + 1)[:-1])


def speech(path):
    with wave.open(path) as f:
        assert (f.getframerate(), f.getnchannels(), f.getsampwidth()) == (16000, 1, 2), "16 kHz, mono, 16 bits"
        x = np.frombuffer(f.readframes(f.getnframes()), "<i2") / 32768
    return x[: len(x) // HOP * HOP]


def noisy(clean, seed=0):
    noise = np.random.default_rng(seed).normal(size=len(clean))
    return clean + noise * np.sqrt((clean**2).mean() / (noise**2).mean() / 10)


def spectra(x):
    starts = range(0, len(x) - SIZE + 1, HOP)
    return np.stack([np.fft.rfft(x[i : i + SIZE] * WINDOW) for i in starts])


def signal(frames, n):
    y = np.zeros(n)
    for i, frame in enumerate(np.fft.irfft(frames, SIZE)):
        y[i * HOP : i * HOP + SIZE] += frame * WINDOW
    return y


def features(x):
    return np.log10(np.maximum(np.abs(spectra(x)) ** 2, 1e-12)).astype(np.float32)


# Samples that may be calibrated on.
SEEN = 20 * 16000


def main(command, *words):
    if command == "features":
        np.save(words[1], features(noisy(speech(words[0])))[None])
    elif command == "windows":
        x = noisy(speech(words[0])[:SEEN], 1)
        np.save(words[1], np.stack([features(x[i : i + 16000]) for i in range(0, SEEN, 16000)]))
    elif command == "score":
        clean = speech(words[0])
        frames = spectra(noisy(clean))
        for path in words[1:]:
            y = signal(frames * np.load(path)[0], len(clean))
            # The first and the last frame have no neighbour.
            ratio = lambda part: 10 * np.log10((clean[part] ** 2).mean() / ((y - clean)[part] ** 2).mean())
            inner, later = (slice(start, len(frames) * HOP) for start in (HOP, SEEN))
            print(f"{path}: {ratio(inner):.3f} dB, from second 20 on {ratio(later):.3f} dB")
    elif command == "onnxruntime":
        import onnxruntime

        session = onnxruntime.InferenceSession(words[0], providers=["CPUExecutionProvider"])
        np.save(words[2], session.run(None, {session.get_inputs()[0].name: np.load(words[1])})[0])
    else:
        sys.exit(__doc__)


main(*(sys.argv[1:] or ["help"]))
