"""Other gateways in front of the same upstream. They are installed beside, never as a dependency.

Each is named by an environment variable; one that is not set is left out:

- LITELLM_PY, TENSORZERO_PY: the Python of an environment with `litellm[proxy]` or `tensorzero`,
- PORTKEY_JS: `build/start-server.js` of the npm package `@portkey-ai/gateway`, run by `node`.

They are configured for speed: one worker, no retries, no tracing, quiet.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.load import Target
from bench.paths import Path_, Running, Site
from bench.process import Process, free_port
from bench.scenarios import MODELS

VARIABLES: Final = {"litellm": "LITELLM_PY", "tensorzero": "TENSORZERO_PY", "portkey": "PORTKEY_JS"}

# The wheel holds TensorZero's own gateway; this is how its clients start it inside a process.
_TENSORZERO: Final = """
import asyncio, pathlib, sys, tensorzero

async def main():
    gateway = await tensorzero._start_http_gateway(
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=True)
    ready = pathlib.Path(sys.argv[2])
    ready.with_suffix(".new").write_text(gateway.base_url)
    ready.with_suffix(".new").rename(ready)
    await asyncio.sleep(3600)

asyncio.run(main())
"""


def litellm(site: Site) -> Running:
    """The LiteLLM proxy, with its key checked."""
    rows = "".join(
        f"  - model_name: {model}\n"
        f"    litellm_params: {{model: openai/{model}, api_base: '{site.upstream}', api_key: sk-upstream}}\n"
        for model in MODELS
    )
    settings = "litellm_settings:\n  set_verbose: false\n  num_retries: 0\n  request_timeout: 120\n  telemetry: false\n"
    config = site.write("litellm.yaml", f"model_list:\n{rows}{settings}")
    port = free_port()
    program = Path(os.environ["LITELLM_PY"]).parent / "litellm"
    process = Process(
        "litellm",
        [program, "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"],
        folder=site.folder,
        port=port,
        environ={
            "LITELLM_MASTER_KEY": site.key,
            "LITELLM_MODE": "PRODUCTION",
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "NO_DOCS": "True",
            "DISABLE_ADMIN_UI": "True",
        },
        seconds=180,
    )
    headers = {"Authorization": f"Bearer {site.key}"}
    return Running([process], lambda: Target(protocol="http", port=port, headers=headers))


def portkey(site: Site) -> Running:
    """The Portkey gateway; it has no keys of its own."""
    port = free_port()
    process = Process(
        "portkey",
        ["node", os.environ["PORTKEY_JS"], "--headless", f"--port={port}"],
        folder=site.folder,
        port=port,
        environ={"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"},
    )
    headers = {
        "Authorization": "Bearer sk-upstream",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": site.upstream,
    }
    return Running([process], lambda: Target(protocol="http", port=port, headers=headers))


def tensorzero(site: Site) -> Running:
    """TensorZero's gateway, without its observability. It chooses its port itself."""
    models = "".join(
        f'[models."{model}"]\nrouting = ["mock"]\n[models."{model}".providers.mock]\ntype = "openai"\n'
        f'model_name = "{model}"\napi_base = "{site.upstream}/"\napi_key_location = "none"\n'
        for model in MODELS
    )
    config = site.write("tensorzero.toml", f"[gateway]\nobservability.enabled = false\n{models}")
    ready = site.folder / "tensorzero.url"
    process = Process(
        "tensorzero",
        [os.environ["TENSORZERO_PY"], site.write("start_tensorzero.py", _TENSORZERO), config, ready],
        folder=site.folder,
        file=ready,
    )

    def target() -> Target:
        return Target(
            protocol="http",
            port=urlsplit(ready.read_text(encoding="utf-8")).port or 80,
            path="/openai/v1/chat/completions",
            model="tensorzero::model_name::{}",
        )

    return Running([process], target)


PEERS: Final[dict[str, Path_]] = {"litellm": litellm, "portkey": portkey, "tensorzero": tensorzero}


def installed() -> list[str]:
    """Returns the peers whose variable is set."""
    return [name for name, variable in VARIABLES.items() if os.environ.get(variable)]


def version(name: str) -> str:
    """Returns a peer's version."""
    where = os.environ[VARIABLES[name]]
    if name == "portkey":
        package = Path(where).resolve().parents[1] / "package.json"
        return f"{json.loads(package.read_text(encoding='utf-8'))['version']} (node {_output('node', '--version')})"
    return _output(where, "-c", f"import importlib.metadata as m; print(m.version({name!r}))")


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
