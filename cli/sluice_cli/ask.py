"""`sluice ask`."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from sluice_cli import output, session
from sluice_cli.options import EXIT_USAGE, Address, Exclude, Include, Json, Key

if TYPE_CHECKING:
    from sluice.chat.v1.event_pb2 import Completed, Indexing
    from sluice.chat.v1.passage_pb2 import Passage
    from sluice_cli.flow import Flow
    from sluice_client import ChatStream, NumberedEvent, SluiceClient

_GROUNDING = "Grounding"


def ask(
    question: Annotated[
        str | None, typer.Argument(help="What to ask. [bold]-[/] or nothing: read standard input.", show_default=False)
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(
            "--corpus",
            "-c",
            metavar="NAME",
            help="Answer from this corpus, with citations. May be repeated.",
            rich_help_panel=_GROUNDING,
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", metavar="MODEL", help="An alias or provider/model. Default: the default route."),
    ] = "",
    system: Annotated[
        str | None, typer.Option("--system", "-s", metavar="TEXT", help="What the model is told before the question.")
    ] = None,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", metavar="NAME", help="Go on with this conversation. Begun if it is new."),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0.001, metavar="SECONDS", help="Longest the answer may take.")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=100, help="Most passages to use.", rich_help_panel=_GROUNDING)
    ] = None,
    pin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="A file whose passages come first. May be repeated.", rich_help_panel=_GROUNDING
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    repository: Annotated[
        str | None,
        typer.Option(
            "--repository",
            metavar="PATH_OR_URL",
            help="Answer from this repository or folder, which is indexed first where it is not yet.",
            rich_help_panel=_GROUNDING,
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Its branch, tag or commit.", rich_help_panel=_GROUNDING),
    ] = None,
    credential: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Its credential, by its name in the configuration.", rich_help_panel=_GROUNDING
        ),
    ] = None,
    max_age: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=2592000,
            metavar="SECONDS",
            help="How old its index may be. Default: an hour.",
            rich_help_panel=_GROUNDING,
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Search for this instead of the question.", rich_help_panel=_GROUNDING),
    ] = None,
    token_budget: Annotated[
        int | None, typer.Option(min=1, metavar="TOKENS", help="Most tokens of passages.", rich_help_panel=_GROUNDING)
    ] = None,
    best_effort: Annotated[
        bool,
        typer.Option("--best-effort", help="Answer without passages if none can be had.", rich_help_panel=_GROUNDING),
    ] = False,
    language: Annotated[
        str | None, typer.Option(metavar="TAG", help="Language to answer in, e.g. [bold]de[/].")
    ] = None,
    show_passages: Annotated[
        bool, typer.Option("--show-passages", help="Print the passages found, too.", rich_help_panel=_GROUNDING)
    ] = False,
    as_json: Json = False,
    address: Address = None,
    key: Key = None,
) -> None:
    """Ask a question and watch the answer come.

    On a terminal the answer is rendered as Markdown; in a pipe it is plain text. With [bold]--corpus[/] it is grounded
    in what you indexed, with [bold]--repository[/] in what is indexed for it, and the lines it cites are checked: VERIFIED, STALE (changed since) or UNVERIFIED. Ctrl-C
    cancels the answer upstream, too. With [bold]--json[/] each event is one line.

    [bold]Examples[/]

      sluice ask "How are retries decided?" --corpus sluice

      sluice ask "How are options parsed?" --repository https://github.com/pallets/click --revision 8.1.8

      git diff | sluice ask --system "Review this change" --model openai/gpt-5-mini
    """
    text = _question(question)
    if repository is None and (revision or credential or max_age is not None):
        output.say("sluice: --revision, --credential and --max-age need a --repository")
        raise typer.Exit(EXIT_USAGE)
    if not corpus and repository is None:
        refining = top_k or pin or include or exclude or show_passages or query or token_budget or best_effort
        if refining:
            output.say(
                "sluice: --top-k, --pin, --include, --exclude, --query, --token-budget, --best-effort and "
                "--show-passages need a --corpus or a --repository"
            )
            raise typer.Exit(EXIT_USAGE)

    async def work(client: "SluiceClient") -> None:
        from sluice_client import question as make_question
        from sluice_client import repository as make_repository

        named = None
        if repository is not None:
            named = make_repository(repository, revision=revision, credential=credential, max_age=max_age)
        spec = make_question(
            text,
            model=model,
            system=system,
            corpora=corpus or (),
            top_k=top_k,
            pinned_paths=pin or (),
            include=include or (),
            exclude=exclude or (),
            conversation=conversation,
            repository=named,
            query=query,
            token_budget=token_budget,
            best_effort=best_effort,
            language=language,
        )
        if conversation is not None:
            await _begin(client, conversation)
        async with client.stream_chat(spec, timeout=timeout) as stream:
            if as_json:
                await _print_events(stream)
            else:
                await _Answer(show_passages).show(stream)

    session.run(work, address, key, as_json=as_json)


def _question(argument: str | None) -> str:
    if argument is not None and argument != "-":
        text = argument
    else:
        if sys.stdin.isatty():
            output.say("Type the question; end it with Ctrl-D.")
        text = sys.stdin.read()
    if not text.strip():
        output.say('sluice: no question. Try: sluice ask "What does this project do?"')
        raise typer.Exit(EXIT_USAGE)
    return text


async def _begin(client: "SluiceClient", conversation: str) -> None:
    """Makes a conversation that does not exist yet."""
    from sluice_kit.errors import ConflictError, NotFoundError

    try:
        await client.get_conversation(conversation)
    except NotFoundError:
        try:
            await client.create_conversation(conversation)
        except ConflictError:
            return  # somebody else began it in this moment
        output.say(f"sluice: begins the conversation '{conversation.removeprefix('conversations/')}'")


async def _print_events(stream: "ChatStream") -> None:
    async for item in stream:
        output.emit({"sequence": item.sequence, "event": output.as_json(item.event)})


class _Answer:
    """Shows one answer to a person: the text on standard output, everything about it on standard error."""

    def __init__(self, show_passages: bool) -> None:
        from sluice_cli.footnotes import Footnotes
        from sluice_client import Fold

        self._show_passages = show_passages
        self._fold = Fold()
        self._footnotes = Footnotes()
        self._terminal = sys.stdout.isatty()
        self._indexed = "", 0

    async def show(self, stream: "ChatStream") -> None:
        """Reads the stream to its end."""
        from sluice_cli.flow import MarkdownFlow, PlainFlow

        console = output.console()
        flow: Flow
        with MarkdownFlow(console) if self._terminal else PlainFlow() as flow:
            async for item in stream:
                self._fold.add(item.sequence, item.event)
                self._take(item, flow)
            flow.feed(self._footnotes.flush())
        self._end()

    def _take(self, item: "NumberedEvent", flow: "Flow") -> None:
        from sluice.chat.v1.event_pb2 import NoticeCode

        event = item.event
        match item.kind:
            case "text_delta":
                flow.feed(self._footnotes.feed(event.text_delta.text))
            case "retrieved":
                self._footnotes.grounded = bool(event.retrieved.passages)
                if self._show_passages:
                    print_passages(list(event.retrieved.passages), stderr=True)
            case "restarted":
                self._footnotes.flush()
                flow.restart(self._footnotes.feed(self._fold.text()))
            case "route_changed":
                change = event.route_changed
                target = f"{change.target.provider}/{change.target.model}"
                previous = f"{change.previous.provider}/{change.previous.model}"
                what = "is tried again" if target == previous else f"takes over from {previous}"
                output.say(f"→ {target} {what}: {_reason(change.reason)}")
            case "notice":
                if event.notice.code == NoticeCode.NOTICE_CODE_NO_MODEL:
                    self._footnotes.grounded = False  # what looks like a mark in a quote is the source's own text
                output.say(f"note: {event.notice.message}")
            case "indexing":
                self._indexing(event.indexing)

    def _indexing(self, indexing: "Indexing") -> None:
        """Says each step once, and every quarter of it."""
        seen = indexing.step, int(indexing.progress * 4)
        if seen != self._indexed:
            self._indexed = seen
            output.say(f"indexing  {indexing.progress:4.0%}  {indexing.step}")

    def _end(self) -> None:
        answer = self._fold.answer()
        for part in answer.message.parts:
            if part.HasField("tool_call"):
                call = part.tool_call
                print(f"{call.name}({call.arguments_json or call.input_text})")
        notes = self._footnotes.notes(answer.citations)
        if notes and self._terminal:
            from rich.text import Text

            styles = {"VERIFIED": "green", "STALE": "yellow", "UNVERIFIED": "red"}
            console = output.console()
            console.print()
            for note in notes:
                line = Text(str(note), style="dim")
                line.stylize(f"not dim {styles.get(note.state, '')}", len(line) - len(note.state))
                console.print(line, soft_wrap=True)
        elif notes:
            print()
            for note in notes:
                print(note)
        self._finish(answer.completed)

    def _finish(self, completed: "Completed") -> None:
        from sluice.chat.v1.usage_pb2 import FinishReason

        if completed.finish_reason == FinishReason.FINISH_REASON_LENGTH:
            output.say("note: the answer was cut at its token limit")
        elif completed.finish_reason == FinishReason.FINISH_REASON_CONTENT_FILTER:
            output.say("note: the vendor cut the answer by its content policy")


def print_passages(passages: "list[Passage]", *, stderr: bool = False) -> None:
    """Prints passages with their places and lines."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        from rich.syntax import Syntax
        from rich.text import Text

        console = output.console(stderr=stderr)
        for passage in passages:
            console.print(Text(output.harmless(_heading(passage)), style="bold"), soft_wrap=True)
            console.print(
                Syntax(
                    output.harmless(passage.text.rstrip("\n")),
                    passage.language or "text",
                    line_numbers=True,
                    start_line=passage.start_line,
                    background_color="default",
                )
            )
            console.print()
        return
    for passage in passages:
        print(_heading(passage), file=stream)
        for number, line in enumerate(passage.text.splitlines(), passage.start_line):
            print(f"{number:6}  {line}", file=stream)
        print(file=stream)


def _heading(passage: "Passage") -> str:
    symbol = f" ({passage.symbol})" if passage.symbol else ""
    return f"{passage.path}:{passage.start_line}-{passage.end_line}{symbol}  score {passage.score:.3f}"


def _reason(reason: int) -> str:
    from sluice_kit.errors import TABLE, reason_name

    for known in TABLE:
        if known == reason:
            return reason_name(known).replace("_", " ").lower()
    return f"reason {reason}"
