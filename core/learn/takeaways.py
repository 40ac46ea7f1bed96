"""The takeaways of all lessons on one page, as HTML that prints and opens without a network."""

from __future__ import annotations

from html import escape

from core.learn.lesson import get, names

_STYLE = (
    "body{font:11pt/1.4 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;columns:2;column-gap:2.5em}"
    "h1{column-span:all;font-size:16pt;margin:0 0 .8em}h2{font-size:11pt;margin:.9em 0 .2em;break-after:avoid}"
    "ul{margin:0;padding-left:1.1em}li{margin:.1em 0}@page{size:A4;margin:14mm}@media(max-width:40em){body{columns:1}}"
    "@media print{body{font-size:8.5pt;margin:0}}"
)


def page() -> str:
    """Every lesson with what to keep of it."""
    parts = []
    for name in names():
        lesson = get(name)
        kept = dict.fromkeys(step.takeaway for step in lesson.steps if step.takeaway)
        items = "".join(f"<li>{escape(words)}</li>" for words in kept)
        parts.append(f"<section><h2>{lesson.order}. {escape(lesson.title)}</h2><ul>{items}</ul></section>")
    title = "What decides the speed of a language model"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{''.join(parts)}</html>"
    )
