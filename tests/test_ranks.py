"""The variables that a launcher sets are read in one place, once, and with their types."""

import pytest

from nmtcli.errors import ConfigError
from nmtcli.ranks import AgentStore, RankEnvironment, environment, leave_errors_to_launcher

OF_TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "TORCHELASTIC_ERROR_FILE": "/tmp/errors/5.json",
}


def test_a_process_that_nobody_launched_trains_alone() -> None:
    alone = RankEnvironment.from_environ({"PATH": "/bin", "LOCAL_RANK": "", "WORLD_SIZE": ""})
    assert alone == RankEnvironment()
    assert (alone.rank, alone.world_size, alone.local_rank, alone.local_world_size) == (0, 1, None, 1)
    assert not alone.is_launched


def test_what_torchrun_sets_is_read_with_its_types() -> None:
    assert RankEnvironment.from_environ(OF_TORCHRUN) == RankEnvironment(
        rank=5,
        world_size=8,
        local_rank=1,
        local_world_size=4,
        is_launched=True,
        agent_store=AgentStore(host="node0", port=29500, attempt="2"),
    )


def test_a_launcher_without_a_store_leaves_the_address_to_torch() -> None:
    variables = {**OF_TORCHRUN, "TORCHELASTIC_USE_AGENT_STORE": "False", "MASTER_PORT": "tcp://10.0.0.1:80"}
    assert RankEnvironment.from_environ(variables).agent_store is None


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"])
def test_a_number_that_is_none_is_refused_with_its_name(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number, but is many"):
        RankEnvironment.from_environ({**OF_TORCHRUN, name: "many"})


def test_errors_go_to_the_launcher_only_if_it_prints_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in OF_TORCHRUN.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NMT_SAYS_TO_LAUNCHER", raising=False)
    assert environment().error_file == ""
    monkeypatch.setenv("NMT_SAYS_TO_LAUNCHER", "")  # so that monkeypatch restores it after the test
    leave_errors_to_launcher()
    assert environment().error_file == "/tmp/errors/5.json"
