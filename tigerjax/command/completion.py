"""The command that writes completions for a shell, from the table of commands, their options and their values."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from tigerjax.command import options
from tigerjax.command.arguments import DRY_RUN, keep
from tigerjax.command.options import Option
from tigerjax.config import RunConfig
from tigerjax.evaluate.benchmarks import BENCHMARKS, GROUPS

Shell = Literal["bash", "zsh", "fish"]

MIXTURES = shlex.quote(
    "cat data_mixtures/*.py *.py 2>/dev/null | tr -s '[:space:]' ' '"
    " | grep -oE '(^|[ .])(pretraining|holistic|sft|add_mixture)\\( ?\"[^\"{]+\"' | cut -d '\"' -f 2 | sort -u"
)
"""The mixtures that Python files of this folder and of data_mixtures/ register by a name that is written out: found in
their text, by a shell, as importing them takes seconds."""
BASH_MIXTURES = "$(_tigerjax_mixtures)"

BASH = """\
# Completions of tigerjax for bash: source <(tigerjax completion bash)
_tigerjax_mixtures() {{
  {mixtures}
}}
_tigerjax() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" at="" i j after="" options="" last=""
  for ((i = 1; i < COMP_CWORD; i++)); do  # the command so far: its words are the first ones
    case "$at" in
{steps}
      *) break ;;
    esac
  done
  for ((j = i; j < COMP_CWORD; j++)); do  # the last option, of which several values may be given
    if [[ "${{COMP_WORDS[j]}}" == -* ]]; then last="${{COMP_WORDS[j]}}"; fi
  done
  if [[ "$cur" != -* ]]; then
    case "$at $last" in
{lists}
    esac
    case "$at $prev" in
{choices}
    esac
  fi
  case "$at" in
{words}
  esac
  if ((i < COMP_CWORD)); then after=""; fi  # a word that is none of a command stands before
  if [[ "$cur" == -* ]]; then after="$options --help"; fi
  COMPREPLY=($(compgen -W "$after" -- "$cur"))  # nothing: bash completes files
}}
complete -o bashdefault -o default -F _tigerjax tigerjax
"""
ZSH = """\
# Completions of tigerjax for zsh: source <(tigerjax completion zsh)
autoload -Uz compinit bashcompinit && compinit && bashcompinit
"""
FISH = """\
# Completions of tigerjax for fish: tigerjax completion fish | source
function __tigerjax_at  # whether the words so far are exactly those given
  set -l said (commandline -opc)
  test "$said[2..]" = "$argv"
end
function __tigerjax_in  # whether they begin with those given
  set -l said (commandline -opc)
  test (count $said) -gt (count $argv); and test "$said[2..$(math (count $argv) + 1)]" = "$argv"
end
function __tigerjax_mixtures
  {mixtures}
end
complete -c tigerjax -n __tigerjax_at -f
"""


def completion(shell: Annotated[Shell, "positional"], json: Path | None = None) -> None:
    """Writes the completions of commands, options and their choices for a shell to standard output.

    Names of benchmarks are completed too, and of mixtures that Python files here or in data_mixtures/ register.

    `source <(tigerjax completion bash)` in ~/.bashrc, the same with zsh in ~/.zshrc, or `tigerjax completion fish |
    source` in fish's config.fish. After a config file the fields of the config are completed too.

    Example: tigerjax completion bash
    """
    script = {"bash": bash, "zsh": lambda: ZSH + bash(), "fish": fish}[shell]()
    print(script, end="")
    keep({"shell": shell, "bytes": len(script.encode())}, json)


def _values(option: Option, mixtures: str) -> str:
    """The words that may follow an option, none where they are files or free; those of mixtures are `mixtures`."""
    if option.name in ("mixture", "--data.mixture"):
        return mixtures
    return " ".join((*GROUPS, *BENCHMARKS) if option.name == "--tasks" else option.choices)


def _commands() -> Iterator[tuple[tuple[str, ...], list[Option]]]:
    """(words, options) of every command; with a config its fields are options too."""
    from tigerjax.command import cli

    fields = options.of_config(RunConfig)
    for words, command in cli.COMMANDS.items():
        with_config = command in cli.WITH_CONFIG
        own = options.own(command, with_config=with_config)
        more = [f for f in fields if with_config] + [Option(DRY_RUN, "", False, (), False)]
        yield words, own + [o for o in more if o.name not in {mine.name for mine in own}]


def _next_words(commands: list[tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    """What may follow each beginning of a command: {(): ["quickstart", …], ("tokenizer",): ["sample", …]}"""
    found: dict[tuple[str, ...], list[str]] = {}
    for words in commands:
        for n, word in enumerate(words):
            following = found.setdefault(words[:n], [])
            if word not in following:
                following.append(word)
    return found


def bash() -> str:
    table = dict(_commands())
    following = _next_words(list(table))
    steps, words = [], []
    replies: dict[bool, list[str]] = {False: [], True: []}  # of options of one value, and of several
    for at, after in following.items():
        said = " ".join(at)
        steps.append(
            f'      "{said}") case "${{COMP_WORDS[i]}}" in {"|".join(after)})'
            f' at="${{at:+$at }}${{COMP_WORDS[i]}}" ;; *) break ;; esac ;;'
        )
    for at in dict.fromkeys([*following, *table]):
        shown = [spelling for o in table.get(at, []) if not o.positional for spelling in o.spellings]
        own = (_values(o, BASH_MIXTURES) for o in table.get(at, []) if o.positional)
        bare = [*following.get(at, []), *filter(None, own)]
        words.append(f'    "{" ".join(at)}") after="{" ".join(bare)}" options="{" ".join(shown)}" ;;')
    for at, known in table.items():
        for o in known:
            if not o.positional and (values := _values(o, BASH_MIXTURES)):
                reply = f'COMPREPLY=($(compgen -W "{values}" -- "$cur")); return'
                replies["…" in o.kind].append(f'    "{" ".join(at)} {o.name}") {reply} ;;')
    return BASH.format(
        mixtures=f"sh -c {MIXTURES}",
        steps="\n".join(steps),
        lists="\n".join(replies[True]),
        choices="\n".join(replies[False]),
        words="\n".join(words),
    )


def fish() -> str:
    table = dict(_commands())
    lines = []
    for at, after in _next_words(list(table)).items():
        lines.append(f"complete -c tigerjax -n '__tigerjax_at {' '.join(at)}' -f -a '{' '.join(after)}'")
    for at, known in table.items():
        where = f"complete -c tigerjax -n '__tigerjax_in {' '.join(at)}'"
        for o in known:
            values = _values(o, "(__tigerjax_mixtures)")
            if o.positional:
                lines += [f"{where} -f -a '{values}'"] if values else []
                continue
            value = f" -x -a '{values}'" if values else " -r" if o.kind else ""
            lines += [f"{where} -l {name.removeprefix('--')}{value}" for name in o.spellings]
    return FISH.format(mixtures=f"sh -c {MIXTURES}") + "\n".join(lines) + "\n"
