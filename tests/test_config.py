"""Settings: what wins over what, and one line for what is wrong."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from gs_lift.config import (
    Config,
    config_hash,
    differences,
    dump_config,
    field_sentences,
    flatten,
    load_config,
)
from gs_lift.errors import ConfigError


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_set_wins_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = write(tmp_path / "c.yaml", "seed: 3\nfit:\n  steps: 10\n  sh_degree: 1\n")
    config = load_config(file, ["fit.steps=20", "lift.momentum=0.5"])
    assert (config.seed, config.fit.steps, config.fit.sh_degree, config.lift.momentum) == (3, 20, 1, 0.5)
    assert config.cluster == Config().cluster


def test_what_is_printed_is_read_back(tmp_path: Path) -> None:
    config = load_config(None, ["seed=7", "fit.steps=123"])
    for sentences in (False, True):
        assert load_config(write(tmp_path / "c.yaml", dump_config(config, sentences=sentences))) == config


def sections(cls: type = Config) -> list[type]:
    found = [cls]
    for item in fields(cls):
        if isinstance(item.type, type) and is_dataclass(item.type):
            found += sections(item.type)
    return found


@pytest.mark.parametrize("section", sections(), ids=lambda cls: cls.__name__)
def test_every_field_has_a_sentence(section: type) -> None:
    sentences = field_sentences(section)
    assert [item.name for item in fields(section) if not sentences.get(item.name)] == []


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("fit.step=3", r"no field fit\.step\. Did you mean 'fit\.steps'\?"),
        ("fitt.steps=3", r"no field fitt\. Did you mean 'fit'\?"),
        ("fit.steps=many", r"fit\.steps: Value 'many' of type 'str' could not be converted to Integer"),
        ("fit=3", "fit is a section"),
        ("seed", r"wanted section\.field=value"),
        ("=3", r"wanted section\.field=value"),
        ("fit.steps=[1", "not valid YAML"),
        ("seed=-1", "seed: wanted 0"),
        ("backend=cuda", "no backend 'cuda'; one of: cpu, gsplat, reference"),
        ("data.init=magic", r"no data\.init 'magic'; one of: auto"),
        ("fit.strategy=x", r"no fit\.strategy 'x'; one of: default, mcmc"),
        ("cluster.method=x", r"no cluster\.method 'x'; one of: "),
        ("data.init=${oc.env:HOME}", "interpolation is not supported"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(None, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fit: [1, 2", "not valid YAML"),
        ("- 1\n- 2\n", "wanted sections"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("fit: 3\n", "fit is a section"),
    ],
)
def test_a_wrong_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path / "c.yaml", text))
    assert str(tmp_path / "c.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")


def test_differences_name_the_fields_and_the_hash_follows_them() -> None:
    old = Config()
    new = load_config(None, [f"fit.steps={old.fit.steps + 1}", "seed=4"])
    assert differences(old, new) == {"seed": (0, 4), "fit.steps": (old.fit.steps, old.fit.steps + 1)}
    assert config_hash(old) != config_hash(new)
    assert config_hash(old) == config_hash(load_config())


def test_how_often_a_checkpoint_is_written_changes_nothing() -> None:
    assert differences(Config(), replace(Config(), checkpoint_every=7)) == {}
    assert "fit.steps" in flatten(Config())


def test_auto_is_resolved_by_what_the_machine_has() -> None:
    resolved = replace(Config(), device="cpu").resolved()
    assert (resolved.device, resolved.backend) == ("cpu", "cpu")
    with pytest.raises(ConfigError, match="no device 'tpu'; one of: auto, cpu, cuda"):
        replace(Config(), device="tpu").resolved()


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parent.parent / "configs").glob("*.yaml")), ids=lambda p: p.name
)
def test_a_shipped_config_loads_and_holds_differences_only(file: Path) -> None:
    text = file.read_text()
    defaults, loaded = flatten(Config()), flatten(load_config(file))
    named = {name for name in loaded if f"{name.split('.')[-1]}:" in text}
    assert {name for name in loaded if loaded[name] != defaults[name]} <= named
    assert load_config(file) != Config()
