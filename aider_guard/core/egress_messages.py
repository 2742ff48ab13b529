"""What the user is told of the air gap. "Blocked" is said only of what the kernel blocks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from aider_guard.core.actions import Notice
from aider_guard.core.egress import Layer, Place
from aider_guard.core.messages import count
from aider_guard.core.state import AttemptCount, Destination, Ledger, State

# What is known of the places that programs try to reach from inside the air gap. Rules are data.
#
# A host stands for itself and for every host below it, of several the longest; one of ``CODE_HOSTS`` for itself only.

# Read in Aider 0.86.2 (analytics.py, models.py, openrouter.py, urls.py), litellm 1.81.10 and tiktoken 0.9.
# A host serves others, too: this holds for Aider's own process, which is a Python where nobody knows more of it.
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
"""Where a user's own repositories are."""

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
"""Paths of sockets whose daemons act for whoever asks, by what they end in or hold."""

AIDERS = ("aider", "")
"""Aider, and what nobody knows the name of."""
_GIT = ("git", "ssh", "git-remote-http", "git-remote-https")
_GIT_PORTS = (22, 443, 9418)
_LOOPBACK = re.compile(r"127\.\d+\.\d+\.\d+|::1|localhost|(.*\.)?localhost")


def what_is(host: str, program: str) -> str:
    """What a host is, "" where that is not known.

    *program* is who asked: what Aider asks a host for is said of Aider only, and of those who may be it.
    """
    if is_this_machine(host):
        return "a service of this machine"
    asked = _longest(ASKED_BY_AIDER, host) if program in AIDERS or _is_python(program) else ""
    patterns = (what for pattern, what in PATTERNS if re.fullmatch(pattern, host))
    return _longest(SERVICES, host) or asked or next(patterns, "") or CODE_HOSTS.get(host, "")


def _is_python(program: str) -> bool:
    return program.startswith("python")


def what_socket(path: str) -> str:
    """Whose socket a path is, "" where that is not known."""
    return next((what for pattern, what in SOCKETS if re.search(pattern, path)), "")


def is_this_machine(host: str) -> bool:
    """Whether a host is this machine by its loopback name or address."""
    return bool(_LOOPBACK.fullmatch(host))


def may_be_needed(host: str, port: int, program: str) -> bool:
    """Whether people work with such a place, so that they are told how to let it through."""
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
"""Said once where the user wants no air gap."""
_SOMEBODY = "a program that Aider started"
_UNSEEN = "what a program sends past proxies is not seen, and not held back"
_UNREAD = "an address that could not be read"
_ROOT = "."
_OTHERS_NAMED = 4
_PLACES_NAMED = 4
_FIXES_NAMED = 3


def attempts(ledger: Ledger, news: Mapping[Destination, AttemptCount]) -> Notice:
    """First attempts to new destinations, in two lines at most. *news* has one at least."""
    first, *others = sorted(news, key=lambda one: not _may_be_needed(one, news[one]))
    line = f"{_refused(ledger, first)}: {_explained(first, news[first].program)}"
    more = [_others(others)] if others else []
    more += [_fix(news)] if _fix(news) else []
    return Notice("egress", (line, *(["; ".join(more)] if more else [])))


def _refused(ledger: Ledger, one: Destination) -> str:
    if ledger.is_enforced:
        return f"blocked {_named(one)}"
    if one.kind == "lookup":
        return f"asked not to look up {one.host or _ROOT}"
    return f"asked to stay away from {_named(one)}"


def _named(one: Destination) -> str:
    if one.kind == "lookup":
        return f"a lookup of {one.host or _ROOT}"
    if not one.host:
        return _UNREAD
    return str(Place(one.host, one.port)) if one.port else one.host


def _explained(one: Destination, program: str) -> str:
    """What it is where that is known, and who tried where that says more."""
    is_socket = one.kind == "socket"
    known = what_socket(one.host) if is_socket else what_is(one.host, program)
    tried = f"tried by {program or _SOMEBODY}"
    if not known:
        return tried
    return known if program in AIDERS else f"{known}, {tried}"


def _others(others: Sequence[Destination]) -> str:
    names = [_named(one) for one in others[:_OTHERS_NAMED]]
    rest = len(others) - len(names)
    listed = ", ".join(names) + (f" and {rest} more" if rest else "")
    return f"and {count(len(others), 'other')}: {listed}"


def _may_be_needed(one: Destination, tried: AttemptCount) -> bool:
    return one.kind == "host" and may_be_needed(one.host, one.port, tried.program)


def _fix(news: Mapping[Destination, AttemptCount]) -> str:
    """The setting that lets through what people work with."""
    needed = [one for one in news if _may_be_needed(one, news[one])][:_FIXES_NAMED]
    if not needed:
        return ""
    flags = " ".join(f"--allow {Place(one.host, one.port)}" for one in needed)
    return f"aider-guard {flags} lets {'it' if len(needed) == 1 else 'them'} through"


def no_more() -> Notice:
    """There are more new destinations than are said."""
    line = (
        "other places were tried, too; from now on they are in the journal and the last line only"
    )
    return Notice("egress_more", (line,))


def end_line(state: State, *, even_nothing: bool = True) -> Notice | None:
    """What tried to leave and what became of it, for the end of a session or of a run without one.

    None where there was no air gap, and for a launch that was refused. Without *even_nothing* it is None, too, where
    nothing was tried and nothing let through.
    """
    ledger = state.egress
    is_empty = not (ledger.tried or ledger.others or ledger.through)
    if ledger.layer == "open" or (is_empty and not (even_nothing and ledger.began)):
        return None
    through = (_through(ledger.through),) if ledger.through else ()
    if ledger.is_enforced:
        return Notice("egress_end", (_blocked(ledger), *through))
    return Notice("egress_end", (_asked(ledger), *through, _UNSEEN))


def _blocked(ledger: Ledger) -> str:
    if not ledger.tried and not ledger.others:
        return "nothing else tried to leave" if ledger.through else "nothing tried to leave"
    return f"blocked by the kernel: {_sum(ledger)}"


def _asked(ledger: Ledger) -> str:
    if not ledger.tried and not ledger.others:
        return "asked to behave, not blocked: no attempt to leave was seen"
    return f"asked to behave, not blocked: {_sum(ledger)}"


def _sum(ledger: Ledger) -> str:
    """How many attempts to what, those tried most often by name."""
    outside = ledger.outside()
    attempts_made = sum(tried.count for tried in outside.values()) + ledger.others
    most = sorted(outside.items(), key=lambda item: -item[1].count)
    named = [f"{_named(one)} {_times(tried.count)}" for one, tried in most[:_PLACES_NAMED]]
    rest = len(most) - len(named)
    more = f" and {rest} more" if rest else ""
    beyond = " and others" if ledger.others else ""
    noun = "attempt" if attempts_made == 1 else "attempts"
    where = f"{_places(outside)}{beyond} ({', '.join(named)}{more})"
    return f"{attempts_made:,} {noun} to {where}"


def _places(outside: Iterable[Destination]) -> str:
    hosts = len({one.host for one in outside if one.kind != "socket"})
    sockets = sum(one.kind == "socket" for one in outside)
    parts = ((hosts, "host"), (sockets, "socket"))
    return " and ".join(count(number, noun) for number, noun in parts if number)


def _through(through: Mapping[Place, int]) -> str:
    parts = (f"{place} {_times(times)}" for place, times in through.items())
    return f"let through: {', '.join(parts)}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


def layer_in_words(layer: Layer) -> str:
    """What a layer does, in words."""
    return {
        "netns": "the kernel blocks: Aider runs in a network of its own",
        "seccomp": "the kernel blocks: each connection of Aider's is decided by the guard",
        "asked": "nothing is blocked: Aider and its programs are only asked to behave",
        "open": "the network is open: nothing is blocked",
    }[layer]


# Why a system has no better layer of the air gap, and the setting that would change it. Rules are data.


@dataclass(frozen=True)
class Cause:
    """Why a layer cannot be, in words, and a line to paste that would change it, "" where none would."""

    words: str
    fix: str = ""


NOT_ENFORCED = "require-airgap is set, and the kernel does not enforce the air gap here"
_CONTAINER = "docker run --security-opt seccomp=unconfined"

CAUSES: Mapping[str, Cause] = {
    # kernel.org Documentation/admin-guide/sysctl/user.rst; 0 forbids them.
    "max-user-namespaces": Cause(
        "user namespaces are switched off (user.max_user_namespaces is 0)",
        "sudo sysctl user.max_user_namespaces=15000",
    ),
    # Ubuntu 23.10 and later: a namespace can be made, and has no capabilities in it.
    "apparmor": Cause(
        "AppArmor keeps user namespaces from ordinary users"
        " (kernel.apparmor_restrict_unprivileged_userns is 1)",
        "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
    # Debian's and Arch's own switch, before they took the kernel's.
    "userns-clone": Cause(
        "user namespaces are switched off for ordinary users (kernel.unprivileged_userns_clone is 0)",
        "sudo sysctl kernel.unprivileged_userns_clone=1",
    ),
    # The default profile of Docker allows unshare(2) to nobody without CAP_SYS_ADMIN, and pidfd_getfd(2) likewise.
    "container": Cause("the container forbids namespaces", _CONTAINER),
    "pidfd": Cause("the container forbids to take a descriptor of another process", _CONTAINER),
    "ptrace": Cause(
        "no process may look into another one (kernel.yama.ptrace_scope is 2 or more)",
        "sudo sysctl kernel.yama.ptrace_scope=1",
    ),
    "no-namespaces": Cause("this kernel has no user namespaces"),
    "no-notify": Cause("this kernel is older than Linux 5.9, the first that can ask about a call"),
    "no-table": Cause("the numbers of this processor's system calls are not known"),
    "page": Cause("a browser outside must reach the page that Aider serves"),
    "not-linux": Cause("only Linux has such a layer"),
}

NAMESPACES: Sequence[tuple[str, str, str]] = (
    ("user/max_user_namespaces", "0", "max-user-namespaces"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "apparmor"),
    ("kernel/unprivileged_userns_clone", "0", "userns-clone"),
)
"""What forbids namespaces: a file below /proc/sys, what it says then, and the cause."""
FILTER: Sequence[tuple[str, str, str]] = (
    ("kernel/yama/ptrace_scope", "2", "ptrace"),
    ("kernel/yama/ptrace_scope", "3", "ptrace"),
)
"""What forbids to decide about another process's system calls."""


def cause_of(
    switches: Sequence[tuple[str, str, str]], read: Callable[[str], str], otherwise: str
) -> str:
    """The cause that the system's own settings tell, else *otherwise*.

    *read* gives what a file below /proc/sys says, "" where it cannot be read.
    """
    told = (cause for name, forbids, cause in switches if read(name).strip() == forbids)
    return next(told, otherwise)


def causes(because: str) -> tuple[Cause, ...]:
    """What a ``because`` says, in its order; what is none of the table's stands for itself."""
    return tuple(CAUSES.get(one, Cause(one)) for one in because.split("; ") if one)


def in_words(because: str) -> str:
    """Why there is no better layer, in words."""
    return "; ".join(cause.words for cause in causes(because))


def fix(because: str) -> str:
    """The first setting that would allow a better layer; "" where none is known."""
    return next((cause.fix for cause in causes(because) if cause.fix), "")
