"""Histograms as SVG: one row per split over a common axis, so that their shapes can be compared."""

from collections.abc import Mapping, Sequence

import numpy as np

STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
MOST_BARS = 30
WIDTH, ROW, LEFT, BOTTOM = 360, 62, 34, 18  # of the picture, in SVG units


def histogram(groups: Mapping[str, Sequence[float]], least_step: float) -> str:
    """An <svg> with a row of bars for each group, whose CSS class is the name of the group; empty without values.

    Heights are shares of the group. The last bar holds everything beyond the 99.5th percentile.
    """
    if not groups:
        return ""
    values_of_all = np.concatenate([np.asarray(values, float) for values in groups.values()])
    top = float(np.quantile(values_of_all, 0.995))
    step = next((s for s in STEPS if s >= least_step and top / s < MOST_BARS), STEPS[-1])
    bars = int(_bar([top], step)[0]) + 1
    shares = {
        name: np.bincount(np.minimum(_bar(values, step), bars), minlength=bars + 1) / len(values)
        for name, values in groups.items()
    }
    highest = max(share.max() for share in shares.values())
    wide = (WIDTH - LEFT) / (bars + 1)
    height = ROW * len(shares) + BOTTOM
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img">']
    for row, (name, share) in enumerate(shares.items()):
        floor = ROW * (row + 1) - 4
        parts.append(f'<text x="{LEFT - 6}" y="{floor - 2}" text-anchor="end">{name}</text>')
        for number, part in enumerate(share):
            tall = part / highest * (ROW - 12)
            if tall:
                x = LEFT + number * wide
                span = f"{number * step:g} to {(number + 1) * step:g}" if number < bars else f"{bars * step:g} or more"
                parts.append(
                    f'<rect class="{name}" x="{x + 0.5:.1f}" y="{floor - tall:.1f}" width="{wide - 1:.1f}" '
                    f'height="{tall:.1f}"><title>{name}, {span}: {part:.1%}</title></rect>'
                )
        parts.append(f'<line class="axis" x1="{LEFT}" y1="{floor}" x2="{WIDTH}" y2="{floor}"/>')
    every = max(1, -(-bars // 6))
    for number in range(0, bars, every):
        x = LEFT + number * wide
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{number * step:g}</text>')
    parts.append(f'<text x="{WIDTH}" y="{height - 6}" text-anchor="end">{bars * step:g}+</text></svg>')
    return "".join(parts)


def _bar(values: Sequence[float], step: float) -> np.ndarray:
    """The number of each value's bar: 1.2 belongs to the bar that begins at 1.2, whatever 1.2 / 0.1 is in floats."""
    return np.floor(np.asarray(values) / step + 1e-6).astype(int)
