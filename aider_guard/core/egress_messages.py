"""Words the notices and findings on the air gap. Only what the kernel blocks is called blocked."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from aider_guard.core.actions import Notice
from aider_guard.core.egress import Place
from aider_guard.core.messages import count
from aider_guard.core.state import AttemptCount, Destination, Ledger, State

# What the places are that programs try to reach. A host stands for itself and every host below it, and the longest of
# several counts; one of ``CODE_HOSTS`` stands for itself only.

# Read in Aider 0.86.2 (analytics.py, models.py, openrouter.py, urls.py), litellm 1.81.10 and tiktoken 0.9. Such a host
# serves other programs, too: these words hold for Aider's own process, which may appear as a nameless Python.
ASKED_BY_AIDER: Mapping[str, str] = {
    "aider.chat": "Aider's website",
    "api.github.com": "GitHub Copilot's token for Aider",
    "huggingface.co": "tokenizers and templates of models",
    "openaipublic.blob.core.windows.net": "tiktoken's encodings",
    "openrouter.ai": "OpenRouter's list of models",
    "posthog.com": "Aider's analytics",
    "raw.githubusercontent.com": "Aider's model price list",
}

SERVICES: Mapping[str, str] = {
    "ai-gateway.vercel.sh": "Vercel's AI gateway",
    "aiplatform.googleapis.com": "Google's models (Vertex)",
    "api.ai21.com": "AI21's models",
    "api.anthropic.com": "Anthropic's models",
    "api.cerebras.ai": "Cerebras's models",
    "api.cohere.ai": "Cohere's models",
    "api.cohere.com": "Cohere's models",
    "api.deepinfra.com": "DeepInfra's models",
    "api.deepseek.com": "DeepSeek's models",
    "api.featherless.ai": "Featherless's models",
    "api.fireworks.ai": "Fireworks's models",
    "api.friendli.ai": "Friendli's models",
    "api.githubcopilot.com": "GitHub Copilot's models",
    "api.groq.com": "Groq's models",
    "api.hyperbolic.xyz": "Hyperbolic's models",
    "api.lambda.ai": "Lambda's models",
    "api.llama.com": "Meta's models",
    "api.minimax.io": "MiniMax's models",
    "api.mistral.ai": "Mistral's models",
    "api.moonshot.ai": "Moonshot's models",
    "api.novita.ai": "Novita's models",
    "api.openai.com": "OpenAI's models",
    "api.perplexity.ai": "Perplexity's models",
    "api.poe.com": "Poe's models",
    "api.replicate.com": "Replicate's models",
    "api.sambanova.ai": "SambaNova's models",
    "api.studio.nebius.ai": "Nebius's models",
    "api.together.xyz": "Together's models",
    "api.voyageai.com": "Voyage's models",
    "api.x.ai": "xAI's models",
    "api.z.ai": "Z.ai's models",
    "ark.cn-beijing.volces.com": "Volcengine's models",
    "codestral.mistral.ai": "Mistral's models",
    "cognitiveservices.azure.com": "Azure's models",
    "dashscope-intl.aliyuncs.com": "Alibaba's models",
    "dashscope.aliyuncs.com": "Alibaba's models",
    "generativelanguage.googleapis.com": "Google's models (Gemini)",
    "inference.baseten.co": "Baseten's models",
    "integrate.api.nvidia.com": "NVIDIA's models",
    "llm.chutes.ai": "Chutes's models",
    "models.inference.ai.azure.com": "Azure's models",
    "ollama.com": "Ollama's cloud and library",
    "openai.azure.com": "Azure's models",
    "router.huggingface.co": "Hugging Face's models",
    "services.ai.azure.com": "Azure's models",
}

# Bedrock has a host for each region: bedrock-runtime.eu-west-1.amazonaws.com.
PATTERNS: Sequence[tuple[str, str]] = (
    (r"bedrock(-[a-z]+)*\.[a-z0-9-]+\.amazonaws\.com", "Amazon's models"),
    (r"[a-z0-9-]+-aiplatform\.googleapis\.com", "Google's models (Vertex)"),
)

CODE_HOSTS: Mapping[str, str] = {
    "bitbucket.org": "Bitbucket",
    "codeberg.org": "Codeberg",
    "dev.azure.com": "Azure DevOps",
    "git.sr.ht": "SourceHut",
    "github.com": "GitHub",
    "gitlab.com": "GitLab",
    "ssh.dev.azure.com": "Azure DevOps",
}
"""The hosts of users' own repositories."""

SOCKETS: Sequence[tuple[str, str]] = (
    (r"/(docker|podman|containerd|crio|buildkitd)[^/]*\.sock$", "the container daemon's socket"),
    (r"/\.docker/desktop/", "the container daemon's socket"),
    (r"/(lxd|incus)/(.*/)?unix\.socket$", "the container daemon's socket"),
    (r"/libvirt-sock[^/]*$", "the socket of the virtual machines"),
    (r"/snapd[^/]*\.socket$", "the socket of the package service"),
    (r"/nscd/socket$|/io\.systemd\.Resolve[^/]*$|/avahi-daemon/", "the resolver's socket"),
    (r"/bus$|/system_bus_socket$|/dbus-[^/]*$", "D-Bus, which starts programs outside"),
    (r"/systemd/private$", "the socket of systemd, which starts programs outside"),
    (r"/WSL/[^/]*_interop$", "the way to programs of Windows"),
    (r"/S\.dirmngr$", "GnuPG's way to key servers"),
    (r"/tmux-\d+/|/screen/S-", "a terminal server, which starts programs outside"),
    (r"/\.X11-unix/", "the X server"),
    (r"/wayland-\d+$", "the display server"),
)
"""Patterns for the sockets of daemons that act on behalf of any program."""

AIDERS = ("aider", "")
"""The names of Aider's own process, and of an unknown one."""
_GIT = ("git", "ssh", "git-remote-http", "git-remote-https")
_GIT_PORTS = (22, 443, 9418)
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|::1|localhost|(.*\.)?localhost")


def what_is(host: str, program: str) -> str:
    """Return what a host is, "" where unknown.

    *program* tried to reach it: the purpose of a host for Aider is named only for a program that may be Aider.
    """
    if is_this_machine(host):
        return "a service of this machine"
    may_be_aider = program in AIDERS or program.startswith("python")
    aiders = _longest(ASKED_BY_AIDER, host) if may_be_aider else ""
    patterns = (what for pattern, what in PATTERNS if re.fullmatch(pattern, host))
    return _longest(SERVICES, host) or aiders or next(patterns, "") or CODE_HOSTS.get(host, "")


def what_socket(path: str) -> str:
    """Return whose socket a path is, "" where unknown."""
    return next((what for pattern, what in SOCKETS if re.search(pattern, path)), "")


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine by its loopback name or address."""
    return bool(_LOOPBACK.fullmatch(host))


def may_be_needed(host: str, port: int, program: str) -> bool:
    """Whether the user may need such a place for work, so that the notice says how to allow it."""
    if is_this_machine(host):
        return True
    return (program in _GIT or host in CODE_HOSTS) and port in _GIT_PORTS


def _longest(table: Mapping[str, str], host: str) -> str:
    parts = host.split(".")
    above = (".".join(parts[at:]) for at in range(len(parts)))
    return next((table[name] for name in above if name in table), "")


NETWORK_OPEN = (
    "the network is open in this session: models and keys of clouds are used as they are set"
)
"""Shown once where the user wants no air gap."""
_UNKNOWN_PROGRAM = "a program that Aider started"
_UNSEEN = "what a program sends past proxies is not seen, and not held back"
_UNREAD = "an address that could not be read"
_ROOT = "."
_MOST_NAMED = 4
_FIXES_NAMED = 3


def attempts(ledger: Ledger, news: Mapping[Destination, AttemptCount]) -> Notice:
    """Report the first attempts to new destinations, one or more, in two lines at most."""
    first, *others = sorted(
        news, key=lambda place: (not _may_be_needed(place, news[place]), place.kind == "request")
    )
    what = f"asked to stay away from {_named(first)}"
    if first.kind == "request":
        what = f"the door refused a request to {_named(first)}"
    elif ledger.is_enforced:
        what = f"blocked {_named(first)}"
    elif first.kind == "lookup":
        what = f"asked not to look up {first.host or _ROOT}"
    line = f"{what}: {_explained(first, news[first].program)}"
    names = [
        f"{_named(place)} (refused by the door)" if place.kind == "request" else _named(place)
        for place in others[:_MOST_NAMED]
    ]
    rest = f" and {len(others) - len(names)} more" if len(others) > len(names) else ""
    more = [f"and {count(len(others), 'other')}: {', '.join(names)}{rest}"] if others else []
    needed = [place for place in news if _may_be_needed(place, news[place])][:_FIXES_NAMED]
    if needed:
        flags = " ".join(f"--allow {_as_allowed(place)}" for place in needed)
        more.append(f"aider-guard {flags} lets {'it' if len(needed) == 1 else 'them'} through")
    return Notice("egress", (line, *(["; ".join(more)] if more else [])))


def _named(place: Destination) -> str:
    if place.kind == "lookup":
        return f"a lookup of {place.host or _ROOT}"
    if not place.host:
        return _UNREAD
    return str(Place(place.host, place.port)) if place.port else place.host


def _explained(place: Destination, program: str) -> str:
    """Return what a destination is, if known, and the program that tried it where that says more."""
    known = what_socket(place.host) if place.kind == "socket" else what_is(place.host, program)
    tried = f"tried by {program or _UNKNOWN_PROGRAM}"
    if not known:
        return tried
    return known if program in AIDERS else f"{known}, {tried}"


def _as_allowed(place: Destination) -> str:
    """Return what ``--allow`` takes for this destination."""
    if place.kind == "socket":
        return shlex.quote(place.host)
    return str(Place(place.host, place.port))


def _may_be_needed(place: Destination, tried: AttemptCount) -> bool:
    if place.kind == "socket":  # an abstract one has no path
        return place.host.startswith("/")
    return place.kind == "host" and may_be_needed(place.host, place.port, tried.program)


def no_more() -> Notice:
    """Say that later attempts are not reported at the prompt."""
    line = (
        "other places were tried, too; from now on they are in the journal and the last line only"
    )
    return Notice("egress_more", (line,))


def end_line(state: State, *, even_nothing: bool = True) -> Notice | None:
    """Return the last notice of a session, or of a run without one: which attempts to leave there were.

    None where there was no air gap, and for a launch that was refused. Without *even_nothing* it is also None where
    nothing was tried and nothing allowed.
    """
    ledger = state.egress
    is_empty = not (ledger.tried or ledger.others or ledger.through)
    if ledger.layer == "open" or (is_empty and not (even_nothing and ledger.began)):
        return None
    reached = (f"{place} {_times(times)}" for place, times in ledger.through.items())
    through = (f"let through: {', '.join(reached)}",) if ledger.through else ()
    outside = ledger.outside()
    asked = {place: tried for place, tried in outside.items() if place.kind == "request"}
    held = {place: tried for place, tried in outside.items() if place.kind != "request"}
    door = (f"refused by the door: {_sum(asked, 'request')}",) if asked else ()
    attempts = _sum(held, "attempt", ledger.others) if held or ledger.others else ""
    if not ledger.is_enforced:
        line = f"asked to behave, not blocked: {attempts or 'no attempt to leave was seen'}"
        return Notice("egress_end", (line, *door, *through, _UNSEEN))
    nothing = "nothing else tried to leave" if ledger.through else "nothing tried to leave"
    kernel = (f"blocked by the kernel: {attempts}",) if attempts else ()
    return Notice("egress_end", (*(kernel + door or (nothing,)), *through))


def _sum(outside: Mapping[Destination, AttemptCount], noun: str, others: int = 0) -> str:
    """Return how many attempts there were, and the destinations that were tried most often.

    *others* are attempts to destinations that are not known.
    """
    attempts_made = sum(tried.count for tried in outside.values()) + others
    most = sorted(outside.items(), key=lambda item: -item[1].count)
    named = [f"{_named(place)} {_times(tried.count)}" for place, tried in most[:_MOST_NAMED]]
    rest = len(most) - len(named)
    more = f" and {rest} more" if rest else ""
    beyond = " and others" if others else ""
    hosts = len({place.host for place in outside if place.kind != "socket"})
    sockets = sum(place.kind == "socket" for place in outside)
    kinds = (
        count(number, kind) for number, kind in ((hosts, "host"), (sockets, "socket")) if number
    )
    where = f"{' and '.join(kinds)}{beyond} ({', '.join(named)}{more})"
    return f"{attempts_made:,} {noun}{'' if attempts_made == 1 else 's'} to {where}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"
