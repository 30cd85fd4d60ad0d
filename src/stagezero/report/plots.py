"""The report's pictures, as inline SVG: no scripts, no fonts from elsewhere, readable without colour."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

from stagezero.report.gather import View

INK, SOFT, ACCENT, SECOND = "#1f2933", "#9aa5b1", "#0b6e4f", "#b25d00"
_MARKERS = "osD^vP"


def _draw(width: float, height: float, paint: Callable[[Any], None]) -> str:
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    style = {
        "font.family": "sans-serif",
        "font.size": 9,
        "axes.edgecolor": SOFT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "stagezero",
        "svg.fonttype": "none",
    }
    with mpl.rc_context(style):
        figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
        paint(axes)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
        plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :]


def stages_picture(view: View) -> str:
    """Alignment score by stage with intervals, each property beside it."""

    def paint(axes: Any) -> None:
        stages = view.adopted
        names = ["base", *(f"stage {s.number}" for s in stages)]
        spots = range(len(names))
        for i, prop in enumerate(view.properties):
            values = [view.base_score(prop).mean, *(s.score(prop).mean for s in stages)]
            axes.plot(spots, values, color=SOFT, lw=1, marker=_MARKERS[i % len(_MARKERS)], ms=4, zorder=1)
            axes.annotate(prop, (len(names) - 1, values[-1]), xytext=(8, 0), textcoords="offset points", va="center", color=INK, fontsize=8)
        found = [view.base_score("alignment"), *(s.score("alignment") for s in stages)]
        values = [e.mean for e in found]
        errors = [
            [e.mean - e.low if math.isfinite(e.low) else 0 for e in found],
            [e.high - e.mean if math.isfinite(e.high) else 0 for e in found],
        ]
        axes.errorbar(spots, values, yerr=errors, color=ACCENT, lw=2.5, marker="o", ms=6, capsize=4, zorder=3)
        for x, e in zip(spots, found, strict=True):
            axes.annotate(
                f"{e.mean:.2f}",
                (x, e.mean),
                xytext=(0, 9),
                textcoords="offset points",
                ha="center",
                color=ACCENT,
                fontweight="bold",
                zorder=4,
            )
        axes.axhline(0.5, color=SOFT, lw=0.8, ls=":")
        axes.annotate("refusing everything, or nothing", (0, 0.5), xytext=(0, -10), textcoords="offset points", color=SOFT, fontsize=7)
        axes.set_xticks(list(spots), names)
        axes.set_ylim(0, 1.02)
        axes.set_xlim(-0.3, len(names) - 1 + 0.75)
        axes.set_ylabel("score")

    return _draw(7.0, 3.4, paint)


def evidence_picture(view: View) -> str:
    """Every idea's e-value, pair by pair, against what it needed."""

    def paint(axes: Any) -> None:
        top = max((i.threshold for i in view.ideas), default=20)
        placed: list[float] = []
        longest = max((i.pairs for i in view.ideas), default=1)
        for idea in view.ideas:
            won = idea.fate in ("promoted", "adopted", "promoted, failed audit")
            crossed = idea.best_e >= idea.threshold
            colour = ACCENT if won else SECOND if crossed else SOFT
            values = [min(max(e, 1e-3), 1e7) for e in idea.e_values]
            axes.plot(range(1, len(values) + 1), values, color=colour, lw=2 if won else 1, marker="o", ms=3, zorder=3 if won else 1)
            if crossed and values:
                height = math.log10(values[-1])
                while any(abs(height - other) < 0.35 for other in placed):
                    height += 0.35
                placed.append(height)
                axes.annotate(
                    f"{idea.title[:38]} ({idea.fate})", (len(values), values[-1]), xytext=(longest + 0.5, 10**height), textcoords="data",
                    va="center", color=INK, fontsize=7,
                )  # fmt: skip
        axes.axhline(top, color=INK, lw=1, ls="--")
        axes.annotate(f"needed: {top:.0f}", (1, top), xytext=(0, 4), textcoords="offset points", color=INK, fontsize=8)
        axes.set_yscale("log")
        axes.set_xlim(0.7, longest * 1.75 + 1)
        axes.set_xlabel("paired replicates")
        axes.set_ylabel("e-value")

    return _draw(7.0, 3.2, paint)
