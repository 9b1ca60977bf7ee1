"""The people of the generated corpus: how they look, how long their arms are and what their habits do to a sign."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Signer:
    """Looks (RGB 0..255), proportions and habits of one person; lengths in frame widths or relative to the average."""

    name: str
    skin: tuple[int, int, int]
    hair: tuple[int, int, int]
    shirt: tuple[int, int, int]
    wall: tuple[int, int, int]
    long_hair: bool
    shoulders: float  # their distance, in frame widths
    arm: float
    hand: float  # size in the crop
    thickness: float  # of fingers
    face: tuple[float, float]  # half width and half height, in crop widths
    brows: float  # thickness
    tempo: float  # larger is slower
    jitter: float
    left_handed: bool = False


SIGNERS = (
    Signer("ana", (224, 172, 138), (70, 42, 28), (40, 74, 120), (196, 192, 182), True, 0.27, 1.0, 1.0, 0.95,
           (0.27, 0.36), 0.9, 1.0, 0.8),
    Signer("bruno", (190, 132, 98), (28, 22, 20), (34, 36, 40), (214, 160, 98), False, 0.33, 1.05, 1.05, 1.12,
           (0.29, 0.37), 1.4, 0.9, 1.0),
    Signer("carla", (240, 200, 172), (178, 128, 62), (150, 44, 62), (120, 140, 128), True, 0.25, 0.95, 0.92, 0.9,
           (0.25, 0.35), 0.8, 1.1, 1.1),
    Signer("diego", (128, 84, 60), (20, 16, 16), (208, 200, 186), (84, 96, 122), False, 0.31, 1.08, 1.08, 1.05,
           (0.28, 0.38), 1.3, 1.0, 0.9),
    Signer("elena", (214, 158, 124), (120, 118, 116), (64, 110, 84), (226, 222, 214), True, 0.26, 0.97, 0.95, 1.0,
           (0.28, 0.34), 1.0, 1.2, 1.3),
    Signer("fabio", (232, 184, 154), (110, 66, 38), (222, 172, 60), (70, 62, 74), False, 0.30, 1.0, 1.0, 1.1,
           (0.30, 0.36), 1.2, 0.95, 1.0),
    Signer("gala", (164, 110, 80), (36, 26, 24), (122, 84, 140), (170, 196, 204), True, 0.28, 1.0, 0.97, 0.92,
           (0.26, 0.36), 1.0, 0.85, 0.9, left_handed=True),
    Signer("hugo", (206, 150, 118), (198, 194, 188), (88, 60, 44), (140, 170, 110), False, 0.29, 0.96, 1.04, 1.15,
           (0.29, 0.35), 1.1, 1.15, 1.2),
    # From here on, those who sign in the hard level's test only.
    Signer("ivo", (244, 208, 184), (150, 74, 36), (92, 98, 106), (176, 150, 170), False, 0.32, 1.06, 1.02, 1.0,
           (0.27, 0.38), 1.15, 1.05, 1.1),
    Signer("julia", (150, 100, 72), (46, 30, 24), (206, 120, 60), (98, 132, 150), True, 0.26, 0.98, 0.94, 0.97,
           (0.26, 0.34), 0.95, 0.92, 0.95),
    Signer("kira", (106, 70, 52), (24, 20, 20), (96, 150, 160), (200, 178, 140), True, 0.285, 1.03, 0.99, 0.94,
           (0.285, 0.36), 1.05, 1.12, 1.05, left_handed=True),
    Signer("leo", (220, 168, 130), (88, 80, 74), (120, 52, 70), (124, 112, 96), False, 0.3, 1.02, 1.06, 1.08,
           (0.3, 0.375), 1.3, 0.97, 1.15),
)  # fmt: skip
