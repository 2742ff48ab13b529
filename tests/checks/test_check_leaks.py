"""The 18 ways out: each set up as a user would have it, and named."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from checks.worlds import (
    MAIN,
    by_id,
    finding_of,
    installed,
    model,
    notable,
    role,
    same,
    server,
    settings,
    variable,
    world,
)

from aider_guard.config import Config
from aider_guard.core.egress import LayerChoice
from aider_guard.core.findings import LEAKS, Severity
from aider_guard.core.other_servers import OtherModel
from aider_guard.core.readings import Unavailable
from aider_guard.launch.facts import Facts, RepoFacts

ENV = "/repo/.env"


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")


CLOUD = "gpt-4o"
LOCAL = same()
KEY = variable("OPENAI_API_KEY", source=ENV)
ENTRY = "/repo/.aider.model.settings.yml"


# (way, facts, severity, what the evidence names)
WAYS: list[tuple[str, Facts, Severity, str]] = [
    (
        "default-model",
        world(*same(CLOUD, f"the key OPENAI_API_KEY in {ENV}"), keys=(KEY,)),
        "stop",
        ENV,
    ),
    ("model-from-env", world(*same(CLOUD, f"AIDER_MODEL in {ENV}")), "stop", ENV),
    (
        "side-model",
        world(*LOCAL[:2], role("weak", CLOUD, f"AIDER_WEAK_MODEL in {ENV}")),
        "stop",
        ENV,
    ),
    (
        "side-model",
        world(LOCAL[0], role("editor", CLOUD, "/repo/.aider.conf.yml"), LOCAL[2]),
        "stop",
        "/repo/.aider.conf.yml",
    ),
    (
        "model-settings",
        world(
            *LOCAL[:2],
            role("weak", CLOUD, f"weak_model_name in {ENTRY}", settings_source=ENTRY),
        ),
        "stop",
        ENTRY,
    ),
    (
        "model-settings",
        world(
            role(
                "main",
                MAIN,
                "--model on the command line",
                api_base="https://example.com",
                settings_source=ENTRY,
            ),
            *LOCAL[1:],
        ),
        "stop",
        ENTRY,
    ),
    (
        "model-settings",
        world(
            role(
                "main",
                MAIN,
                "--model on the command line",
                settings_source=ENTRY,
                redirects=("fallbacks: gpt-4o",),
            ),
            *LOCAL[1:],
        ),
        "stop",
        ENTRY,
    ),
    (
        "alias",
        world(
            role(
                "main",
                CLOUD,
                "--model on the command line, an alias in /repo/.aider.conf.yml",
                asked=MAIN,
            )
        ),
        "stop",
        "/repo/.aider.conf.yml",
    ),
    ("switch-model", world(keys=(KEY,)), "info", "OPENAI_API_KEY"),
    (
        "ollama-cloud",
        world(*same("ollama_chat/gpt-oss:120b-cloud"), server=server(models={})),
        "stop",
        "not sent",
    ),
    (
        "ollama-cloud",
        world(*same("ollama_chat/kimi:cloud"), server=Unavailable("not asked")),
        "stop",
        "not sent",
    ),
    (
        "ollama-cloud",
        world(*same("ollama_chat/gpt-oss: cloud"), server=server(models={})),
        "stop",
        "not sent",
    ),
    (
        "ollama-cloud",
        world(server=server(installed=(installed(remote_host="https://ollama.com:443"),))),
        "stop",
        "https://ollama.com:443",
    ),
    (
        "ollama-cloud",
        world(server=server(model(remote_host="https://ollama.com:443"))),
        "stop",
        "https://ollama.com:443",
    ),
    (
        "remote-ollama",
        world(
            ollama_api_base="http://203.0.113.7:11434",
            addresses=(variable("OLLAMA_API_BASE", "http://203.0.113.7:11434", ENV),),
            env_files=(ENV,),
            server=server(is_local=False),
        ),
        "stop",
        ENV,
    ),
    (
        "http-proxy",
        world(addresses=(variable("HTTP_PROXY", "http://10.0.0.1:3128"),)),
        "info",
        "the environment",
    ),
    (
        "litellm-proxy",
        world(
            addresses=(
                variable("USE_LITELLM_PROXY", "True", ENV),
                variable("LITELLM_PROXY_API_BASE", "https://example.com", ENV),
            )
        ),
        "info",
        ENV,
    ),
    ("copilot-token", world(keys=(variable("GITHUB_COPILOT_TOKEN", source=ENV),)), "info", ENV),
    (
        "openrouter-oauth",
        world(keys=(variable("OPENROUTER_API_KEY", source="/home/ada/.aider/oauth-keys.env"),)),
        "info",
        "oauth-keys.env",
    ),
    ("voice", world(keys=(KEY,)), "info", ENV),
    ("web", world(detect_urls=True), "info", "detect-urls"),
    ("model-flag", world(*same(CLOUD, "--4o on the command line")), "stop", "--4o"),
    ("model-flag", world(*same(CLOUD, f"AIDER_4O in {ENV}")), "stop", "AIDER_4O"),
    ("model-flag", world(*same(CLOUD, "4o in /repo/.aider.conf.yml")), "stop", "4o"),
    (
        "fallback",
        world(*LOCAL[:2], role("weak", CLOUD, f"AIDER_WEAK_MODEL in {ENV}")),
        "warn",
        "weak in a cloud",
    ),
    (
        "fallback",
        world(role("main", CLOUD, "/repo/.aider.conf.yml"), *LOCAL[1:]),
        "warn",
        "main in a cloud",
    ),
    ("cache-pings", world(cache_keepalive_pings=3), "info", "cache-keepalive-pings"),
    ("user-commands", world(repo=RepoFacts(hooks=("post-commit",))), "info", "post-commit"),
    ("user-commands", world(load="start.txt", lint_cmd=("ruff",)), "info", "start.txt"),
]


@pytest.mark.parametrize(("way", "facts", "severity", "evidence"), WAYS)
def test_each_way_out_is_named_with_its_source(
    way: str, facts: Facts, severity: Severity, evidence: str
) -> None:
    """Every path by which code leaves has its own id, and the evidence names where it was set."""
    finding = finding_of(facts, way)

    assert finding.severity == severity
    assert evidence in finding.evidence


def test_all_eighteen_ways_are_set_up() -> None:
    """The table above leaves none out."""
    assert len(LEAKS) == 18
    assert {way for way, *_ in WAYS} == set(LEAKS)


def test_where_all_is_fine_there_is_no_way_out() -> None:
    """A local model, no key, no proxy: none of the 18 is named."""
    assert notable(world()) == set()


CLOUDS: list[tuple[str, str]] = [
    (CLOUD, "--model on the command line"),
    (CLOUD, "/repo/.aider.conf.yml"),
    ("openrouter/x/y", "--mod on the command line"),
    ("anthropic/claude", "--model on the command line"),
    ("claude-sonnet", ""),
    ("ollamas/qwen3", ""),
]


@pytest.mark.parametrize(("name", "source"), CLOUDS)
def test_a_cloud_that_was_asked_for_is_one_all_the_same(name: str, source: str) -> None:
    """A main model of a cloud is a stop however it was named: one finding for all roles that follow it."""
    assert notable(world(*same(name, source))) == {("stop", "cloud-model")}


@pytest.mark.parametrize("second", ["o3-mini", CLOUD])
def test_a_side_model_of_its_own_is_named_beside_a_main_model_in_a_cloud(second: str) -> None:
    """Two files that name models of clouds are two things to change, also where it is the same model."""
    facts = world(
        role("main", CLOUD, "/repo/.aider.conf.yml"),
        role("editor", CLOUD, "the main model"),
        role("weak", second, f"AIDER_WEAK_MODEL in {ENV}"),
    )
    assert notable(facts) == {("stop", "cloud-model"), ("stop", "side-model")}


def test_a_side_model_from_aiders_own_table_is_not_named_again() -> None:
    """With gpt-4o comes gpt-4o-mini: one cause, one finding."""
    facts = world(
        role("main", CLOUD, "/repo/.aider.conf.yml"),
        role("weak", "gpt-4o-mini", "Aider's settings for gpt-4o"),
    )
    assert notable(facts) == {("stop", "cloud-model")}


def test_the_fix_names_a_model_that_is_there() -> None:
    """The line to paste gives the role in question a model that Ollama has."""
    facts = world(*LOCAL[:2], role("weak", CLOUD, f"AIDER_WEAK_MODEL in {ENV}"))
    assert finding_of(facts, "side-model").fix == f"aider-guard -- --weak-model {MAIN}"


def test_without_a_model_the_fix_gets_one() -> None:
    """Nothing is installed: the line to paste begins with a pull."""
    facts = world(*same(CLOUD), server=server(models={}, installed=()))
    assert finding_of(facts, "cloud-model").fix.startswith(
        "ollama pull qwen3:8b && aider-guard -- --model"
    )


LOCAL_SERVERS = [
    ("openai/qwen", variable("OPENAI_API_BASE", "http://127.0.0.1:8080")),
    ("openai/qwen", variable("OPENAI_BASE_URL", "http://localhost:8080")),
    ("gpt-oss", variable("OPENAI_API_BASE", "http://[::1]:8080")),
    ("lm_studio/qwen", variable("LM_STUDIO_API_BASE", "http://127.0.0.1:1234")),
    ("llamafile/qwen", variable("X")),
]


@pytest.mark.parametrize(("name", "address"), LOCAL_SERVERS)
def test_another_server_on_this_machine_is_no_cloud(name: str, address: object) -> None:
    """An OpenAI-compatible server behind a loopback address is fine, and shown with its window."""
    report = server(others={name: OtherModel("", 4096)})
    facts = world(*same(name), addresses=(address,), server=report)
    assert notable(facts) == {("info", "local-server")}
    assert "window is 4,096 tokens" in finding_of(facts, "local-server").what


def test_another_server_that_hides_its_window_is_said() -> None:
    """With its reason; a window from the settings replaces it."""
    why = Unavailable("http://127.0.0.1:8080 does not tell the window")
    address = variable("OPENAI_API_BASE", "http://127.0.0.1:8080")
    facts = world(*same("openai/q"), addresses=(address,), server=server(others={"openai/q": why}))
    finding = finding_of(facts, "local-server")
    assert (finding.severity, finding.fix) == ("unknown", "aider-guard --num-ctx 8192")
    assert finding.evidence == f"http://127.0.0.1:8080: {why.reason}"
    with_window = replace(facts, config=Config(num_ctx=4096))
    assert finding_of(with_window, "local-server").severity == "info"


def test_of_two_variables_the_one_that_litellm_reads_first_counts() -> None:
    """``OPENAI_BASE_URL`` in a cloud is not hidden by an ``OPENAI_API_BASE`` here."""
    here = variable("OPENAI_API_BASE", "http://127.0.0.1:8080")
    away = variable("OPENAI_BASE_URL", "https://cloud.example")
    assert ("stop", "cloud-model") in notable(world(*same("openai/qwen"), addresses=(here, away)))


def test_a_server_at_an_address_of_this_machine_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its host name means the same machine as loopback."""
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box")
    address = variable("OPENAI_API_BASE", "http://gpu-box:8080")
    assert by_id(world(*same("openai/qwen"), addresses=(address,)), "local-server")


def test_an_entry_with_a_loopback_address_is_no_cloud() -> None:
    """``api_base`` may also lead to another server here."""
    facts = world(role("main", MAIN, api_base="http://127.0.0.1:9999", settings_source=ENTRY))
    assert notable(facts) == {("info", "local-server")}


@pytest.mark.parametrize("base", ["", "https://example.com/v1", "http://8.8.8.8:8080"])
def test_an_openai_model_elsewhere_is_in_a_cloud(base: str) -> None:
    """Without an address, or with one that is not of this machine."""
    addresses = (variable("OPENAI_API_BASE", base),)
    assert notable(world(*same("openai/qwen"), addresses=addresses)) == {("stop", "cloud-model")}


def test_a_redirect_to_ollama_stays_here() -> None:
    """A fallback may also be a model of Ollama's."""
    redirects = ("fallbacks: ollama_chat/x", "custom_llm_provider: ollama_chat")
    assert not by_id(world(role("main", MAIN, redirects=redirects)), "model-settings")


# Where Ollama is

REMOTE = "http://203.0.113.7:11434"
REMOTES: list[tuple[str, str, str, Severity | None]] = [
    # address, source, the guard's own setting, severity
    (REMOTE, ENV, "", "stop"),
    (REMOTE, "set-env in /repo/.aider.conf.yml", "", "stop"),
    (REMOTE, "the environment", "", "warn"),
    (REMOTE, "--set-env on the command line", "", "warn"),
    (REMOTE, "/home/ada/.env", "", "warn"),
    (REMOTE, ENV, REMOTE, "warn"),
    ("http://192.168.1.5:11434", ENV, "", "stop"),
    ("http://192.168.1.5:11434", "the environment", "", "info"),
    ("http://gpu-box:11434", "the environment", "", "info"),
    ("http://gpu.local:11434", "the environment", "", "info"),
    ("https://llm.example.com", "the environment", "", "warn"),
    ("https://ollama.com", "the environment", "", "stop"),
    ("https://x.ollama.com", "--set-env on the command line", "", "stop"),
    ("https://ollama.ai", "the environment", "https://ollama.ai", "stop"),
    ("http://notollama.com", "the environment", "", "warn"),
    ("http://127.0.0.1:9999", ENV, "", None),
]


@pytest.mark.parametrize(("address", "source", "guards", "severity"), REMOTES)
@pytest.mark.parametrize("answers", [True, False])
def test_who_named_another_machine_decides(
    address: str, source: str, guards: str, severity: Severity | None, *, answers: bool
) -> None:
    """A stranger's file may not send the code anywhere; the user may, but not to Ollama's cloud unseen."""
    facts = world(
        config=Config(ollama=guards),
        server=server(is_local=severity is None) if answers else Unavailable("not asked"),
        settings=settings(
            ollama_api_base=address,
            addresses=(variable("OLLAMA_API_BASE", address, source),),
            env_files=("/home/ada/.env", ENV),
        ),
    )
    findings = by_id(facts, "remote-ollama")

    assert [each.severity for each in findings] == ([severity] if severity else [])


def test_a_file_of_the_working_folder_is_a_strangers_word_too() -> None:
    """Without a repository, the .env that Aider finds by its name beside the files is not the user's own."""
    facts = world(
        git_root=None,
        ollama_api_base=REMOTE,
        addresses=(variable("OLLAMA_API_BASE", REMOTE, "/tmp/unpacked/.env"),),
        env_files=("/tmp/unpacked/.env",),
        server=Unavailable("not asked"),
    )
    assert notable(facts) == {("stop", "remote-ollama")}


LAN = "http://192.168.1.7:8000/v1"
SERVERS = [
    (LAN, "the environment", "info"),
    ("http://gpu-box:8000/v1", "--openai-api-base on the command line", "info"),
    ("http://box.home.arpa:8000/v1", "/home/ada/.env", "info"),
    (LAN, ENV, "stop"),
    ("https://llm.example.com/v1", "the environment", "stop"),
    ("https://1.1.1.1/v1", "the environment", "stop"),
]


@pytest.mark.parametrize(("address", "source", "severity"), SERVERS)
def test_a_server_of_the_users_own_network_is_no_cloud(
    monkeypatch: pytest.MonkeyPatch, address: str, source: str, severity: Severity
) -> None:
    """As for an Ollama there: it depends on who named it. A public address may be any cloud's."""
    monkeypatch.setenv("HOME", "/home/ada")
    facts = world(
        *same("openai/m"),
        settings=settings(
            *same("openai/m"),
            addresses=(replace(variable("OPENAI_API_BASE", address, source), address=address),),
            env_files=("/home/ada/.env", ENV),
        ),
        server=server(others={"openai/m": OtherModel("", 4096)}),
    )
    found = notable(facts)
    is_used = severity == "info"
    assert (("info", "remote-server") in found) is is_used
    assert (("stop", "cloud-model") in found) is not is_used
    if is_used:
        finding = finding_of(facts, "remote-server")
        assert finding.what == f"all code for openai/m goes to {address.removeprefix('http://')}"
        assert finding.evidence == f"OPENAI_API_BASE, {source}"
        assert "in your network; its window is 4,096" in finding_of(facts, "local-server").what
    elif source == ENV:
        assert "which only the repository names" in finding_of(facts, "cloud-model").what


def test_plain_http_to_another_network_is_said() -> None:
    """Every machine on the way can read the code."""
    facts = world(ollama_api_base=REMOTE, server=server(is_local=False))
    assert "unencrypted" in finding_of(facts, "remote-ollama").what


def test_the_machine_that_was_named_is_the_only_place() -> None:
    """One line with its name; with an open network it is not the only one."""
    facts = world(
        environment={"OLLAMA_HOST": "gpu-box"},
        server=server(base="http://gpu-box:11434", is_local=False),
    )
    finding = finding_of(facts, "remote-ollama")
    assert finding.what == "all code goes to Ollama on gpu-box:11434, and nowhere else"
    assert (finding.severity, finding.evidence) == ("info", "OLLAMA_HOST, the environment")
    opened = replace(facts, config=Config(network="open"))
    assert finding_of(opened, "remote-ollama").what == "all code goes to Ollama on gpu-box:11434"


def test_an_address_that_no_model_uses_gets_no_code() -> None:
    """A model of another server is named, so nothing goes to Ollama."""
    base = "http://10.0.0.3:11434"
    facts = world(
        *same("openai/qwen"),
        server=server(base=base, is_local=False),
        environment={"OLLAMA_API_BASE": base},
        addresses=(variable("OPENAI_API_BASE", "http://127.0.0.1:8000/v1"),),
    )
    assert by_id(facts, "remote-ollama") == []
    used = world(server=facts.server, environment=facts.environment)
    assert by_id(used, "remote-ollama") != []


def test_ollamas_variable_is_named_though_aider_sees_its_own() -> None:
    """The guard puts OLLAMA_HOST into OLLAMA_API_BASE for Aider."""
    base = "http://gpu-box:11434"
    facts = world(
        environment={"OLLAMA_HOST": "gpu-box"},
        ollama_api_base=base,
        addresses=(variable("OLLAMA_API_BASE", base),),
        server=server(base=base, is_local=False),
    )
    assert finding_of(facts, "remote-ollama").evidence == "OLLAMA_HOST, the environment"


# Proxies

PROXIES = [
    (("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "localhost,127.0.0.1"), False),
    (("http_proxy", "http://p:1"), ("no_proxy", "*"), False),
    (("ALL_PROXY", "socks5://p:1"), ("NO_PROXY", "example.com"), True),
    (("all_proxy", "socks5://p:1"), ("NO_PROXY", ""), True),
    (("HTTPS_PROXY", "http://p:1"), ("X", ""), False),
    (("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "127.0.0.1:11434"), False),
    (("HTTP_PROXY", "http://p:1"), ("NO_PROXY", "27.0.0.1"), True),
]


@pytest.mark.parametrize(("proxy", "exception", "is_said"), PROXIES)
def test_a_proxy_is_said_when_it_would_carry_ollamas_requests(
    proxy: tuple[str, str], exception: tuple[str, str], *, is_said: bool
) -> None:
    """Its scheme must be that of Ollama's address, and no exception name its host."""
    facts = world(addresses=(variable(*proxy), variable(*exception)))
    assert bool(by_id(facts, "http-proxy")) == is_said


def test_an_https_proxy_carries_https() -> None:
    """An Ollama behind TLS is reached through the other proxy."""
    facts = world(
        ollama_api_base="https://gpu-box",
        server=server(is_local=False),
        addresses=(variable("HTTPS_PROXY", "http://p:1"),),
    )
    assert by_id(facts, "http-proxy")


@pytest.mark.parametrize(("value", "is_said"), [("True", True), ("", True), ("False", False)])
def test_a_litellm_proxy_that_is_switched_off_is_none(value: str, *, is_said: bool) -> None:
    """Only the switch makes requests for Ollama go there."""
    facts = world(addresses=(variable("USE_LITELLM_PROXY", value),))
    assert bool(by_id(facts, "litellm-proxy")) == is_said


# Keys


def test_keys_are_listed_with_their_sources_and_never_their_values() -> None:
    """One finding for all keys, which also says what the guard does about them."""
    keys = (KEY, variable("GROQ_API_KEY"))
    finding = finding_of(world(keys=keys), "cloud-keys")

    assert finding.severity == "info"
    assert "in a guarded session" in finding.what
    assert finding.evidence == f"OPENAI_API_KEY, {ENV} and GROQ_API_KEY, the environment"
    assert finding.fix == f"remove OPENAI_API_KEY from {ENV} and GROQ_API_KEY from the environment"
    assert finding_of(world(keys=keys[1:]), "cloud-keys").fix == "unset GROQ_API_KEY"


OPENAI_HERE = variable("OPENAI_API_BASE", "http://127.0.0.1:8080/v1")
KEPT = [
    (
        world(keys=(variable("OLLAMA_API_KEY"),)),
        ("goes to Ollama at http://127.0.0.1:11434",),
        False,
    ),
    (world(keys=(variable("AWS_SECRET_ACCESS_KEY"),)), ("another program may need it",), True),
    (world(keys=(variable("MY_API_KEY"),)), ("another program may need it",), True),
    (
        world(*same("openai/m"), keys=(KEY,), addresses=(OPENAI_HERE,)),
        ("a server of your own",),
        True,
    ),
    (world(keys=(KEY,), config=Config(network="open")), ("the network is open",), True),
]


@pytest.mark.parametrize(("facts", "said", "opens"), KEPT)
def test_a_key_that_aider_keeps_is_not_called_invalid(
    facts: Facts, said: tuple[str, ...], *, opens: bool
) -> None:
    """What is said is what the session's environment will have."""
    finding = finding_of(facts, "cloud-keys")
    assert "invalid" not in finding.what
    assert all(words in finding.what for words in said)
    assert [each.what.partition("; ")[2] for each in by_id(facts, "switch-model")] == (
        ["its key is valid"] if opens else []
    )
    assert not [each for each in by_id(facts, "voice") if "invalid" in each.what]


def test_both_kinds_of_keys_are_told_apart() -> None:
    """The one goes to Ollama, the other nowhere."""
    keys = (variable("OLLAMA_API_KEY"), variable("GROQ_API_KEY"))
    first, second = by_id(world(keys=keys), "cloud-keys")
    assert (
        first.what == "GROQ_API_KEY is set; in a guarded session Aider gets invalid values instead"
    )
    assert second.what.startswith("OLLAMA_API_KEY is set, and in a guarded session Aider has it")
    held = world(keys=(variable("AWS_PROFILE"),), air_gap=LayerChoice("netns"))
    assert "the kernel blocks it" in finding_of(held, "switch-model").what


def test_with_an_open_network_nothing_is_said_to_be_switched_off() -> None:
    """There every variable stays as it is."""
    keys = (
        variable("GITHUB_COPILOT_TOKEN"),
        KEY,
        variable("OPENROUTER_API_KEY", "", "/h/oauth-keys.env"),
    )
    facts = world(
        keys=keys,
        addresses=(variable("USE_LITELLM_PROXY", "True"),),
        config=Config(network="open"),
    )
    ids = ("copilot-token", "openrouter-oauth", "voice", "litellm-proxy")
    assert not [each for each in ids if "in a guarded session" in finding_of(facts, each).what]
    assert all(
        "in a guarded session" in finding_of(replace(facts, config=Config()), each).what
        for each in ids
    )


def test_a_copilot_token_opens_no_model() -> None:
    """Its finding is about what it does; it is no key of a cloud's models."""
    facts = world(keys=(variable("GITHUB_COPILOT_TOKEN"),))
    assert notable(facts) == {("info", "copilot-token")}


def test_only_openais_key_opens_voice() -> None:
    """Other keys do not make /voice work."""
    assert not by_id(world(keys=(variable("GROQ_API_KEY"),)), "voice")


@pytest.mark.parametrize(
    ("disabled", "is_said"), [(False, True), (True, False), (Unavailable("404"), False)]
)
def test_ollamas_cloud_switch_is_said_where_it_is_on(
    disabled: bool | Unavailable, *, is_said: bool
) -> None:
    """Older servers have no switch, and no finding."""
    findings = by_id(world(server=server(cloud_disabled=disabled)), "ollama-cloud-switch")

    assert bool(findings) == is_said
    assert all("OLLAMA_NO_CLOUD=1" in each.fix for each in findings)
