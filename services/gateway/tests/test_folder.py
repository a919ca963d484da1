"""A state folder in which nothing can be kept is one line for people, and no defect."""

from pathlib import Path

import pytest

from sluice_gateway.folder import usable
from sluice_gateway.service import Gateway
from sluice_kit.config import ServerConfig
from sluice_kit.server import BindError, start
from sluice_kit.testing import document_of


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    assert usable(tmp_path / "state" / "gateway") == tmp_path / "state" / "gateway"
    assert not list((tmp_path / "state" / "gateway").iterdir())


async def test_a_folder_that_cannot_be_used_is_said_to_be_that(tmp_path: Path) -> None:
    (tmp_path / "gateway").write_text("a file where the folder should be")
    document = document_of({"state_dir": str(tmp_path), "gateway": {"listen": "127.0.0.1:0"}}, tmp_path)
    with pytest.raises(BindError, match=rf"^cannot keep anything in {tmp_path}/gateway: File exists$"):
        await start(Gateway(document), ServerConfig())
