"""`sluice conversations`."""

from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, session
from sluice_cli.options import Address, Json, Key, ListByDefault

if TYPE_CHECKING:
    from sluice.chat.v1.message_pb2 import Message
    from sluice.gateway.v1.conversation_service_pb2 import Turn
    from sluice_client import SluiceClient

app = typer.Typer(cls=ListByDefault, help="List, show and delete conversations.")

Name = Annotated[str, typer.Argument(help="Name of the conversation.")]


@app.callback()
def conversations() -> None:
    """List, show and delete conversations. Without a command: list."""


@app.command("list")
def list_conversations(as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """List the conversations."""

    async def work(client: "SluiceClient") -> None:
        found = await client.list_conversations().all()
        if as_json:
            output.emit({"conversations": [output.as_json(one) for one in found]})
            return
        rows = [
            (
                one.name.removeprefix("conversations/"),
                str(one.turn_count),
                output.when(one.update_time),
                one.display_name,
            )
            for one in found
        ]
        headers = ("name", "turns", "last", "title")
        output.table(headers, rows, empty="no conversations yet; begin one: sluice ask QUESTION --conversation NAME")

    session.run(work, address, key, as_json=as_json)


@app.command("show")
def show_conversation(
    name: Name,
    last: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the last N turns.")] = None,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Print what was asked and answered, oldest first. With [bold]--json[/] each turn is one line."""

    async def work(client: "SluiceClient") -> None:
        if last is None:
            async for turn in client.list_turns(name):
                _print(turn, as_json)
            return
        newest: list[Turn] = []
        async for turn in client.list_turns(name, newest_first=True, page_size=min(last, 100)):
            newest.append(turn)
            if len(newest) == last:
                break
        for turn in reversed(newest):
            _print(turn, as_json)

    session.run(work, address, key, as_json=as_json)


@app.command("delete")
def delete_conversation(name: Name, as_json: Json = False, address: Address = None, key: Key = None) -> None:
    """Delete a conversation with all that was said in it."""

    async def work(client: "SluiceClient") -> None:
        await client.delete_conversation(name)
        if as_json:
            output.emit({"deleted": f"conversations/{name.removeprefix('conversations/')}"})
        else:
            print(f"deleted {name}")

    session.run(work, address, key, as_json=as_json)


def _print(turn: "Turn", as_json: bool) -> None:
    if as_json:
        output.emit(output.as_json(turn))
        return
    for message in turn.question:
        print("\n".join(f"> {line}" for line in _text(message).split("\n")) + "\n")
    if turn.HasField("answer"):
        print(f"{_text(turn.answer)}\n")
    if turn.HasField("error"):
        output.say(f"(failed: {turn.error.message})\n")


def _text(message: "Message") -> str:
    """Returns what a message says; of what is no text, what it is."""
    said = []
    for part in message.parts:
        match part.WhichOneof("kind"):
            case "text":
                said.append(part.text)
            case "reasoning":
                continue
            case "tool_call":
                said.append(f"[calls {part.tool_call.name}]")
            case "tool_result":
                said.append(part.tool_result.text)
            case kind:
                said.append(f"[{kind}]")
    return "\n".join(said).rstrip("\n")
