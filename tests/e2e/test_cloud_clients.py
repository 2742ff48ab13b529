"""What real litellm makes of the door's answers for each provider's cloud, and whether Aider would try again."""

from __future__ import annotations

import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from door.handler_services import HandlerSetup
from door.scripted import TOKEN, door_to

from aider_guard.config import Config
from aider_guard.core.events import EgressBlocked
from aider_guard.launch.aider import find_aider
from aider_guard.launch.aider_settings import AiderSettings
from aider_guard.launch.cloud_variables import CLOUD_BASES
from aider_guard.launch.environment import cloud_addresses, local_environment
from aider_guard.launch.routes import DoorAddress

if TYPE_CHECKING:
    from aider_guard.demo.layout import Rig

NOWHERE = "http://127.0.0.1:9"
MODELS = {
    "ai-gateway.vercel.sh": "vercel_ai_gateway/some/model",
    "api.ai21.com": "ai21_chat/jamba-1.5-large",
    "api.aimlapi.com": "aiml/model",
    "api.anthropic.com": "claude-sonnet-4-20250514",
    "api.cerebras.ai": "cerebras/model",
    "api.cohere.com": "cohere_chat/command-r-plus",
    "api.cometapi.com": "cometapi/model",
    "api.deepinfra.com": "deepinfra/some/model",
    "api.deepseek.com": "deepseek/deepseek-chat",
    "api.featherless.ai": "featherless_ai/some/model",
    "api.fireworks.ai": "fireworks_ai/accounts/fireworks/models/model",
    "api.friendli.ai": "friendliai/model",
    "api.galadriel.com": "galadriel/model",
    "api.groq.com": "groq/llama-3.3-70b-versatile",
    "api.hyperbolic.xyz": "hyperbolic/some/model",
    "api.inference.wandb.ai": "wandb/model",
    "api.lambda.ai": "lambda_ai/model",
    "api.llama.com": "meta_llama/model",
    "api.minimax.io": "minimax/MiniMax-M2",
    "api.mistral.ai": "mistral/mistral-large-latest",
    "api.moonshot.ai": "moonshot/kimi-k2",
    "api.morphllm.com": "morph/model",
    "api.nova.amazon.com": "amazon_nova/model",
    "api.novita.ai": "novita/some/model",
    "api.openai.com": "gpt-4o",
    "api.perplexity.ai": "perplexity/sonar",
    "api.publicai.co": "publicai/model",
    "api.sambanova.ai": "sambanova/model",
    "api.studio.nebius.ai": "nebius/model",
    "api.together.xyz": "together_ai/some/model",
    "api.v0.dev": "v0/model",
    "api.x.ai": "xai/grok-3-beta",
    "api.z.ai": "zai/glm-4.6",
    "app.empower.dev": "empower/model",
    "ark.cn-beijing.volces.com": "volcengine/model",
    "codestral.mistral.ai": "codestral/codestral-latest",
    "dashscope.aliyuncs.com": "dashscope/qwen-max",
    "generativelanguage.googleapis.com": "gemini/gemini-2.5-pro",
    "inference.api.nscale.com": "nscale/model",
    "integrate.api.nvidia.com": "nvidia_nim/model",
    "models.inference.ai.azure.com": "github/gpt-4o",
    "oai.endpoints.kepler.ai.cloud.ovh.net": "ovhcloud/model",
    "openrouter.ai": "openrouter/some/model",
}
"""A model of each provider's."""
TRIED_AGAIN = {"api.minimax.io", "api.nova.amazon.com", "oai.endpoints.kepler.ai.cloud.ovh.net"}
"""The providers whose every error litellm 1.81.10 takes for a lost connection."""
SCRIPT = """
import json, sys
import litellm
from aider.exceptions import LiteLLMExceptions
litellm.suppress_debug_info = True
known, told = LiteLLMExceptions(), {}
for host, model in json.loads(sys.argv[1]).items():
    for stream in (True, False):
        try:
            message = {"role": "user", "content": "hello"}
            answer = litellm.completion(model=model, messages=[message], stream=stream, timeout=10)
            list(answer if stream else ())
        except Exception as error:
            told[f"{host} {stream}"] = known.get_ex_info(error).retry, str(error)
print(json.dumps(told))
"""


@cache
def told(aider: str) -> tuple[dict[str, tuple[bool, str]], dict[str, int]]:
    """What litellm says to each request, by host and whether the answer is streamed; and the attempts that the door
    reports, by host.
    """
    interpreter = find_aider(aider).interpreter
    setup = HandlerSetup()
    with door_to(setup.handler, NOWHERE) as door:
        session = Config(), AiderSettings(), NOWHERE
        local = local_environment(*session, NOWHERE).set
        clouds = cloud_addresses(*session, DoorAddress(door.port, TOKEN))
        home = {"HOME": str(Path("/nonexistent")), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
        ended = subprocess.run(
            [*interpreter, "-c", SCRIPT, json.dumps(MODELS)],
            env={"PATH": os.environ["PATH"], **home, **local, **clouds},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ended.returncode == 0, ended.stderr
    attempts = [event for event in setup.events if isinstance(event, EgressBlocked)]
    hosts = [event.host for event in attempts]
    return json.loads(ended.stdout.splitlines()[-1]), {host: hosts.count(host) for host in hosts}


def test_every_provider_has_a_model_here() -> None:
    """The table is complete."""
    assert set(MODELS) == set(CLOUD_BASES)


@pytest.mark.parametrize("host", CLOUD_BASES)
def test_a_cloud_is_asked_once_and_the_words_are_shown(host: str, rig: Rig) -> None:
    """For streamed answers and whole ones, the one line and a few words of litellm's before it."""
    said, attempts = told(str(rig.aider_command))
    assert attempts[host] == 2
    for stream in (True, False):
        is_tried_again, text = said[f"{host} {stream}"]
        assert is_tried_again is (host in TRIED_AGAIN)
        assert f"would run at {host}; /model NAME goes back to a local model" in text
        assert "\n" not in text
        assert len(text) < 250
        assert "://" not in text  # Aider would offer to open it
