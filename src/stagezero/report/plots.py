"""Draws the figures of the report as inline SVG.

They contain no scripts and load no fonts, and they can be read without colour. The same run always
gives the same SVG.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

from stagezero.ledger.lineage import Influence, Lineage
from stagezero.report.gather import View

INK, SOFT, ACCENT, SECOND = "#1f2933", "#9aa5b1", "#0b6e4f", "#b25d00"
MIN_E_VALUE, MAX_E_VALUE = 1e-3, 1e7
"""Limits of the e-value axis; values beyond are drawn on the limit."""
MAX_TITLE_CHARS = 40
_MARKERS = "osD^vP"
K = TypeVar("K", bound=Hashable)


def _draw(width: float, height: float, paint: Callable[[Any], None]) -> str:
    """Return the SVG of a figure, of a size in inches, whose axes ``paint`` fills."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style = {
        "font.family": "sans-serif", "font.size": 9, "axes.edgecolor": SOFT, "axes.labelcolor": INK, "xtick.color": INK,
        "ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "stagezero", "svg.fonttype": "none",
    }  # fmt: skip
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        paint(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
        plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def _spread(heights: Mapping[K, float], gap: float) -> dict[K, float]:
    """Move the heights of labels up until no two are closer than ``gap``."""
    placed: dict[K, float] = {}
    floor = -math.inf
    for key, height in sorted(heights.items(), key=lambda pair: pair[1]):
        placed[key] = floor = max(height, floor + gap)
    return placed


def _clip(e: float) -> float:
    """Limit an e-value to the range of the axis."""
    return min(max(e, MIN_E_VALUE), MAX_E_VALUE)


def _shorten(title: str) -> str:
    """Shorten a title for a label."""
    return title if len(title) <= MAX_TITLE_CHARS else title[: MAX_TITLE_CHARS - 1] + "…"


def stages_picture(view: View) -> str:
    """Draw the alignment score of every stage with its interval, and each property."""

    def paint(axes: Any) -> None:
        stages = view.adopted
        last = {p: stages[-1].score(p).mean for p in view.properties}
        heights = _spread(last, 0.055)
        names = ["base", *(f"stage {s.number}" for s in stages)]
        spots = range(len(names))
        for i, prop in enumerate(view.properties):
            values = [view.base_score(prop).mean, *(s.score(prop).mean for s in stages)]
            axes.plot(spots, values, color=SOFT, lw=1, marker=_MARKERS[i % len(_MARKERS)], ms=4, zorder=1)
            axes.annotate(prop, (len(names) - 1, values[-1]), xytext=(len(names) - 0.9, heights[prop]), va="center", color=INK, fontsize=8)
        scores = [view.base_score("alignment"), *(s.score("alignment") for s in stages)]
        values = [e.mean for e in scores]
        errors = [
            [e.mean - e.low if math.isfinite(e.low) else 0 for e in scores],
            [e.high - e.mean if math.isfinite(e.high) else 0 for e in scores],
        ]
        axes.errorbar(spots, values, yerr=errors, color=ACCENT, lw=2.5, marker="o", ms=6, capsize=4, zorder=3)
        for x, e in zip(spots, scores, strict=True):
            axes.annotate(
                f"{e.mean:.2f}", (x, e.mean), xytext=(0, 9), textcoords="offset points", ha="center", color=ACCENT, fontweight="bold",
                zorder=4,
            )  # fmt: skip
        axes.axhline(0.5, color=SOFT, lw=0.8, ls=":")
        axes.annotate("refusing everything or nothing", (0, 0.5), xytext=(0, -10), textcoords="offset points", color=SOFT, fontsize=7)
        axes.set_xticks(list(spots), names)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(-0.3, len(names) - 1 + 0.75)
        axes.set_ylabel("score")

    return _draw(8.4, 3.8, paint)


def evidence_picture(view: View) -> str:
    """Draw the e-value of every idea after each pair."""

    def paint(axes: Any) -> None:
        longest = max((i.pairs for i in view.ideas), default=1)
        labelled = {n: math.log10(_clip(i.e_values[-1])) for n, i in enumerate(view.ideas) if i.e_values and i.established}
        heights = _spread(labelled, 0.7)
        for n, idea in enumerate(view.ideas):
            colour = ACCENT if idea.promoted else SECOND if idea.established else SOFT
            width, order = (2, 3) if idea.promoted else (1, 1)
            values = [_clip(e) for e in idea.e_values]
            axes.plot(range(1, len(values) + 1), values, color=colour, lw=width, marker="o", ms=3, zorder=order)
            if n in heights:
                label = f"stage {idea.stage}: {_shorten(idea.title)} ({idea.fate})"
                axes.annotate(
                    label, (len(values), values[-1]), xytext=(longest + 0.5, 10 ** heights[n]), va="center", color=INK, fontsize=7
                )
        axes.axhline(1.0, color=INK, lw=1, ls="--")
        axes.set_yscale("log")
        axes.set_xlim(0.7, longest * 1.95 + 1)
        axes.set_xticks(range(1, longest + 1, max(1, longest // 10)))
        axes.set_xlabel("paired replicates")
        axes.set_ylabel("e-value")

    return _draw(8.4, 3.6, paint)


def _box(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    """Draw a box with a text, centred on a point."""
    axes.annotate(
        text, (x, y), ha="center", va="center", fontsize=7, color=INK, zorder=4,
        bbox={"boxstyle": "round,pad=0.45", "fc": "#ffffff", "ec": colour, "lw": 1.2}, annotation_clip=False,
    )  # fmt: skip


def _wrapped(text: str, width: int = 24, lines: int = 3) -> str:
    """Wrap a text to a number of columns, and cut it after a number of lines."""
    wrapped = textwrap.wrap(text, width)
    return "\n".join(wrapped[:lines]) + ("…" if len(wrapped) > lines else "")


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], colour: str, dashed: bool = False, lw: float = 1.2) -> None:
    """Draw an arrow between two boxes, given the centres of the boxes."""
    style = {"arrowstyle": "-|>", "color": colour, "lw": lw, "ls": "--" if dashed else "-", "shrinkA": 13, "shrinkB": 13}
    axes.annotate("", end, xytext=start, arrowprops=style, zorder=2)


def _author(idea: Influence) -> str:
    """Return the name of an idea's author for a label."""
    return f"stage {idea.maker_lineage.stage}'s model" if idea.maker_lineage is not None else _wrapped(idea.by, 28, 1)


def lineage_picture(traced: Lineage) -> str:
    """Draw the influences on each stage.

    Weights and data come from below (solid), ideas from above (dashed). Declared channels are
    orange.
    """
    ideas = [i for i in traced.influences if i.kind == "idea" and i.digest]
    channels = [i for i in traced.influences if i.admitted_by == "a declared channel"]
    stages = sorted({0, traced.stage, *(i.stage for i in ideas)})
    position = {stage: n for n, stage in enumerate(stages)}
    above: dict[int, list[Influence]] = {stage: [i for i in ideas if i.stage == stage] for stage in stages}
    highest = max((len(rows) for rows in above.values()), default=0)

    def paint(axes: Any) -> None:
        middle = (len(stages) - 1) / 2
        _box(axes, middle - 0.35, 0, _wrapped(traced.influences[0].description), INK)
        _box(axes, middle + 0.35, 0, "human training data", INK)
        for stage, x in position.items():
            _box(axes, x, 1.2, f"stage {stage}'s model" + ("\nfrom people's recipe" if stage == 0 else ""), ACCENT)
            _arrow(axes, (middle - 0.35, 0.0), (x, 1.2), INK)
            _arrow(axes, (middle + 0.35, 0.0), (x, 1.2), SOFT)
            for n, idea in enumerate(above[stage]):
                y = 2.5 + n * 1.3
                _box(axes, x, y, f"{_wrapped(idea.description, 30)}\nby {_author(idea)}, {idea.bits or 0:,} bits", SOFT)
                _arrow(axes, (x, y), (x, 1.2), ACCENT, dashed=True)
                if idea.maker_lineage is not None and idea.maker_lineage.run == traced.run and idea.maker_lineage.stage in position:
                    _arrow(axes, (position[idea.maker_lineage.stage], 1.2), (x, y), ACCENT, dashed=True)
        for n, channel in enumerate(channels):
            right, height = position[traced.stage] + 0.55, 0.35 + 0.5 * n
            _box(axes, right, height, _wrapped(f"{channel.kind}: {channel.description}"), SECOND)
            _arrow(axes, (right, height), (position[traced.stage], 1.2), SECOND, lw=2)
        axes.set_xlim(-0.6, len(stages) - 0.4 + 0.4 * bool(channels))
        axes.set_ylim(-0.4, 2.0 + 1.3 * highest)
        axes.axis("off")

    return _draw(8.4, 2.0 + 0.85 * highest, paint)
