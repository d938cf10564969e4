"""Risk against the share of frames that are asked about, as SVG. Pure."""

from __future__ import annotations

from framegate.pipeline.promise.calibration import Judgement, Setting

_WIDTH, _HEIGHT, _LEFT, _TOP = 640, 400, 70, 30
_RIGHT, _BOTTOM = 20, 60
_STYLE = "font-family='sans-serif' font-size='13' fill='currentColor'"


def as_svg(judgement: Judgement, alpha: float) -> str:
    """A picture of 640 x 400: all thresholds, those certified filled, the oracle dashed."""
    most = 1.1 * max(alpha, *(one.risk for one in judgement.settings))
    points = [(_x(one.asked), _y(one.risk, most), one) for one in judgement.settings]
    oracle = [(_x(one.oracle), _y(one.risk, most)) for one in judgement.settings]
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{_WIDTH}' height='{_HEIGHT}'>",
        *_axes(most),
        _line(oracle, "stroke='#888' stroke-dasharray='5 4'"),
        _line([(x, y) for x, y, _ in points], "stroke='#1f6fb4' stroke-width='2'"),
        _line([(_x(0), _y(alpha, most)), (_x(1), _y(alpha, most))], "stroke='#c33'"),
        f"<text x='{_x(1) - 4}' y='{_y(alpha, most) - 5}' text-anchor='end' {_STYLE}>"
        "promised</text>",
        *(_dot(x, y, one, judgement) for x, y, one in points),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(share: float) -> float:
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(risk: float, most: float) -> float:
    return round(_TOP + (1 - risk / most) * (_HEIGHT - _TOP - _BOTTOM), 1)


def _line(points: list[tuple[float, float]], style: str) -> str:
    placed = " ".join(f"{x},{y}" for x, y in points)
    return f"<polyline points='{placed}' fill='none' {style}/>"


def _dot(x: float, y: float, one: Setting, judgement: Judgement) -> str:
    fill = "#1f6fb4" if one.certified else "white"
    radius = 7 if one == judgement.best else 4
    said = f"doubt {one.least:g}: asked {one.asked:.1%}, wrong {one.risk:.2%}"
    return (
        f"<circle cx='{x}' cy='{y}' r='{radius}' fill='{fill}' stroke='#1f6fb4'>"
        f"<title>{said}</title></circle>"
    )


def _axes(most: float) -> list[str]:
    left, right, bottom = _x(0), _x(1), _y(0, most)
    parts = [_line([(left, _TOP), (left, bottom), (right, bottom)], "stroke='currentColor'")]
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = _x(part), _y(part * most, most)
        parts.append(
            f"<text x='{x}' y='{bottom + 18}' text-anchor='middle' {_STYLE}>{part:.0%}</text>"
        )
        parts.append(
            f"<text x='{left - 6}' y='{y + 4}' text-anchor='end' {_STYLE}>{part * most:.2%}</text>"
        )
    middle = (left + right) / 2
    what = "frames that the heavy pass is asked about (dashed: an oracle)"
    parts.append(
        f"<text x='{middle}' y='{_HEIGHT - 14}' text-anchor='middle' {_STYLE}>{what}</text>"
    )
    parts.append(f"<text x='8' y='18' {_STYLE}>frames that differ from the heavy pass</text>")
    return parts
