"""The only door: defaults, families, YAML and overrides; what is wrong is named with what would be right."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from configs.command_line import key_table, make_parser
from configs.load import SHORTHANDS, all_keys, load_config, read_config, to_plain, write_config
from configs.schema import Execution, ExperimentConfig, Schedule
from core.errors import ConfigError
from learners.extraction import Extraction

YAML_FILES = sorted(path for path in Path("configs").glob("*.yaml"))
FAMILIES = sorted(path.stem for path in Path("configs/families").glob("*.yaml"))


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.stem)
def test_every_yaml_loads_and_is_differences_only(path: Path) -> None:
    assert load_config(path.stem) == load_config(str(path))
    assert len(path.read_text().splitlines()) <= 60


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads(family: str) -> None:
    assert load_config(family=family).env.family == family


def test_layers_in_order(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("env:\n  family: fake\nrecap:\n  iterations: 5\n  episodes_per_iteration: 7\n")
    config = load_config(str(file), ["recap.iterations=6"])
    assert config.recap.iterations == 6  # the override
    assert config.recap.episodes_per_iteration == 7  # the file
    assert config.labeler.returns.task_length_steps == 10  # the family
    assert config.evaluation.num_episodes == ExperimentConfig().evaluation.num_episodes  # the dataclass


def test_the_command_lines_family_wins_and_brings_its_defaults() -> None:
    config = load_config("smoke", family="simpler_google")
    assert config.env.family == "simpler_google"
    assert config.env.image_height_px == 128
    assert load_config(overrides=["env.family=fake"]).policy.camera == "camera"


def test_shorthands_are_real_keys() -> None:
    assert set(SHORTHANDS.values()) <= {name for name, _ in all_keys()}
    config = load_config(overrides=["extraction=awr", "schedule=async", "execution=ray", "episodes=3", "demonstrations=9"])
    assert config.extraction.method is Extraction.AWR
    assert config.recap.schedule is Schedule.ASYNC
    assert config.execution.mode is Execution.RAY
    assert (config.evaluation.num_episodes, config.pretrain.num_demonstrations) == (3, 9)


def test_lists_nulls_and_tuples() -> None:
    config = load_config(overrides=["compare.methods=[bc,recap]", "recap.guidance_scale=1.5", "execution.ray_address=null"])
    assert config.compare.methods == (Extraction.BC, Extraction.RECAP)
    assert config.recap.guidance_scale == 1.5
    assert config.execution.ray_address is None


def test_the_saved_configuration_is_the_same_one(tmp_path: Path) -> None:
    config = load_config(overrides=["extraction=bc", "compare.methods=[awr]", "recap.guidance_scale=2.0"], family="fake")
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config
    assert read_config(tmp_path / "config.yaml", ["seed=4"]) == dataclasses.replace(config, seed=4)


def test_a_loaded_configuration_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_config().recap.iterations = 3  # type: ignore[misc]


def test_the_5b_preset_sets_both_models_and_may_be_changed() -> None:
    config = load_config(overrides=["preset=5b", "policy.denoise_steps=7"])
    assert (config.policy.num_layers, config.policy.denoise_steps) == (42, 7)
    assert config.value.viva.num_layers == config.value.wvm.num_layers == 30
    assert config.value.vlm.vision_layers == 27


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("recap.iteration=3", r"unknown key recap\.iteration=3; did you mean 'recap\.iterations'\?"),
        ("iteration=3", r"unknown key iteration=3; did you mean 'iterations'\?"),
        ("env.num_layers=3", r"unknown key env\.num_layers=3; did you mean '(policy|value\.\w+)\.num_layers'\?"),
        ("recap.iterations=abc", r"recap\.iterations='abc': expected int"),
        ("seed=1.5", r"seed=1\.5: expected int"),
        ("recap.policy.learning_rate=fast", r"recap\.policy\.learning_rate='fast': expected float"),
        ("env.assets=null", r"env\.assets=None: expected str"),
        (
            "extraction=recapp",
            r"extraction\.method='recapp': expected one of recap, awr, filtered_bc, bc; did you mean 'recap'\?",
        ),
        ("compare.methods=[bc,ppo]", r"compare\.methods='ppo': expected one of"),
        ("env=simpler_google", r"env=simpler_google: env is a group of keys; set one of env\.family"),
        ("fast", r"'fast' is not an override; expected key=value"),
        ("recap.iterations=0", r"recap\.iterations is 0; expected at least 1"),
        ("pretrain.num_demonstrations=-1", r"pretrain\.num_demonstrations is -1; expected at least 1"),
        ("seed=-1", r"seed is -1; expected at least 0"),
        ("compare.num_seeds=-1", r"compare\.num_seeds is -1; expected at least 1"),
        ("compare.methods=[]", r"compare\.methods is \[\]; expected some of \['recap'"),
        ("compare.methods=[bc,bc]", r"compare\.methods is \['bc', 'bc'\]; .* each once"),
        ("recap.rollouts_from=runs/a", r"iterations=2: rollouts of another run serve one iteration"),
        ("env.family=simpler_gogle", r"unknown environment family 'simpler_gogle'.*did you mean 'simpler_google'"),
        ("preset=6b", r"unknown preset '6b'"),
        ("evaluation.num_episodes=0", r"num_episodes is 0"),
    ],
)
def test_what_is_wrong_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(overrides=[override])


def test_async_needs_a_worker_process() -> None:
    with pytest.raises(ConfigError, match="needs a worker"):
        load_config(overrides=["schedule=async", "workers=0"])


def test_an_unknown_file_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no configuration 'smok'; known are .*smoke"):
        load_config("smok")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2")
    with pytest.raises(ConfigError, match="not readable YAML"):
        load_config(str(broken))


def test_every_key_of_the_table_says_what_it_is_worth() -> None:
    sections = [field.name for field in dataclasses.fields(ExperimentConfig)]
    table = key_table(sections)
    for name, _ in all_keys():
        assert f"  {name}=" in table or name in to_plain(ExperimentConfig())


def test_overrides_may_stand_on_both_sides_of_an_option() -> None:
    parser = make_parser("learners.recap", "It learns.", ["seed"])
    options = parser.parse_args(["--env", "fake", "seed=1", "--config", "smoke", "workers=2"])
    assert (options.env, options.config, options.overrides) == ("fake", "smoke", ["seed=1", "workers=2"])
