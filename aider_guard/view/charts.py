"""Draws charts as SVG: a line over time with marks, and stacked bars, with a title on each thing that is pointed at.

No library: plotly inlined is 4 MB a file, matplotlib takes 70 MB on disk and a second to load, and pygal's charts fetch
a script and have no marks. What is needed is two kinds of chart; colours are classes, so that the page's style sheet
decides on them in the light and the dark.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 720, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 12, 28
_BARS_WIDTH = _WIDTH - _LEFT - _RIGHT
_PLOT_HEIGHT = _HEIGHT - _TOP - _BOTTOM


@dataclass(frozen=True)
class Axis:
    """The upper end of the vertical axis, and the words for a value on it."""

    most: float
    words: Callable[[float], str]


@dataclass(frozen=True)
class Series:
    """One kind of value in a chart of bars; ``style`` is the class that colours it."""

    name: str
    style: str
    values: Sequence[float]


def line_chart(
    label: str,
    points: Sequence[tuple[float, float]],
    marks: Sequence[tuple[float, str, str]],
    *,
    most_seconds: float,
    axis: Axis,
) -> str:
    """Return a line over time as steps: a value holds until the next. Marks are a time, a class and words."""
    end = max(most_seconds, 1e-9)

    def x(seconds: float) -> float:
        return _LEFT + _BARS_WIDTH * min(max(seconds / end, 0.0), 1.0)

    drawn = [
        f'<line class="mark {escape(style)}" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{_TOP}"'
        f' y2="{_HEIGHT - _BOTTOM}"><title>{escape(words)}</title></line>'
        for at, style, words in marks
    ]
    steps: list[str] = []
    for at, value in points:
        if steps:
            steps.append(f"H{x(at):.1f}")
        steps.append(f"{'L' if steps else 'M'}{x(at):.1f} {_y(value, axis.most):.1f}")
    if steps:
        drawn.append(f'<path class="line" d="{"".join(steps)}H{x(most_seconds):.1f}"/>')
    drawn += [
        f'<circle class="point" cx="{x(at):.1f}" cy="{_y(value, axis.most):.1f}" r="3">'
        f"<title>{escape(axis.words(value))}</title></circle>"
        for at, value in points
    ]
    return _chart(label, [*_scale(axis), *drawn, *_time_labels(most_seconds)])


def stacked_bars(label: str, series: Sequence[Series], *, axis: Axis) -> str:
    """Return one bar a turn, with the kinds of values on top of each other."""
    turns = max((len(each.values) for each in series), default=0)
    width = _BARS_WIDTH / max(turns, 1)
    drawn: list[str] = []
    heights = [0.0] * turns
    for each in series:
        for turn, value in enumerate(each.values):
            below, heights[turn] = heights[turn], heights[turn] + value
            top, bottom = _y(heights[turn], axis.most), _y(below, axis.most)
            title = f"turn {turn + 1}: {each.name} {axis.words(value)}"
            drawn.append(
                f'<rect class="{escape(each.style)}" x="{_LEFT + turn * width + width * 0.1:.1f}" y="{top:.1f}"'
                f' width="{width * 0.8:.1f}" height="{bottom - top:.1f}"><title>{escape(title)}</title></rect>'
            )
    every = max(1, turns // 12)
    drawn += [
        _text(_LEFT + (turn + 0.5) * width, _HEIGHT - 10, str(turn + 1), "middle")
        for turn in range(0, turns, every)
    ]
    return _chart(label, [*_scale(axis), *drawn])


def _chart(label: str, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
    return "\n".join([head, *parts, "</svg>"])


def _y(value: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - _PLOT_HEIGHT * min(max(value / max(most, 1e-9), 0.0), 1.0)


def _scale(axis: Axis) -> list[str]:
    parts = []
    for share in (0.0, 0.5, 1.0):
        y = _y(share * axis.most, axis.most)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(_LEFT - 6, y + 4, axis.words(share * axis.most), "end"))
    return parts


def _time_labels(most_seconds: float) -> list[str]:
    ends = ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    return [
        _text(_LEFT + share * _BARS_WIDTH, _HEIGHT - 10, minutes(share * most_seconds), anchor)
        for share, anchor in ends
    ]


def minutes(seconds: float) -> str:
    """Return a duration in words: 45 s, 12 min, 1 h 05 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    whole = round(seconds / 60)
    return f"{whole} min" if whole < 60 else f"{whole // 60} h {whole % 60:02} min"


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
