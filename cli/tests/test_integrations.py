"""`sluice integrations`."""

import json
from pathlib import Path

from sluice_kit.testing import mesh

from .command import both, said


async def test_integrations_come_and_go(tmp_path: Path) -> None:
    where = f"unix:{tmp_path}/nobody.sock"
    async with mesh({"gateway": {"registration": {"allow": [f"unix:{tmp_path}/*.sock"]}}}) as running:
        out = await said(running.address, "integrations", "add", "extra", where)
        assert out.startswith("extra is added; it is unreachable")
        listed = {line.split()[0]: line for line in (await said(running.address, "integrations")).splitlines()[1:]}
        assert "process, added" in listed["extra"]
        assert "added" not in listed["scripted"]
        added = json.loads(await said(running.address, "integrations", "add", "extra", where, "--json"))
        assert added["registered"] is True
        assert (await said(running.address, "integrations", "remove", "extra")) == "extra is removed\n"
        _, err = await both(running.address, "integrations", "add", "extra", "db:5432", code=1)
        assert "gateway.registration.allow" in err
        _, err = await both(running.address, "integrations", "remove", "scripted", code=1)
        assert "configuration" in err
        left = json.loads(await said(running.address, "integrations", "--json"))
        assert [one["id"] for one in left["integrations"]] == ["scripted"]
