"""Lays a session's report out as one HTML page, which loads nothing and runs no script."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from aider_guard.core.messages import size
from aider_guard.core.printable import printable
from aider_guard.core.readings import Unavailable
from aider_guard.core.session_report import SessionReport, TurnCost, known
from aider_guard.view.charts import Axis, Series, line_chart, minutes, stacked_bars
from aider_guard.view.report import (
    NamedReport,
    blocked_words,
    facts,
    heading,
    mark_words,
    seconds_words,
    tokens_words,
)

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --dim: #6b7280; --paper: #fff; --rule: #d8dbe0;
  --load: #c2410c; --read: #2563eb; --answer: #15803d; --cached: #9ca3af; --mark: #a16207; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --dim: #9aa3af; --paper: #16181c; --rule: #33373e;
  --load: #fb923c; --read: #60a5fa; --answer: #4ade80; --cached: #6b7280; --mark: #facc15; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
p.note, caption { color: var(--dim); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { text-align: right; padding: 0.15rem 0.75rem; border-bottom: 1px solid var(--rule); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1.5rem; } dd { margin: 0; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: var(--dim); }
.grid { stroke: var(--rule); } .line { fill: none; stroke: var(--read); stroke-width: 2; }
.point { fill: var(--read); } .mark { stroke: var(--mark); stroke-width: 2; stroke-dasharray: 3 3; }
.restart, .death { stroke: var(--load); stroke-dasharray: none; }
.load { fill: var(--load); } .read { fill: var(--read); } .answer { fill: var(--answer); }
.cached { fill: var(--cached); }
span.key { display: inline-block; width: 0.8em; height: 0.8em; margin: 0 0.4em 0 1em; }
span.load { background: var(--load); } span.read { background: var(--read); }
span.answer { background: var(--answer); } span.cached { background: var(--cached); }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def page(found: NamedReport) -> str:
    """Return the whole page."""
    report = found.report
    sections = [
        f"<h1>aider-guard: {escape(heading(found))}</h1>",
        _definitions(facts(found)),
        _advice(report.advice),
        _fill(report),
        _waiting(report.turns),
        _tokens(report.turns),
        _memory(report),
        _list(
            "What tried to leave",
            [blocked_words(place) for place in report.blocked],
            "Nothing tried to leave.",
        ),
        _list(
            "What happened",
            [f"{minutes(mark.at_seconds)}: {mark_words(mark.name)}" for mark in report.marks],
            "No notice, no restart.",
        ),
        _table(report.turns),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>aider-guard: {escape(found.id)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(section for section in sections if section)
        + "\n</body>\n</html>\n"
    )


def _definitions(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n" for name, value in rows)
    return f"<dl>\n{cells}</dl>"


def _advice(advice: Sequence[str]) -> str:
    return _list(
        "What to change", [*map(printable, advice)], "Nothing follows from this session's numbers."
    )


def _list(title: str, items: Sequence[str], otherwise: str) -> str:
    if not items:
        return f"<h2>{title}</h2>\n<p>{otherwise}</p>"
    listed = "".join(f"<li>{escape(item)}</li>\n" for item in items)
    return f"<h2>{title}</h2>\n<ul>\n{listed}</ul>"


def _fill(report: SessionReport) -> str:
    if not report.fills:
        return ""
    marks = [
        (mark.at_seconds, mark.name, f"{minutes(mark.at_seconds)}: {mark_words(mark.name)}")
        for mark in report.marks
    ]
    axis = Axis(max(100.0, *(fill for _, fill in report.fills)), lambda fill: f"{fill:.0f} %")
    chart = line_chart(
        "the fill of the window over time",
        report.fills,
        marks,
        most_seconds=report.seconds,
        axis=axis,
    )
    note = "Dashed: notices. Solid: Aider was restarted or died. Point at one for its words."
    return f'<h2>How full the window was</h2>\n{chart}\n<p class="note">{note}</p>'


def _bars(title: str, label: str, series: Sequence[Series], axis: Axis) -> str:
    key = "".join(f'<span class="key {each.style}"></span>{escape(each.name)}' for each in series)
    return f'<h2>{title}</h2>\n{stacked_bars(label, series, axis=axis)}\n<p class="note">{key}</p>'


def _waiting(turns: Sequence[TurnCost]) -> str:
    if not turns:
        return ""
    series = [
        Series("loading", "load", [known(turn.load_seconds) for turn in turns]),
        Series("reading", "read", [known(turn.prefill_seconds) for turn in turns]),
        Series("answering", "answer", [known(turn.generation_seconds) for turn in turns]),
    ]
    axis = Axis(max(turn.waited_seconds for turn in turns) or 1.0, lambda value: f"{value:.1f} s")
    return _bars("Seconds waited in each turn", "seconds waited in each turn", series, axis)


def _tokens(turns: Sequence[TurnCost]) -> str:
    told = [turn for turn in turns if not isinstance(turn.cached_tokens, Unavailable)]
    if not turns:
        return ""
    if not told:
        note = "The server did not tell how much of the prompts it knew already."
        return f'<h2>Tokens read</h2>\n<p class="note">{note}</p>'
    cached = [known(turn.cached_tokens) for turn in turns]
    read = [
        max(0.0, known(turn.prompt_tokens) - known(turn.cached_tokens)) if turn in told else 0.0
        for turn in turns
    ]
    series = [Series("read anew", "read", read), Series("from the cache", "cached", cached)]
    most = max(map(sum, zip(read, cached, strict=True))) or 1.0
    axis = Axis(most, lambda value: f"{value:,.0f}")
    return _bars("Tokens read in each turn", "tokens read in each turn", series, axis)


def _memory(report: SessionReport) -> str:
    if not report.memory:
        return ""
    kind = "GPU" if report.memory[-1].is_gpu else "main"
    points = [
        (point.at_seconds, float(point.used_bytes))
        for point in report.memory
        if point.is_gpu == report.memory[-1].is_gpu
    ]
    axis = Axis(float(report.memory[-1].total_bytes), lambda value: size(round(value)))
    label = f"{kind} memory in use over time"
    chart = line_chart(label, points, [], most_seconds=report.seconds, axis=axis)
    return f"<h2>{kind.capitalize() if kind == 'main' else kind} memory</h2>\n{chart}"


def _table(turns: Sequence[TurnCost]) -> str:
    if not turns:
        return ""
    names = ("turn", "loading s", "reading s", "answering s", "prompt", "cached", "answer")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(turn)) + "</tr>\n"
        for turn in turns
    )
    return f"<h2>Every turn</h2>\n<table>\n<tr>{head}</tr>\n{rows}</table>"


def _cells(turn: TurnCost) -> tuple[str, ...]:
    seconds = (turn.load_seconds, turn.prefill_seconds, turn.generation_seconds)
    tokens = (turn.prompt_tokens, turn.cached_tokens, turn.answer_tokens)
    return (str(turn.number), *map(seconds_words, seconds), *map(tokens_words, tokens))
