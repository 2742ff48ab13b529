"""Prompts as Aider 0.80 to 0.86 sends them, with its own phrases and shortened text between them."""

from __future__ import annotations

import json
from typing import Any

from aider_guard.core.chat.request import ChatRequest, Form, decode_body, read
from aider_guard.core.chat.types import DoorRole, DoorSettings, Upstream

COMMIT = (
    "You are an expert software engineer that generates concise, one-line Git commit messages based on the provided"
    " diffs.\nReview the provided context and diffs which are about to be committed to a git repo.\n"
)
SUMMARY = "*Briefly* summarize this partial conversation about programming.\nInclude less detail about older parts.\n"
REMINDER = "# *SEARCH/REPLACE block* Rules:\n\nEvery *SEARCH/REPLACE block* must use this format:\n"
DIFF = (
    "Act as an expert software developer.\nAlways use best practices when coding.\n"
    "ONLY EVER RETURN CODE IN A *SEARCH/REPLACE BLOCK*!\n\n"
    "Keep in mind these details about the user's platform and environment:\n- Platform: Linux\n\n"
    f"\n{REMINDER}"
)
EDITOR_DIFF = "Act as an expert software developer who edits source code.\n\nDescribe each change with a block.\n"
EDITOR_WHOLE = "Act as an expert software developer and make changes to source code.\n\nOutput a copy of each file.\n"
EDITOR_FENCED = (
    "Act as an expert software developer.\nAlways use best practices when coding.\n"
    "ONLY EVER RETURN CODE IN A *SEARCH/REPLACE BLOCK*!\n\n"
)
ASK = "Act as an expert code analyst.\nAnswer questions about the supplied code.\n"
ARCHITECT = "Act as an expert architect engineer and provide direction to your editor engineer.\n"
CONTEXT = (
    "Act as an expert code analyst.\nUnderstand the user's question or request, solely to determine ALL the existing"
    " sources files which will need to be modified.\n"
)
HELP = "You are an expert on the AI coding tool called Aider.\nAnswer the user's questions about how to use aider.\n"

CHAT_FILES = (
    "I have *added these files to the chat* so you can go ahead and edit them.\n\n"
    "*Trust this message as the true contents of these files!*\n"
    "Any other messages in the chat may contain outdated versions of the files' contents.\n"
)
ASK_FILES = "I have *added these files to the chat* so you see all of their contents.\n*Trust this message*\n"
CONTEXT_FILES = (
    "These files have been *added these files to the chat* so we can see all of their contents.\n"
)
READ_ONLY = (
    "Here are some READ ONLY files, provided for your reference.\nDo not edit these files!\n"
)
MAP = (
    "Here are summaries of some files present in my git repository.\n"
    "Do not propose changes to these files, treat them as *read-only*.\n"
)
ASK_MAP = (
    "I am working with you on code in a git repository.\n"
    "Here are summaries of some files present in my git repo.\n"
)
SWITCHED = "I switched to a new code base. Please don't consider the above files or try to edit them any longer."

OLLAMA = Upstream("", "http://127.0.0.1:11434", "ollama")
LOCAL = Upstream("local", "http://127.0.0.1:8080/v1", "openai")


def settings(window_tokens: int = 8192, **more: Any) -> DoorSettings:
    """The settings of a door for a main, an editor and a weak model."""
    roles = (
        DoorRole("main", "qwen3:8b"),
        DoorRole("editor", "coder:7b"),
        DoorRole("weak", "tiny:1b"),
    )
    return DoorSettings("token", (OLLAMA, LOCAL), roles, window_tokens, **more)


def message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def listing(prefix: str, files: dict[str, str], fence: tuple[str, str] = ("```", "```")) -> str:
    """List files as Aider's get_files_content does: a file without a final newline has its fence on its last line."""
    opening, closing = fence
    return prefix + "".join(
        f"\n{name}\n{opening}\n{content}{closing}\n" for name, content in files.items()
    )


def flattened(messages: list[dict[str, str]]) -> str:
    """Flatten messages as litellm's ollama_pt does: consecutive messages of a role are merged."""
    prompt, at = "", 0
    while at < len(messages):
        role, merged = messages[at]["role"], ""
        while at < len(messages) and messages[at]["role"] == role:
            merged += messages[at]["content"]
            at += 1
        prompt += f"### {role.capitalize()}:\n{merged}\n\n"
    return prompt


def body(form: Form, messages: list[dict[str, str]], *, stream: bool = True, **more: Any) -> bytes:
    """The body as litellm sends it."""
    request: dict[str, Any] = {"model": "qwen3:8b"}
    match form:
        case "generate":
            request |= {"prompt": flattened(messages), "options": {"temperature": 0}}
        case "chat":
            request |= {"messages": messages, "options": {"temperature": 0}}
        case _:
            request |= {"messages": messages, "temperature": 0}
    return json.dumps({**request, "stream": stream, **more}).encode()


def request_of(
    form: Form, content: bytes, with_settings: DoorSettings | None = None
) -> ChatRequest:
    """The request that the door parses from a body."""
    read_body = decode_body(content)
    assert read_body is not None
    return read(form, read_body, with_settings or settings(), "")


def chat(
    system: str = DIFF, said: tuple[str, ...] = ("fix it",), form: Form = "chat", **more: Any
) -> ChatRequest:
    """A chat: the system text, then the user and the assistant in turns."""
    turns = [message("user" if at % 2 == 0 else "assistant", text) for at, text in enumerate(said)]
    return request_of(form, body(form, [message("system", system), *turns], **more))
