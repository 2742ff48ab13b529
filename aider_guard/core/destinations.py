"""What is known of the places that programs try to reach from inside the air gap. Rules are data.

A host stands for itself and for every host below it, of several the longest; one of ``CODE_HOSTS`` for itself only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

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
