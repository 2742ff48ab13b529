"""Words the notices on requests to models, in plain lines: what happened, and what helps."""

from __future__ import annotations

from aider_guard.core.actions import Notice
from aider_guard.core.chat.events import ReloadSeen, RequestFinished, RequestRefused
from aider_guard.core.chat.request import PREFIX
from aider_guard.core.drop_advice import Advice

_STAGES = {
    "messages": "never reached the model: whole messages were left out",
    "tokens": "never reached the model: the text was cut",
    "generation": "was pushed out of the window while the answer was written",
    "": "never reached the model",
}
_NOT_DONE = {
    "commit": "the model wrote no commit message",
    "summary": "the conversation was not summarised, and stays as it is",
}
_REASONS = {
    "overflow": "it would not fit into the window",
    "cloud": "it would run in a cloud",
    "down": "Ollama does not answer",
    "missing": "the model is not installed",
    "memory": "memory does not suffice",
    "unsupported": "the server cannot run the model",
    "crashed": "the model's process crashed",
    "lost": "the connection to the server was lost",
    "busy": "Ollama stayed busy",
    "strange": "the server's answer makes no sense",
    "proxy": "what stands in front of the server has no answer of it",
    "refused": "the server refused it",
    "forbidden": "it is not allowed",
}


def truncation_seen(event: RequestFinished, advice: Advice | None) -> Notice:
    """A part of a prompt was lost: how much, how, the evidence, and what makes room."""
    cut, verdict = event.verdict.cut_tokens, event.verdict
    much, stage = "a part", _STAGES[verdict.stage]
    if isinstance(cut, int) and cut > 0:
        much = f"{'' if event.counted_exactly else 'about '}{cut:,} tokens"
        stage = stage.replace("was pushed", "were pushed")
    first = f"{much} of {_prompt(event)} {stage}{_evidence(verdict.evidence)}"
    return Notice("truncation_seen", (first, _room(event, advice)))


def truncation_unknown(event: RequestFinished, advice: Advice | None) -> Notice:
    """A prompt was about as large as the window, and nothing shows whether the model saw all of it."""
    known = event.known_sizes
    size = f"about {max(known):,} tokens" if known else "its size is not known"
    window = (
        f" for a window of {event.window_tokens:,}" if isinstance(event.window_tokens, int) else ""
    )
    why = _evidence(event.verdict.evidence)
    first = f"it is not known whether the model saw all of {_prompt(event)}: {size}{window}{why}"
    return Notice("truncation_unknown", (first, _room(event, advice)))


def message_left_out(event: RequestFinished) -> Notice:
    """Messages that the door refused before were left out, so that the rest could be sent."""
    window = f" of {event.window_tokens:,}" if isinstance(event.window_tokens, int) else ""
    what, goes = f"the {event.left_out} messages that were not sent before are", "they go"
    if event.left_out == 1:
        what, goes = "the message that was not sent before is", "it goes"
    first = f"{what} still too large for the window{window}, and left out"
    helps = f"{goes} with a later message once /drop FILE has made room"
    return Notice("message_left_out", (first, helps))


_BROKEN: dict[str, tuple[str, str]] = {
    "commit": ("the commit message", "git commit --amend   (its message may be half of one)"),
    "summary": ("the summary of the conversation", "/clear   (forgets the conversation)"),
}
_BROKE_OFF = {
    "no_end": "the server ended it without saying that it is complete",
    "repetition": "the model repeated itself until the server ended it",
    "error": "the server failed in the middle of it",
}


def answer_broke_off(event: RequestFinished) -> Notice:
    """An answer is not whole, and Aider does not know: why, and what to do."""
    in_words = "in other words, or to another model" if event.broke_off == "repetition" else "again"
    helps = f"/diff   (shows what it changed all the same; then send your message {in_words})"
    what, helps = _BROKEN.get(event.purpose, ("the answer", helps))
    why = _BROKE_OFF.get(event.broke_off, "")
    first = f"{what} broke off, and Aider takes it as whole: {why}"
    return Notice("answer_broke_off", (first, helps))


def _prompt(event: RequestFinished) -> str:
    match event.purpose, event.role:
        case "commit", _:
            return "the changes to be described in a commit message"
        case "summary", _:
            return "the conversation to be summarised"
        case _, "editor":
            return "the editor's prompt"
    return "the prompt"


def _evidence(evidence: str) -> str:
    return f" ({evidence})" if evidence else ""


def _room(event: RequestFinished, advice: Advice | None) -> str:
    if advice is not None:
        return advice.line
    if event.purpose == "commit":
        return "read the message before you push it; smaller commits fit"
    if event.purpose == "summary":
        return "/clear   (forgets the conversation)"
    if event.parts:
        return "nothing in the chat can be dropped; only a larger window holds more"
    return "/tokens   (shows what takes the room; /drop and /clear make some)"


def reload_seen(event: ReloadSeen) -> Notice:
    """A turn had to wait until its model was loaded again: how long, and why."""
    seconds = f"{event.load_seconds:.1f} s"
    line = f"{event.model} was loaded again, which took {seconds}: {event.cause}"
    return Notice("reload_seen", (line,))


def request_refused(event: RequestRefused) -> Notice:
    """A request that Aider makes by itself was refused: what was not done, and why."""
    not_done = _NOT_DONE.get(event.purpose, "a request was not sent")
    why, *fix = event.said or (_REASONS.get(event.reason, event.reason),)
    if event.reason == "overflow":
        # The door's own advice on room is for the chat, not for Aider's own requests.
        over = f" by {event.over_tokens:,} tokens" if event.over_tokens > 0 else ""
        what = "the changes are" if event.purpose == "commit" else "it is"
        why = f"{what} too large for the window{over}"
        fix = ["/clear   (forgets the conversation)"] if event.purpose == "summary" else []
    return Notice("request_refused", (f"{not_done}: {why.removeprefix(PREFIX)}", *fix[:1]))
