"""What a deployment is to be can be said by flags, variables and a file, and is said back in one
line where it cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from pd_testkit.cli import main
from pd_testkit.stack.settings import Settings
from pd_testkit.stack.sources import BadSettings, flag, named, read

SEED_VARIABLES: dict[str, tuple[str, str, Any]] = {
    # vllm-router's tests
    "VLLM_DOCKER_IMAGE": ("vllm/vllm-openai:v0.6.0", "docker_image", "vllm/vllm-openai:v0.6.0"),
    "MODEL_NAMES": ("facebook/opt-125m", "model", "facebook/opt-125m"),
    "NUM_PREFILL_INSTANCES": ("2", "prefill", 2),
    "NUM_DECODE_INSTANCES": ("3", "decode", 3),
    "PREFILLER_TP_SIZE": ("2", "prefill_tp", 2),
    "DECODER_TP_SIZE": ("4", "decode_tp", 4),
    "GPU_MEMORY_UTILIZATION": ("0.4", "gpu_memory_utilization", 0.4),
    "PREFILL_BLOCK_SIZE": ("64", "prefill_block_size", 64),
    "DECODE_BLOCK_SIZE": ("32", "decode_block_size", 32),
    "KV_BUFFER_DEVICE": ("cpu", "kv_buffer_device", "cpu"),
    "DECODER_KV_LAYOUT": ("NHD", "decode_kv_layout", "NHD"),
    "TEST_FLASHINFER": ("1", "flashinfer", True),
    "PREFILL_BASE_PORT": ("9100", "prefill_port", 9100),
    "DECODE_BASE_PORT": ("9200", "decode_port", 9200),
    "ROUTER_PORT": ("9300", "router_port", 9300),
    # the testbed's
    "SRV_IP": ("172.16.0.7", "host", "172.16.0.7"),
    "MODEL": ("Qwen/Qwen2.5-7B-Instruct", "model", "Qwen/Qwen2.5-7B-Instruct"),
    "CACHE_DIR": ("/srv/models", "cache_dir", "/srv/models"),
    "PROXY_HTTP_PORT": ("10002", "router_port", 10002),
    "PROXY_ZMQ_PORT": ("30003", "discovery_port", 30003),
    "CONS_HTTP_PORT": ("8201", "decode_port", 8201),
    "CONS_ZMQ_PORT": ("14579", "decode_side_port", 14579),
    "PROD_HTTP_PORT": ("8101", "prefill_port", 8101),
    "PROD_ZMQ_PORT": ("14581", "prefill_side_port", 14581),
    "CONS_GPU": ("2", "decode_gpus", (2,)),
    "PROD_GPU": ("0,1", "prefill_gpus", (0, 1)),
    "CONS_UTIL": ("0.8", "decode_gpu_memory_utilization", 0.8),
    "PROD_UTIL": ("0.7", "prefill_gpu_memory_utilization", 0.7),
    "CONS_WAIT": ("90", "decode_wait", 90.0),
    "PROD_WAIT": ("60", "prefill_wait", 60.0),
}


def refused(
    flags: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    toml: Path | None = None,
) -> tuple[str, ...]:
    with pytest.raises(BadSettings) as wrong:
        read(flags or {}, environ or {}, toml)
    return wrong.value.lines


@pytest.mark.parametrize("variable", SEED_VARIABLES)
def test_the_variables_of_existing_scripts_work(variable: str) -> None:
    text, name, value = SEED_VARIABLES[variable]
    assert getattr(read({}, {variable: text}), name) == value


def test_the_key_of_the_clients_is_read_and_never_shown() -> None:
    settings = read({}, {"OPENAI_API_KEY": "sk-of-mine"})
    assert settings.api_key.get_secret_value() == "sk-of-mine"
    assert "sk-of-mine" not in f"{settings!r} {settings}"
    lines = refused(environ={"OPENAI_API_KEY": "sk-of-mine", "ROUTER_PORT": "x"})
    assert "sk-of-mine" not in "".join(lines)


@pytest.fixture(scope="module")
def help_text() -> str:
    return " ".join(CliRunner().invoke(main, ["up", "--help"]).output.split())


@pytest.mark.parametrize("name", Settings.model_fields)
def test_each_setting_is_a_flag_a_variable_and_a_key(
    name: str, help_text: str, tmp_path: Path
) -> None:
    field = Settings.model_fields[name]
    flags, (variable, *more) = flag(name), named(field).variables
    assert f" {flags} " in help_text
    assert all(one in help_text for one in (variable, *more))
    given = {str: "text", bool: "1"}.get(field.annotation, str(field.default or 1))
    given = {"api_key": "text", "docker_subnet": "10.1.2"}.get(name, given)
    file = tmp_path / "stack.toml"
    file.write_text(f'{name} = "{given}"\n')
    for settings in (read({name: given}, {}), read({}, {}, file), read({}, {variable: given})):
        assert settings.model_fields_set == {name}
        assert settings == read({name: given}, {})


def test_a_flag_goes_before_a_variable_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_text("prefill = 4\ndecode = 4\nprefill-tp = 4\n")
    environ = {"NUM_PREFILL_INSTANCES": "3", "NUM_DECODE_INSTANCES": "3"}
    settings = read({"prefill": "2"}, environ, file)
    assert (settings.prefill, settings.decode, settings.prefill_tp) == (2, 3, 4)
    assert settings.decode_tp == 1


def test_an_empty_variable_is_none() -> None:
    assert read({}, {"NUM_PREFILL_INSTANCES": "", "TEST_FLASHINFER": ""}) == read({}, {})


def test_two_variables_for_one_setting_must_agree() -> None:
    assert read({}, {"MODEL": "m", "MODEL_NAMES": "m"}).model == "m"
    assert refused(environ={"MODEL": "a", "MODEL_NAMES": "b"}) == (
        "MODEL_NAMES=b and MODEL=a: they are the same setting; give one",
    )


def test_what_is_wrong_is_said_in_one_line_by_the_name_it_was_given_by(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_text('router = "nginx"\noffload_gib = 0\n')
    environ = {
        "MODEL_NAMES": "a b",
        "GPU_MEMORY_UTILIZATION": "1.5",
        "TEST_FLASHINFER": "maybe",
        "PROD_GPU": "a",
        "SRV_IP": "0.0.0.0",
    }
    assert refused({"prefill": "0", "decode_block_size": "x"}, environ, file) == (
        f"router = nginx in {file}: give pd-testkit|vllm-router|sglang-router",
        "MODEL_NAMES=a b: give the name or the folder of one model",
        "--prefill 0: give a whole number in [1, 64]",
        "--decode-block-size x: give a whole number in [1, 4096]",
        "SRV_IP=0.0.0.0: give one address of this machine",
        "GPU_MEMORY_UTILIZATION=1.5: give a number in (0, 1]",
        "PROD_GPU=a: give GPU indices such as 0 or 0,1",
        "TEST_FLASHINFER=maybe: give 1 or 0",
        f"offload_gib = 0 in {file}: give a number above 0",
    )


def test_an_unknown_key_names_the_nearest_one(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_text("prefil_tp = 2\nzebra = 1\n")
    assert refused(toml=file) == (
        f"prefil_tp in {file}: there is no such setting; did you mean prefill_tp?",
        f"zebra in {file}: there is no such setting",
    )


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.toml"
    assert refused(toml=missing) == (f"{missing}: No such file or directory",)
    torn = tmp_path / "torn.toml"
    torn.write_text("prefill = \n")
    (line,) = refused(toml=torn)
    assert line.startswith(f"{torn}: ")


def test_lists_are_given_as_a_shell_has_them_or_as_toml_has_them(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_text('prefill_gpus = [0, 1]\ndecode_gpus = 2\nprefill_args = ["--fault", "a b"]\n')
    settings = read({"decode_args": "--fault 'c d'"}, {}, file)
    assert settings.prefill_gpus == (0, 1)
    assert settings.decode_gpus == (2,)
    assert settings.prefill_args == ("--fault", "a b")
    assert settings.decode_args == ("--fault", "c d")


@pytest.mark.parametrize("name", ["MoRIIOConnector", "moriioconnector", "moriio"])
def test_a_connector_has_our_name_and_vllms(name: str) -> None:
    assert read({}, {"PD_CONNECTOR": name}).connector == "moriio"


def test_the_command_says_it_in_one_line_without_the_usage() -> None:
    ran = CliRunner().invoke(main, ["up", "--prefill-tp", "9", "--dry-run"])
    assert ran.exit_code == 2
    assert ran.stderr == "Error: --prefill-tp 9: give a whole number in [1, 8]\n"


def test_the_command_reads_the_environment_and_the_file(tmp_path: Path) -> None:
    file = tmp_path / "stack.toml"
    file.write_text("decode = 2\n")
    variables = {"NUM_PREFILL_INSTANCES": "2", "PD_STACK_CONFIG": str(file)}
    ran = CliRunner().invoke(main, ["up", "--dry-run"], env=variables)
    assert ran.exit_code == 0
    assert "# prefill-1, at http://127.0.0.1:8101" in ran.stdout
    assert "# decode-1, at http://127.0.0.1:8201" in ran.stdout
