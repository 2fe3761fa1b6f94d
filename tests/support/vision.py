"""How colours look to colour-blind readers, how far apart two are, and how a text stands out from its ground.

Colours are arrays of sRGB in 0..1, the last axis the channels.
"""

import numpy as np

# Machado, Oliveira and Fernandes (2009), "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# IEEE TVCG 15(6), doi:10.1109/TVCG.2009.113: their matrices at severity 1.0, for linear RGB.
KINDS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
"""IEC 61966-2-1, white D65."""

FAR = 20.0
"""Least distance in CIELAB (1976) of two colours that must not be taken for each other.

Two large areas side by side are told apart from 2.3 on. Figures have small marks apart from one another: for a mark of
a quarter of a degree Stone, Szafir and Setlur (2014) find that half of the readers need 8 in lightness, 12 in a and 17
in b. Twenty is beyond each of these, and all that is told by colour is told by a word or a shape as well.
"""


def to_linear(colours):
    """Light of sRGB."""
    colours = np.asarray(colours, dtype=float)
    return np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)


def to_srgb(light):
    """The inverse of `to_linear`, cut to what a screen can show."""
    light = np.clip(light, 0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def simulate(colours, kind):
    """What a reader with one of KINDS sees."""
    return to_srgb(to_linear(colours) @ np.array(KINDS[kind]).T)


def to_lab(colours):
    """CIELAB, white D65."""
    xyz = to_linear(colours) @ SRGB_TO_XYZ.T / SRGB_TO_XYZ.sum(axis=1)
    curved = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = np.moveaxis(curved, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def distance(one, other):
    """Of two colours in CIELAB (1976)."""
    return float(np.linalg.norm(to_lab(one) - to_lab(other)))


def luminance(colours):
    """Relative luminance, as in WCAG 2."""
    return to_linear(colours) @ SRGB_TO_XYZ[1]


def contrast(one, other):
    """Ratio of contrast of two colours, 1 to 21, as in WCAG 2."""
    low, high = sorted([float(luminance(one)), float(luminance(other))])
    return (high + 0.05) / (low + 0.05)
