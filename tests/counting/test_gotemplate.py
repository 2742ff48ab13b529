"""Templates become what Go's own text/template makes of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aider_guard.core.chat.request import ChatRequest, Message
from aider_guard.core.readings import Unavailable
from aider_guard.counting.gotemplate import TemplateError, evaluate, parse, written
from aider_guard.counting.prompt import PromptFormat, render

# Written by a program of Go 1.26 that does what Ollama's template.go does; null where it fails.
RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("go_templates.json").read_bytes())


@pytest.mark.parametrize("name", RECORDED["templates"])
def test_what_go_writes(name: str) -> None:
    """Chat templates of both forms and the corners of the language; where Go fails, it is known to fail."""
    cases = [case for case in RECORDED["cases"] if case["template"] == name]
    assert cases
    for case in cases:
        messages = tuple(Message(role, content) for role, content in case["messages"])
        asked = ChatRequest("chat", "m", messages, stream=True)
        text = render(PromptFormat(RECORDED["templates"][name]), asked, think=case["think"])
        assert (None if isinstance(text, Unavailable) else text) == case["text"]


@pytest.mark.parametrize(
    "template",
    [
        "{{",
        "{{ if .A }}",
        "{{ end }}",
        "{{ else }}",
        "{{ range .A }}{{ break }}{{ end }}",
        '{{ define "x" }}{{ end }}',
        '{{ template "x" }}',
        "{{ }}",
        "{{ ( .A }}",
        "{{ .A ) }}",
        "{{ .A | }}",
        "{{ ? }}",
        "{{ nope .A }}",
        "{{ $x }}",
        "{{ 1 2 }}",
        "{{ .A .B }}",
        '{{ "a" | "b" }}',
        "{{ len 1 }}",
        "{{ index .List 7 }}",
        "{{ slice .Text 3 2 }}",
        "{{ .List }}",
        "{{ range .Text }}{{ end }}",
        "{{ eq 1 }}",
        '{{ eq 1 "1" }}',
        '{{ "\\x" }}',
        "{{ $x, $y, $z := .A }}",
        "{{ $x := 1 }}{{ (.Map)$x }}",
        "{{ (.Map). }}",
        "{{ index .List -1 }}",
        "{{ index .List 1 }}",
        "{{ slice .Text -1 }}",
        "{{ slice .Text 0 3 }}",
    ],
)
def test_what_is_not_known_is_said(template: str) -> None:
    """No template is rendered wrongly in silence."""
    with pytest.raises(TemplateError):
        evaluate(parse(template), {"List": ["a"], "Text": "ab", "Map": {"x": 1}})


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("a {{- /* b */ -}} c", "ac"),
        ("{{- 1 }}{{ -1 }}", "1-1"),
        (" {{ 1 }} ", " 1 "),
        ("{{ true }}{{ false }}", "truefalse"),
        ("{{ $x:=1 }}{{ $x }}", "1"),
        ("{{ range $i , $e := .List }}{{ $i }}{{ $e }}{{ end }}", "0x1y"),
        ("{{ .Text | or 0 }}{{ 0 | and .Text }}", "ab0"),
        ("{{ slice .Text }}{{ slice .Text 1 }}{{ slice .Text 0 1 }}{{ slice .Text 1 1 }}", "abba"),
        ("{{ len (slice .List 0 1 1) }}", "1"),
        ("{{ $x := 1 }}{{ if true }}{{ $x = 2 }}{{ $x := 3 }}{{ end }}{{ $x }}", "2"),
        ('{{ $x := "o" }}{{ range .List }}{{ $x }}{{ $x := "i" }}{{ $x }}{{ end }}', "oioi"),
        ("{{ with $y := .Text }}{{ $y }}{{ . }}{{ end }}", "abab"),
        (
            "{{ range $e := .List }}{{ $e }}{{ end }}{{ range .None }}{{ else }}none{{ end }}",
            "xynone",
        ),
        ("{{ (index .List 1) }}{{ index .Map `k` }}", "y7"),
        ("{{ .Text | len | eq 2 }}", "true"),
        ("{{ or 0 .Text }}{{ and .Text 0 }}{{ not .None }}", "ab0true"),
        ("{{ and .Nope (index .List 99) }}", "<no value>"),
        ('{{ eq .Text "x" "ab" }}{{ ne 1 2 }}{{ le 1 1 }}{{ gt 1 2 }}', "truetruetruefalse"),
        ("{{ json .Text }}{{ json nil }}", '"ab"null'),
    ],
)
def test_corners(template: str, text: str) -> None:
    """Scopes, pipes, and values that are absent."""
    values = {"Text": "ab", "List": ["x", "y"], "Map": {"k": 7}, "None": []}
    assert evaluate(parse(template), values) == text


@given(st.text('{}-. \n$|()"`/*ifendrange=:,A1', max_size=60))
def test_garbage_is_refused_or_rendered(template: str) -> None:
    """Any template ends in a text or in a TemplateError."""
    try:
        evaluate(parse(template), {"A": "b"})
    except TemplateError:
        return


def test_values_are_written_as_go_writes_them() -> None:
    """The values that templates write."""
    assert [written(value) for value in ("a", None, True, False, 3)] == [
        "a",
        "<no value>",
        "true",
        "false",
        "3",
    ]
