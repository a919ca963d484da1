"""`sluice ask --conversation` and `sluice conversations`."""

import json

from sluice_kit.testing import mesh

from .command import both, said


async def test_a_conversation_at_the_terminal() -> None:
    ask = ("ask", "--conversation", "plans", "--model", "scripted/echo")
    async with mesh() as running:
        assert "no conversations yet" in "".join(await both(running.address, "conversations"))
        out, err = await both(running.address, *ask, "first\nline")
        assert "first" in out
        assert "begins the conversation 'plans'" in err
        out, err = await both(running.address, *ask, "second")
        assert "begins" not in err
        await both(running.address, *ask[:-1], "scripted/text?fault=cut@1", "third", code=1)
        table = await said(running.address, "conversations")
        assert "plans" in table
        assert "3" in table
        shown, errors = await both(running.address, "conversations", "show", "plans")
        assert shown.startswith("> first\n> line\n\nfirst\nline\n\n> second\n\nsecond\n")
        assert "(failed: scripted: " in errors
        last = await said(running.address, "conversations", "show", "plans", "--last", "1", "--json")
        assert json.loads(last)["name"] == "conversations/plans/turns/3"
        listed = json.loads(await said(running.address, "conversations", "list", "--json"))
        assert [one["turnCount"] for one in listed["conversations"]] == [3]
        assert await said(running.address, "conversations", "delete", "plans") == "deleted plans\n"
        _, gone = await both(running.address, "conversations", "show", "plans", code=1)
        assert "no conversations/plans" in gone
