"""The settings of a run: each stage's own dataclass, composed; defaults < YAML file < `section.field=value`."""

import ast
import hashlib
import inspect
import json
import textwrap
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch

from gs_lift.blocks import BlocksConfig
from gs_lift.clustering import ClusterConfig
from gs_lift.datasets import DataConfig
from gs_lift.errors import BackendError, ConfigError, pick, suggestion
from gs_lift.fitting import STRATEGIES, FitConfig
from gs_lift.lifting import METHODS, LiftConfig
from gs_lift.points import INITS
from gs_lift.rendering import BACKENDS

FREE = ("checkpoint_every", "memory_budget_gb")
"""Fields that change no result."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a result. The same config, scene and machine give the same bytes."""

    seed: int = 0
    """Every random draw of every stage follows from it."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: CUDA where there is one."""
    backend: str = "auto"
    """Rasterizer: `cpu`, `gsplat` (needs CUDA), `reference` (slow, the oracle), or `auto`: by the device."""
    checkpoint_every: int = 500
    """Steps between two checkpoints of a stage; changes no result."""
    memory_budget_gb: float = 2.0
    """Memory for what is kept instead of being read or made again: a fit's photos (3 bytes a pixel), then lifting's
    segments and blending weights (12 MB for 256 x 256 pixels that see 26 Gaussians each). The rest is made while the
    step before it works; changes no result."""
    data: DataConfig = field(default_factory=DataConfig)
    """How a scene is read and where its Gaussians start."""
    fit: FitConfig = field(default_factory=FitConfig)
    """How the Gaussians are fitted to the photos."""
    lift: LiftConfig = field(default_factory=LiftConfig)
    """How the segments are lifted into embeddings."""
    blocks: BlocksConfig = field(default_factory=BlocksConfig)
    """How a scene that is larger than memory is cut."""
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    """How the embeddings become instances."""

    def resolved(self) -> "Config":
        """The same with `auto` replaced by what this machine has. Raises BackendError for a device that is not here."""
        has_cuda = torch.cuda.is_available()
        device = self.device if self.device != "auto" else ("cuda" if has_cuda else "cpu")
        if device.split(":")[0] not in ("cpu", "cuda"):
            raise ConfigError(f"device: no device {self.device!r}; one of: auto, cpu, cuda")
        if device.startswith("cuda") and not has_cuda:
            raise BackendError(f"device {self.device!r}: this machine has no usable CUDA; use device=cpu")
        backend = (
            self.backend if self.backend != "auto" else ("gsplat" if device.startswith("cuda") else "cpu")
        )
        return replace(self, device=device, backend=backend)

    def check(self) -> "Config":
        """This config, or a ConfigError for the first value out of its range."""
        if self.backend != "auto":
            pick(BACKENDS, self.backend, "backend")
        pick(INITS, self.data.init, "data.init")
        pick(STRATEGIES, self.fit.strategy, "fit.strategy")
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed: wanted 0 to 2^63 - 1, got {self.seed}")
        if self.checkpoint_every < 1:
            raise ConfigError(f"checkpoint_every: wanted 1 or more, got {self.checkpoint_every}")
        if not self.memory_budget_gb >= 0:
            raise ConfigError(f"memory_budget_gb: wanted 0 or more, got {self.memory_budget_gb}")
        return self


def load_config(file: Path | None = None, overrides: list[str] | None = None) -> Config:
    """The defaults, changed by the recipe `lift.method`, by a YAML file, by `section.field=value` strings.

    Raises ConfigError in one line for a missing or broken file, an unknown field or a value of the wrong type.
    """
    from omegaconf import OmegaConf

    node = OmegaConf.structured(Config)
    _unlock(node)
    sources = [(str(file), _moved(_read_yaml(file)))] if file is not None else []
    for override in overrides or []:
        name, separator, _ = override.partition("=")
        if not separator or not name.strip():
            raise ConfigError(f"--set {override}: wanted section.field=value")
        sources.append((f"--set {override}", _parsed(override)))
    chosen = node
    for source, values in sources:
        chosen = _merged(chosen, values, source)
    recipe = pick(METHODS, chosen.lift.method, "lift.method")
    # The recipe lies under what the user says, so everything is merged once more on top of it.
    for name, value in recipe.settings.items():
        OmegaConf.update(node, name, value)
    for source, values in sources:
        node = _merged(node, values, source)
    config = OmegaConf.to_object(node)
    assert isinstance(config, Config)
    return config.check()


def _moved(values: Any) -> Any:
    """Values of a file as they are called now."""
    lift = values.get("lift") if isinstance(values, dict) else None
    if isinstance(lift, dict) and "memory_budget_gb" in lift:
        values = {"memory_budget_gb": lift["memory_budget_gb"], **values}
        values["lift"] = {name: value for name, value in lift.items() if name != "memory_budget_gb"}
    return values


def _parsed(override: str) -> Any:
    from omegaconf import OmegaConf

    try:
        return OmegaConf.to_container(OmegaConf.from_dotlist([override]))
    except Exception as error:  # the YAML parser's own tree of errors
        raise ConfigError(f"--set {override}: not valid YAML ({' '.join(str(error).split())})") from None


def _unlock(node: Any) -> None:
    """Frozen dataclasses give read-only nodes; loading is the one moment when they change."""
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, False)
    for key in node:
        if isinstance(node._get_node(key), DictConfig):
            _unlock(node._get_node(key))


def _read_yaml(file: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        content = OmegaConf.to_container(OmegaConf.load(file))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror})") from None
    except Exception as error:  # the YAML parser's own tree of errors
        raise ConfigError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{file}: wanted sections such as `fit:` with fields under them")
    return {str(key): value for key, value in content.items()}


def _merged(node: Any, values: Any, source: str) -> Any:
    from omegaconf import OmegaConf

    _refuse_unknown(values, Config, "", source)
    try:
        merged = OmegaConf.merge(node, values)
        OmegaConf.to_container(merged, resolve=True, throw_on_missing=True)
        return merged
    except Exception as error:  # OmegaConf's own tree of errors
        raise ConfigError(f"{source}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    message, name = str(error).splitlines()[0], getattr(error, "full_key", None)
    return f"{name}: {message}" if name else message


def _refuse_unknown(values: Any, cls: type, prefix: str, source: str) -> None:
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: {prefix.rstrip('.')} is a section; set one of its fields")
    types = {item.name: item.type for item in fields(cls)}
    for name, value in values.items():
        if name not in types:
            options = [prefix + option for option in types]
            hint = suggestion(f"{prefix}{name}", options) or f" Fields here: {', '.join(options)}."
            raise ConfigError(f"{source}: no field {prefix}{name}.{hint}")
        section = types[name]
        if isinstance(section, type) and is_dataclass(section):
            _refuse_unknown(value, section, f"{prefix}{name}.", source)
        elif isinstance(value, str) and "${" in value:
            raise ConfigError(f"{source}: {prefix}{name}: interpolation is not supported; write the value")


def flatten(config: Config) -> dict[str, Any]:
    """`{"fit.steps": 3000, ...}` without the fields that change no result."""
    flat: dict[str, Any] = {}

    def walk(values: dict[str, Any], prefix: str) -> None:
        for name, value in values.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")
            else:
                flat[prefix + name] = list(value) if isinstance(value, tuple) else value

    walk(asdict(config), "")
    for name in FREE:
        del flat[name]
    return flat


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, with the value of each."""
    before, after = flatten(old), flatten(new)
    return {name: (before[name], after[name]) for name in after if before[name] != after[name]}


def config_hash(config: Config) -> str:
    """Twelve hexadecimal digits that change with any field."""
    return hashlib.sha256(json.dumps(flatten(config), sort_keys=True).encode()).hexdigest()[:12]


def dump_config(config: Config, *, sentences: bool = False) -> str:
    """The config as YAML that `load_config` reads back; with each field's sentence as a comment if asked."""
    return "\n".join(_dump_lines(config, "", sentences)) + "\n"


def _dump_lines(section: Any, indent: str, sentences: bool) -> list[str]:
    docs = field_sentences(type(section)) if sentences else {}
    lines: list[str] = []
    for item in fields(section):
        value = getattr(section, item.name)
        comment = textwrap.wrap(docs.get(item.name, ""), 100 - len(indent))
        lines += [f"{indent}# {line}" for line in comment]
        if is_dataclass(value):
            lines += [f"{indent}{item.name}:", *_dump_lines(value, indent + "  ", sentences)]
        else:
            # JSON is YAML, and quotes what would be read as another type.
            lines.append(
                f"{indent}{item.name}: {json.dumps(list(value) if isinstance(value, tuple) else value)}"
            )
    return lines


def field_sentences(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass, read from its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(tree, ast.ClassDef)
    sentences: dict[str, str] = {}
    for statement, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            sentences[statement.target.id] = " ".join(after.value.value.split())
    return sentences
