"""The figures as a picture: bars in an SVG that reads on light and on dark pages."""

from collections.abc import Mapping
from html import escape
from typing import Any

COLOURS = {"taskflow": "#2f81f7", "peer": "#9a6b2f", "floor": "#8b949e"}
LABELS = {"taskflow": "taskflow", "peer": "Flask + gunicorn", "floor": "bare Starlette + asyncpg"}
WIDTH, LEFT, RIGHT = 760, 170, 150
BAR, GAP, TOP = 16, 14, 62


def _text(x: float, y: float, words: str, attributes: str = "") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" {attributes}>{escape(words)}</text>'


def chart(title: str, figures: Mapping[str, Mapping[str, Any]], names: Mapping[str, str]) -> str:
    """An SVG with a group of bars for each call: requests per second, more is better.

    `figures` hold `per_second` by call and side; `names` tell what the calls are called.
    """
    most = max(
        cells[side]["per_second"] for cells in figures.values() for side in COLOURS if side in cells
    )
    parts: list[str] = [_text(0, 18, title, 'font-size="15" font-weight="600"')]
    x = 0.0
    for side, colour in COLOURS.items():
        parts.append(f'<rect x="{x:.0f}" y="32" width="12" height="12" fill="{colour}"/>')
        parts.append(_text(x + 18, 43, LABELS[side]))
        x += 46 + 7.5 * len(LABELS[side])
    y = TOP
    for call, cells in figures.items():
        sides = [side for side in COLOURS if side in cells]
        middle = y + len(sides) * BAR / 2 + 4
        parts.append(_text(LEFT - 12, middle, names[call], 'text-anchor="end"'))
        for side in sides:
            rate = cells[side]["per_second"]
            length = max(1.0, (WIDTH - LEFT - RIGHT) * rate / most)
            parts.append(
                f'<rect x="{LEFT}" y="{y + 1}" width="{length:.1f}" height="{BAR - 2}"'
                f' fill="{COLOURS[side]}"/>'
            )
            told = f"{rate:,}"
            if side == "taskflow" and "against_peer" in cells:
                told += f"  ({cells['against_peer']:.1f} times Flask)"
            parts.append(_text(LEFT + length + 6, y + BAR - 4, told))
            y += BAR
        y += GAP
    # The grey is readable on white and on black.
    style = "font-family: system-ui, sans-serif; font-size: 12px; fill: #7d8590"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img">'
        f"<title>{escape(title)}</title>"
        f"<style>text {{ {style} }}</style>{''.join(parts)}</svg>\n"
    )
