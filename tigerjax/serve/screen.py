"""A conversation in a terminal: what is typed, the commands that begin with a slash, and how answers are shown.

Where standard input is no terminal it is one question, and only its answer is printed.
"""

import dataclasses
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence

from tigerjax.errors import ConfigError, DataError, near_miss
from tigerjax.serve.chat import Chat, ChatSettings, TextPiece
from tigerjax.terminal import overwrite, printable, show, tell, write

PROMPT = "> "
ENDS = ("quit", "exit")
"""Commands that end the conversation."""
NARROWEST = 30
"""Columns that an answer has at least where answers stand side by side."""
BETWEEN = " | "
HELP = (
    "/n 4              so many answers to each question, side by side",
    "/take 2           continue from answer 2; else from the best score, or the first answer without scores",
    "/retry            answer the last question again, in another way",
    "/temperature 0.7  0 always takes the likeliest token; higher values surprise more",
    "/system TEXT      an instruction for the whole conversation; without a text it is removed",
    "/reset            forget what was said",
    "/help             this list",
    "/quit             end, as Ctrl-D does",
    "Ctrl-C stops an answer. A question that begins with a slash is typed with two: //etc is a folder.",
)


def answer_input(chat: Chat) -> None:
    """Answers what stands on standard input, and prints the answer.

    Raises DataError where nothing stands there.
    """
    question = sys.stdin.read().strip()
    if not question:
        raise DataError("nothing came on standard input; pipe a question into it, or start it in a terminal")
    _show_answers(chat, chat.ask(question), live=False)


class Screen:
    """A person at a terminal."""

    def __init__(self, chat: Chat, read: Callable[[str], str] = input, kept: Callable[[], object] = lambda: None):
        """`read` shows its argument and gives a line, as `input` does. `kept` is called after each line that was
        acted upon, when what was said can be written down."""
        self._chat, self._read, self._kept = chat, read, kept
        self._commands: dict[str, Callable[[str], None]] = {
            "n": self._set_n,
            "take": self._take,
            "retry": lambda _: _show_answers(chat, chat.retry(), live=True),
            "temperature": self._set_temperature,
            "system": self._set_system,
            "reset": self._reset,
            "help": lambda _: show("\n".join(HELP)),
        }

    def talk(self) -> None:
        """Until /quit or the end of the input."""
        show("Type a question. /help lists the commands, /quit or Ctrl-D ends.")
        while True:
            try:
                line = self._read(PROMPT).strip()
            except EOFError:
                show()
                return
            except KeyboardInterrupt:
                show("\n/quit or Ctrl-D ends")
                continue
            if line.removeprefix("/") in ENDS and line.startswith("/"):
                return
            try:
                self._act(line)
                self._kept()
            except (ConfigError, DataError) as error:  # of what was typed: the conversation continues
                tell(error)

    def _act(self, line: str) -> None:
        if line.startswith("/") and not line.startswith("//"):
            name, _, text = line[1:].partition(" ")
            if name in ENDS:
                raise ConfigError(f"/{name} takes nothing behind it; type /{name} alone to end")
            if name not in self._commands:
                names = [f"/{known}" for known in (*self._commands, "quit")]
                raise ConfigError(f"no command /{name} (`/help` lists them){near_miss(f'/{name}', names)}")
            self._commands[name](text.strip())
        elif line:
            _show_answers(self._chat, self._chat.ask(line.removeprefix("/")), live=True)

    def _set_n(self, text: str) -> None:
        n = int(_number(text, int, "/n 4"))
        self._change(dataclasses.replace(self._chat.settings, n=n), f"n is {n}")

    def _set_temperature(self, text: str) -> None:
        temperature = _number(text, float, "/temperature 0.7")
        self._change(
            dataclasses.replace(self._chat.settings, temperature=temperature), f"temperature is {temperature:g}"
        )

    def _change(self, settings: ChatSettings, said: str) -> None:
        self._chat.change(settings)
        show(f"{said} from now on")

    def _take(self, text: str) -> None:
        number = _number(text, int, "/take 2")
        self._chat.take(int(number) - 1)
        show(f"the conversation continues from answer {number}")

    def _set_system(self, text: str) -> None:
        self._chat.system = text
        show("the instruction holds from now on" if text else "there is no instruction any more")

    def _reset(self, _: str) -> None:
        self._chat.reset()
        show("forgotten")


def _number(text: str, kind: type[int] | type[float], example: str) -> float:
    try:
        return kind(text)
    except ValueError:
        given = f"{example.split()[0]} {text}".rstrip()
        raise ConfigError(f"{given} needs a number; type {example}") from None


def _show_answers(chat: Chat, news: Iterator[TextPiece], *, live: bool) -> None:
    """Prints answers: one as it comes, several side by side once they are whole."""
    alone, over, tokens, last = chat.settings.n == 1, 0, 0, ""
    for new in news:
        tokens += new.tokens
        over += new.finish is not None
        if alone and new.text:
            write(new.text)
            last = new.text[-1]
        elif live and not alone:
            overwrite(f"{over} of {chat.settings.n} answers are whole, {tokens} tokens", "\r")
    if not alone:
        if live:
            overwrite("", "\r")
        show("\n".join(side_by_side([_titled(chat, n, live) for n in range(chat.settings.n)])))
    elif last != "\n":
        show()
    for line in _notes(chat, live=live):
        tell(line)


def _titled(chat: Chat, number: int, live: bool) -> str:
    answer = chat.answers[number]
    score = "" if answer.score is None else f" score {answer.score:.2f}"
    follows = ", the conversation continues from it" if live and number == chat.best() else ""
    return f"[{number + 1}]{score}{follows}\n{answer.text}"


def _notes(chat: Chat, *, live: bool) -> Iterator[str]:
    """What the reader must know about the answers beside their text."""
    if chat.left_out:
        yield f"the first {chat.left_out} messages of the conversation were left out: they do not fit into the context"
    cut = sum(answer.finish == "length" for answer in chat.answers)
    if cut:
        which = "the answer was" if len(chat.answers) == 1 else f"{cut} answers were"
        yield f"{which} cut at --max-new-tokens {chat.settings.max_new_tokens}, or where the context ended"
    if not any(answer.text.strip() for answer in chat.answers):
        yield "the answer is empty; " + ("/retry asks again" if live else "another --seed may give one")


def side_by_side(texts: Sequence[str], width: int | None = None) -> list[str]:
    """The lines of texts in columns; one below the other where `width`, that of the terminal, is too small."""
    width = width or shutil.get_terminal_size().columns
    each = (width - len(BETWEEN) * (len(texts) - 1)) // len(texts)
    if each < NARROWEST:
        return [line for text in texts for line in [*_wrapped(text, width), ""]]
    columns = [_wrapped(text, each) for text in texts]
    rows = max(map(len, columns))
    whole = [[*column, *[""] * (rows - len(column))] for column in columns]
    return [
        BETWEEN.join(cell + " " * (each - _columns(cell)) for cell in row).rstrip() for row in zip(*whole, strict=True)
    ]


def _columns(text: str) -> int:
    """How wide a terminal shows the text: Chinese characters take two columns, combining ones none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _wrapped(text: str, width: int) -> list[str]:
    """The lines of a text, none wider than `width`; broken at a space where there is one."""
    lines = []
    for line in printable(text).expandtabs(4).split("\n"):
        begin = 0
        while _columns(line[begin:]) > width:
            end = begin + 1
            while _columns(line[begin : end + 1]) <= width:
                end += 1
            space = line.rfind(" ", begin + 1, end + 1)
            cut = space if space > 0 else end
            lines.append(line[begin:cut].rstrip())
            begin = cut + (space > 0)
        lines.append(line[begin:])
    return lines
