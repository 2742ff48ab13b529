"""Lists the environment variables that lead to a cloud: keys, addresses and proxies.

Standard library only, and any Python that Aider runs on: launch/inside loads this file in Aider's own process too.

Sources: litellm 1.81.10 (``validate_environment``, ``litellm_core_utils/get_llm_provider_logic.py`` and what each
folder of ``llms/`` reads), Aider 0.86.2 (onboarding.py, models.py; ``--api-key NAME=…`` sets ``NAME_API_KEY``).
"""

from __future__ import annotations

# Each is read by a provider of models only, so it can be made invalid for a session without harm to other programs.
CLOUD_KEYS = (
    "AI21_API_KEY", "AIMLAPI_KEY", "AIML_API_KEY", "ALEPHALPHA_API_KEY", "ALEPH_ALPHA_API_KEY", "AMAZON_NOVA_API_KEY",
    "ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANYSCALE_API_KEY", "ARK_API_KEY", "AWS_BEARER_TOKEN_BEDROCK",
    "AZURE_AI_API_KEY", "AZURE_API_KEY", "AZURE_OPENAI_API_KEY", "BASETEN_API_KEY", "BYTEZ_API_KEY",
    "CEREBRAS_API_KEY", "CHUTES_API_KEY", "CLARIFAI_API_KEY", "CODESTRAL_API_KEY", "COHERE_API_KEY",
    "COMETAPI_API_KEY", "COMETAPI_KEY", "COMPACTIFAI_API_KEY", "CO_API_KEY", "DASHSCOPE_API_KEY",
    "DATAROBOT_API_TOKEN", "DEEPGRAM_API_KEY", "DEEPINFRA_API_KEY", "DEEPSEEK_API_KEY", "ELEVENLABS_API_KEY",
    "EMPOWER_API_KEY", "FAL_AI_API_KEY", "FEATHERLESS_AI_API_KEY", "FEATHERLESS_API_KEY", "FIREWORKSAI_API_KEY",
    "FIREWORKS_AI_API_KEY", "FIREWORKS_AI_TOKEN", "FIREWORKS_API_KEY", "FRIENDLIAI_API_KEY", "FRIENDLI_TOKEN",
    "GALADRIEL_API_KEY", "GEMINI_API_KEY", "GIGACHAT_API_KEY", "GIGACHAT_CREDENTIALS", "GITHUB_API_KEY",
    "GITHUB_COPILOT_TOKEN", "GOOGLE_API_KEY", "GRADIENT_AI_API_KEY", "GROQ_API_KEY", "HEROKU_API_KEY",
    "HUGGINGFACE_API_KEY", "HYPERBOLIC_API_KEY", "INFINITY_API_KEY", "JINA_AI_API_KEY", "JINA_AI_TOKEN",
    "LAMBDA_API_KEY", "LANGGRAPH_API_KEY", "LITELLM_PROXY_API_KEY", "LLAMA_API_KEY", "MANUS_API_KEY",
    "MARITALK_API_KEY", "MINIMAX_API_KEY", "MISTRAL_API_KEY", "MISTRAL_AZURE_API_KEY", "MOONSHOT_API_KEY",
    "MORPH_API_KEY", "NANOGPT_API_KEY", "NEBIUS_API_KEY", "NLP_CLOUD_API_KEY", "NOVITA_API_KEY", "NSCALE_API_KEY",
    "NVIDIA_NIM_API_KEY", "OLLAMA_API_KEY", "OPENAI_API_KEY", "OPENAI_LIKE_API_KEY", "OPENROUTER_API_KEY",
    "OR_API_KEY", "OVHCLOUD_API_KEY", "PALM_API_KEY", "PERPLEXITYAI_API_KEY", "PERPLEXITY_API_KEY", "POE_API_KEY",
    "PREDIBASE_API_KEY", "PUBLICAI_API_KEY", "RECRAFT_API_KEY", "REPLICATE_API_KEY", "REPLICATE_API_TOKEN",
    "RUNWAYML_API_KEY", "RUNWAYML_API_SECRET", "SAMBANOVA_API_KEY", "STABILITY_API_KEY", "STIMA_API_KEY",
    "SYNTHETIC_API_KEY", "TOGETHERAI_API_KEY", "TOGETHER_AI_API_KEY", "TOGETHER_AI_TOKEN", "TOGETHER_API_KEY",
    "TOPAZ_API_KEY", "V0_API_KEY", "VERCEL_AI_GATEWAY_API_KEY", "VOLCENGINE_API_KEY", "VOYAGE_AI_API_KEY",
    "VOYAGE_AI_TOKEN", "VOYAGE_API_KEY", "WATSONX_API_KEY", "WATSONX_APIKEY", "WATSONX_TOKEN", "WATSONX_ZENAPIKEY",
    "WX_API_KEY", "XAI_API_KEY", "ZAI_API_KEY",
)  # fmt: skip

# These open a cloud's models as well, but other programs that the user runs from Aider need them.
SHARED_CREDENTIALS = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_AD_TOKEN",
    "AZURE_CLIENT_SECRET", "CLOUDFLARE_API_KEY", "CLOUDFLARE_API_TOKEN", "DATABRICKS_API_KEY", "DATABRICKS_TOKEN",
    "GOOGLE_APPLICATION_CREDENTIALS", "HF_TOKEN", "SNOWFLAKE_JWT", "VERCEL_OIDC_TOKEN", "VERTEXAI_CREDENTIALS",
    "VERTEXAI_PROJECT", "VERTEX_PROJECT", "WANDB_API_KEY",
)  # fmt: skip

OLLAMA_ADDRESSES = ("OLLAMA_API_BASE", "OLLAMA_HOST")

# Where litellm sends a provider's requests when nothing else is said, and the variables that say something else. The
# first of them is read by litellm alone, so that it can be set without harm to other programs.
CLOUD_BASES = {
    "ai-gateway.vercel.sh": ("VERCEL_AI_GATEWAY_API_BASE",),
    "api.ai21.com": ("AI21_API_BASE",),
    "api.aimlapi.com": ("AIML_API_BASE",),
    "api.anthropic.com": ("ANTHROPIC_API_BASE", "ANTHROPIC_BASE_URL"),
    "api.cerebras.ai": ("CEREBRAS_API_BASE",),
    "api.cohere.com": ("COHERE_API_BASE",),
    "api.cometapi.com": ("COMETAPI_API_BASE",),
    "api.deepinfra.com": ("DEEPINFRA_API_BASE",),
    "api.deepseek.com": ("DEEPSEEK_API_BASE",),
    "api.featherless.ai": ("FEATHERLESS_API_BASE",),
    "api.fireworks.ai": ("FIREWORKS_API_BASE",),
    "api.friendli.ai": ("FRIENDLI_API_BASE",),
    "api.galadriel.com": ("GALADRIEL_API_BASE",),
    "api.groq.com": ("GROQ_API_BASE",),
    "api.hyperbolic.xyz": ("HYPERBOLIC_API_BASE",),
    "api.inference.wandb.ai": ("WANDB_API_BASE",),
    "api.lambda.ai": ("LAMBDA_API_BASE",),
    "api.llama.com": ("LLAMA_API_BASE",),
    "api.minimax.io": ("MINIMAX_API_BASE",),
    "api.mistral.ai": ("MISTRAL_AZURE_API_BASE", "MISTRAL_API_BASE"),
    "api.moonshot.ai": ("MOONSHOT_API_BASE",),
    "api.morphllm.com": ("MORPH_API_BASE",),
    "api.nova.amazon.com": ("AMAZON_NOVA_API_BASE",),
    "api.novita.ai": ("NOVITA_API_BASE",),
    "api.openai.com": ("OPENAI_API_BASE", "OPENAI_BASE_URL"),
    "api.perplexity.ai": ("PERPLEXITY_API_BASE",),
    "api.publicai.co": ("PUBLICAI_API_BASE",),
    "api.sambanova.ai": ("SAMBANOVA_API_BASE",),
    "api.studio.nebius.ai": ("NEBIUS_API_BASE",),
    "api.together.xyz": ("TOGETHER_AI_API_BASE",),
    "api.v0.dev": ("V0_API_BASE",),
    "api.x.ai": ("XAI_API_BASE",),
    "api.z.ai": ("ZAI_API_BASE",),
    "app.empower.dev": ("EMPOWER_API_BASE",),
    "ark.cn-beijing.volces.com": ("VOLCENGINE_API_BASE",),
    "codestral.mistral.ai": ("CODESTRAL_API_BASE",),
    "dashscope.aliyuncs.com": ("DASHSCOPE_API_BASE",),
    "generativelanguage.googleapis.com": ("GEMINI_API_BASE",),
    "inference.api.nscale.com": ("NSCALE_API_BASE",),
    "integrate.api.nvidia.com": ("NVIDIA_NIM_API_BASE",),
    "models.inference.ai.azure.com": ("GITHUB_API_BASE",),
    "oai.endpoints.kepler.ai.cloud.ovh.net": ("OVHCLOUD_API_BASE",),
    "openrouter.ai": ("OPENROUTER_API_BASE",),
}

# Addresses of the user's own servers, which have no default; each says where one provider's requests go.
SERVER_BASES = (
    "AZURE_AI_API_BASE", "AZURE_API_BASE", "CLOUDFLARE_API_BASE", "HF_API_BASE", "HOSTED_VLLM_API_BASE",
    "HUGGINGFACE_API_BASE", "LITELLM_PROXY_API_BASE", "LLAMAFILE_API_BASE", "LM_STUDIO_API_BASE",
    "OPENAI_LIKE_API_BASE", "VERTEXAI_API_BASE", "VERTEX_API_BASE", "VLLM_API_BASE", "XINFERENCE_API_BASE",
)  # fmt: skip

# litellm sends every model's requests to a proxy of its own with the first; the others move one provider's.
CLOUD_ADDRESSES = (
    "USE_LITELLM_PROXY", *SERVER_BASES, *(name for names in CLOUD_BASES.values() for name in names),
)  # fmt: skip

# httpx and requests read both cases (urllib.request.getproxies_environment).
PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy",
)  # fmt: skip

# Variables among these whose values are not addresses, and are shown as they are.
AS_THEY_ARE = ("USE_LITELLM_PROXY", "NO_PROXY", "no_proxy")
