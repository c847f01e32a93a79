"""Scripts that make a shell complete commands, options and their values."""

import shlex
from collections.abc import Mapping
from typing import Literal

from tigerjax.command import options
from tigerjax.command.options import Command, Option
from tigerjax.command.usage import DRY_RUN
from tigerjax.config import RunConfig
from tigerjax.evaluate.benchmarks import BENCHMARKS, GROUPS

Shell = Literal["bash", "zsh", "fish"]

MIXTURES = shlex.quote(
    "cat data_mixtures/*.py *.py 2>/dev/null | tr -s '[:space:]' ' '"
    " | grep -oE '(^|[ .])(pretraining|holistic|sft|add_mixture)\\( ?\"[^\"{]+\"' | cut -d '\"' -f 2 | sort -u"
)
"""Prints the names of the mixtures that Python files of this folder and of data_mixtures/ register.

It searches the text of the files, since importing them takes seconds. So it sees only names that are written out.
"""
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
  if ((i < COMP_CWORD)); then after=""; fi  # an argument comes before, so no subcommand follows
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
  set -l typed (commandline -opc)
  test "$typed[2..]" = "$argv"
end
function __tigerjax_in  # whether they begin with those given
  set -l typed (commandline -opc)
  test (count $typed) -gt (count $argv); and test "$typed[2..$(math (count $argv) + 1)]" = "$argv"
end
function __tigerjax_mixtures
  {mixtures}
end
complete -c tigerjax -n __tigerjax_at -f
"""


def script(shell: Shell, commands: Mapping[tuple[str, ...], Command]) -> str:
    """The script for a shell. `commands` maps words to functions: {("data", "clean"): data_clean, …}."""
    table = options_by_command(commands)
    return fish(table) if shell == "fish" else (ZSH if shell == "zsh" else "") + bash(table)


def options_by_command(commands: Mapping[tuple[str, ...], Command]) -> dict[tuple[str, ...], list[Option]]:
    """The options of every command; with a config, the fields of the config too."""
    fields = options.of_config(RunConfig)
    table: dict[tuple[str, ...], list[Option]] = {}
    for words, command in commands.items():
        own = options.of_command(command)
        more = [*(fields if options.takes_config(command) else []), Option(DRY_RUN, bool, False)]
        table[words] = own + [o for o in more if o.name not in {option.name for option in own}]
    return table


def _values(option: Option, mixtures: str) -> str:
    """The words that a shell offers after an option: none where any text or any file may follow.

    `mixtures` is the shell's own call of MIXTURES.
    """
    if option.name in ("mixture", "--data.mixture"):
        return mixtures
    return " ".join((*GROUPS, *BENCHMARKS) if option.name == "--tasks" else option.choices)


def _next_words(commands: list[tuple[str, ...]]) -> dict[tuple[str, ...], list[str]]:
    """What may follow each beginning of a command: {(): ["quickstart", …], ("tokenizer",): ["sample", …]}"""
    after: dict[tuple[str, ...], list[str]] = {}
    for words in commands:
        for n, word in enumerate(words):
            following = after.setdefault(words[:n], [])
            if word not in following:
                following.append(word)
    return after


def bash(table: Mapping[tuple[str, ...], list[Option]]) -> str:
    """The script for bash, of `options_by_command`."""
    following = _next_words(list(table))
    steps, words = [], []
    replies: dict[bool, list[str]] = {False: [], True: []}  # by whether the option takes several values
    for at, after in following.items():
        steps.append(
            f'      "{" ".join(at)}") case "${{COMP_WORDS[i]}}" in {"|".join(after)})'
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
                replies[o.many].append(f'    "{" ".join(at)} {o.name}") {reply} ;;')
    return BASH.format(
        mixtures=f"sh -c {MIXTURES}",
        steps="\n".join(steps),
        lists="\n".join(replies[True]),
        choices="\n".join(replies[False]),
        words="\n".join(words),
    )


def fish(table: Mapping[tuple[str, ...], list[Option]]) -> str:
    """The script for fish, of `options_by_command`."""
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
            value = f" -x -a '{values}'" if values else "" if o.switch else " -r"
            lines += [f"{where} -l {name.removeprefix('--')}{value}" for name in o.spellings]
    return FISH.format(mixtures=f"sh -c {MIXTURES}") + "\n".join(lines) + "\n"
