"""Every setting of the server: an environment variable with the prefix NER_, a default, a unit and a reason."""

from __future__ import annotations

import os
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import BadInput

NOT_THE_SERVERS = frozenset({"NER_URL", "NER_CPUS", "NER_E2E_REQUIRE_DOCKER"})  # variables that other commands read
_PROJECT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """The server's settings; it reads them once, when it starts."""

    model_config = SettingsConfigDict(env_prefix="NER_", extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on; the default keeps strangers out")
    port: int = Field(8000, ge=0, le=65_535, description="port to listen on; 0 takes a free one and says which")
    health_port: int | None = Field(
        None,
        ge=0,
        le=65_535,
        description="port for /livez, /readyz, /health and /metrics alone, which a thread of its own answers whatever "
        "the main port suffers; 0 takes a free one and says which; unset: they are on the main port only",
    )
    allowed_hosts: str = Field(
        "",
        description="names by which clients may address the service, beside addresses, localhost and NER_HOST; commas "
        "between them, `*.example.org` for all names below one, `*` for any; others are refused, since a page whose "
        "name was made to lead here could use the service from a browser beside it",
    )
    root_path: str = Field("", description="path prefix that a reverse proxy strips, so that links on our pages hold")

    model: str = Field(
        "general-minilm-research",
        description="a name in the store, name@version, a model folder, or that of a Transformers token classifier",
    )
    model_store: Path = Field(_PROJECT / "model_store", description="folder of models by name and version")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto takes a GPU where there is one")
    executor: Literal["auto", "cuda", "eager", "fused"] = Field(
        "auto",
        description="what runs the layers: PyTorch in float32 (eager), int8 kernels for CPUs (fused), bfloat16 and "
        "packed attention for NVIDIA GPUs (cuda, see docs/gpu.md); auto takes fused where the processor multiplies "
        "bytes (AVX-512 VNNI, AVX-VNNI, AVX2, ARM's dot product) and the model allows it, else eager",
    )
    instructions: Literal[
        "auto", "avx512_vnni", "avx_vnni", "avx2", "avx2_words", "neon_i8mm", "neon_dotprod", "portable"
    ] = Field(
        "auto",
        description="by which instructions the kernels of executor fused multiply bytes, as if the processor had no "
        "faster ones; auto takes the fastest that it has",
    )
    threads: int = Field(
        0, ge=0, description="processor threads of a CPU device; 0 takes as many as the cgroup's quota allows"
    )
    processes: int = Field(
        1,
        ge=1,
        description="serving processes on the one port, on a CPU device; they share the model's memory, the exit "
        "policy, health and metrics, and divide threads, queues and caches among them",
    )

    max_body_bytes: int = Field(
        2_000_000,
        ge=1,
        description="largest request body, which is kept whole in memory while it is read, and longest line of a "
        "stream, which has no limit as a whole",
    )
    max_text_chars: int = Field(100_000, ge=1, description="longest text; bounds the work of one call")
    max_texts: int = Field(1_024, ge=1, description="most texts of one call, since they are answered all or none")
    queue_texts: int = Field(
        4_096,
        ge=1,
        description="most texts admitted and not answered, and as many again of bulk work; more are refused rather "
        "than answered too late",
    )
    queue_tokens: int = Field(
        262_144,
        ge=1,
        description="most pieces admitted and not answered, and as many again of bulk work; long texts are more work "
        "than short ones",
    )
    queue_bytes: int = Field(
        64_000_000,
        ge=1,
        description="most bytes of bodies worked on, as many of bodies that have not arrived whole, and as many held "
        "by streams; bounds memory",
    )
    max_connections: int = Field(
        5_000,
        ge=1,
        description="most open connections; more than the queue has places, so that the queue refuses first",
    )
    client_timeout_s: float = Field(
        75.0,
        gt=0,
        description="how long a client may take to send a request or to take an answer, or may be idle between two; "
        "longer than a proxy in front keeps an idle connection, or it uses one that is just being closed",
    )
    max_step_tokens: int = Field(
        0, ge=0, description="most pieces of one layer step; 0 takes as many as make the executor fastest"
    )
    timeout_ms: int = Field(
        10_000, ge=1, description="time limit of a request, and the most that its own timeout_ms may ask for"
    )
    drain_s: float = Field(
        5.0,
        ge=0,
        description="how long to go on answering after SIGTERM, while /readyz says 503 and a load balancer notices",
    )

    cache_bytes: int = Field(
        0,
        ge=0,
        description="most memory for answers that are kept, so that an equal sentence under the same policy is "
        "answered at once; 0 keeps none. A keyed hash of the sentence is kept, never the text",
    )
    shadow_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of early leavers that run on to full depth in idle time, to see whether leaving cost them",
    )

    sample_fraction: float | None = Field(
        None,
        ge=0,
        le=1,
        description="share of all sentences that run to full depth in idle time, to measure and certify every "
        "operating point; unset: as NER_SHADOW_FRACTION; less while samples pile up, 0 for none",
    )
    sample_bytes: int = Field(
        10_000_000,
        ge=10_000,
        description="most bytes of word pieces that wait to be run as samples; when half of them are taken, fewer "
        "sentences are sampled",
    )
    sample_records: int = Field(
        10_000,
        ge=0,
        le=1_000_000,
        description="samples of which numbers are kept in memory, the latest ones, for calibration from traffic: how "
        "sure exits were, and how many entities were full depth's; nothing of a text; 0 keeps none",
    )
    calibrate_at: str = Field(
        "",
        pattern=r"^(([01]\d|2[0-3]):[0-5]\d)?$",
        description="time of day in UTC, such as 03:00, at which operating points are fitted to the traffic, by a "
        "process of its own at the lowest priority; unset: never",
    )

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least that is logged; changes of the policy and draining are info"
    )
    log_format: Literal["json", "plain"] = Field(
        "json", description="json for machines: an object a line; plain for people who read along"
    )
    access_log: bool = Field(
        False, description="a line for every request, of level info; off, since metrics count them for less"
    )

    state_dir: Path = Field(
        Path("state"),
        description="folder for the exit policy, its history and a generated key; each server needs one of its own",
    )
    policy_store: str = Field(
        "",
        repr=False,
        description="where the exit policy and its history are kept for all replicas: redis://HOST:PORT/DATABASE, or "
        "rediss:// for TLS, with user and password in it; unset: in the state folder, for this server alone",
    )
    policy_store_file: str = Field(
        "", description="a file that has that URL, such as a mounted secret, since the URL may have a password"
    )
    api_key: str = Field("", repr=False, description="if set, requests and reads need it as a bearer token")
    api_key_file: str = Field(
        "",
        description="a file that has the API key, such as a mounted secret: unlike a variable it is not shown with the "
        "process; an empty file counts as unset",
    )
    admin_key: str = Field(
        "", repr=False, description="guards changes; if unset, one is generated and kept in the state folder, mode 0600"
    )
    admin_key_file: str = Field("", description="a file that has the admin key, likewise")

    @property
    def sampled_fraction(self) -> float:
        """The share of all sentences that is sampled."""
        return self.shadow_fraction if self.sample_fraction is None else self.sample_fraction


def read_settings() -> Settings:
    """Return the settings from the environment. Raises BadInput naming every variable that does not fit."""
    _refuse_unknown(os.environ)
    try:
        return Settings()
    except ValidationError as error:
        problems = [
            f"NER_{'_'.join(map(str, item['loc'])).upper()}={item['input']!r}: {item['msg']}" for item in error.errors()
        ]
        raise BadInput("; ".join(problems)) from error


def _refuse_unknown(names: Iterable[str]) -> None:
    """Raise BadInput for variables of our prefix that are no settings, since a misspelt one would be ignored."""
    known = {f"NER_{name.upper()}" for name in Settings.model_fields} | NOT_THE_SERVERS
    told = []
    for name in sorted(name for name in names if name.upper().startswith("NER_") and name.upper() not in known):
        nearest = get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
        told.append(f"{name} is no setting; the nearest is {nearest}")
    if told:
        raise BadInput(f"{'; '.join(told)}; correct or unset it (docs/configuration.md lists all)")
