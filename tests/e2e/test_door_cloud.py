"""No cloud through the door: names of clouds, stubs and redirects are refused before a word has left."""

from __future__ import annotations

import pytest
from e2e.chatting import ChattingOllama
from e2e.desk import COUNTABLE, Desk
from fakes.answering import Raw
from fakes.ollama_models import FakeModel

SECRET = "the-secret-of-the-house"
STUB = FakeModel("mine:latest", size_bytes=384, remote_host="https://ollama.com:443")


@pytest.mark.parametrize(
    ("model", "where"),
    [
        ("gpt-oss:120b-cloud", "cloud"),
        ("qwen3:CLOUD", "cloud"),
        ("mine", "https://ollama.com:443"),
    ],
)
def test_a_switch_to_a_cloud_s_model(desk: Desk, model: str, where: str) -> None:
    """Refused with the reason; Ollama hears neither the name nor a word of the prompt, and the way back is open."""
    server = ChattingOllama(models=(COUNTABLE, STUB))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        person.ask(f"/model ollama_chat/{model}")
        person.ask(f"Say hello to {SECRET}.")
        screen = person.wait_for(rf"aider-guard: not sent: {model}.*{where}")
        assert "Retrying in" not in screen
        assert not server.sent_out
        assert not any(SECRET in str(request.body) for request in server.received)
        person.ask("/model ollama_chat/small")
        person.ask("Hello.")
        assert "It is well" in person.text()
        person.type(b"/exit\r")
        assert person.end() == 0


def test_a_redirect_is_not_followed(desk: Desk) -> None:
    """Where a server sends its clients elsewhere, the prompt does not follow."""
    server = ChattingOllama(models=(COUNTABLE,))
    with ChattingOllama() as elsewhere, server, desk.session(server.url) as person:
        person.wait_for_prompt()
        headers = (("Location", f"{elsewhere.url}/api/chat"),)
        server.script["/api/chat"] = [Raw(b"", status, headers) for status in (307,)]
        person.ask(f"Say hello to {SECRET}.")
        person.wait_for(r"aider-guard: ")
        assert not elsewhere.received
        person.type(b"/exit\r")
        assert person.end() == 0


def test_an_answer_from_elsewhere_is_broken_off(desk: Desk) -> None:
    """A model that became a stub in the middle of the session: its answer names a host, and is not shown."""
    server = ChattingOllama(models=(COUNTABLE,))
    with server, desk.session(server.url) as person:
        person.wait_for_prompt()
        server.models = (FakeModel("small:latest", remote_host="https://ollama.com:443"),)
        person.ask("Hello.")
        screen = person.wait_for(r"aider-guard: .*ollama\.com")
        assert "It is well" not in screen
        person.type(b"/exit\r")
        assert person.end() == 0
