"""The command that writes completions for a shell, from the table of commands and their options."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from tigerjax import options
from tigerjax.arguments import DRY_RUN, keep
from tigerjax.config import RunConfig
from tigerjax.options import Option

Shell = Literal["bash", "zsh", "fish"]

BASH = """\
# Completions of tigerjax for bash: source <(tigerjax completion bash)
_tigerjax() {{
  local cur="${{COMP_WORDS[COMP_CWORD]}}" prev="${{COMP_WORDS[COMP_CWORD-1]}}" at="" i after="" options=""
  for ((i = 1; i < COMP_CWORD; i++)); do  # the command so far: its words are the first ones
    case "$at" in
{steps}
      *) break ;;
    esac
  done
  case "$at $prev" in
{choices}
  esac
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
complete -c tigerjax -n __tigerjax_at -f
"""


def completion(shell: Annotated[Shell, "positional"], json: Path | None = None) -> None:
    """Writes the completions of commands, options and their choices for a shell to standard output.

    `source <(tigerjax completion bash)` in ~/.bashrc, the same with zsh in ~/.zshrc, or `tigerjax completion fish |
    source` in fish's config.fish. After a config file the fields of the config are completed too.

    Example: tigerjax completion bash
    """
    script = {"bash": bash, "zsh": lambda: ZSH + bash(), "fish": fish}[shell]()
    print(script, end="")
    keep({"shell": shell, "bytes": len(script.encode())}, json)


def _commands() -> Iterator[tuple[tuple[str, ...], list[Option]]]:
    """(words, options) of every command; with a config its fields are options too."""
    from tigerjax import cli

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
    steps, choices, words = [], [], []
    for at, after in following.items():
        said = " ".join(at)
        steps.append(
            f'      "{said}") case "${{COMP_WORDS[i]}}" in {"|".join(after)})'
            f' at="${{at:+$at }}${{COMP_WORDS[i]}}" ;; *) break ;; esac ;;'
        )
    for at in dict.fromkeys([*following, *table]):
        shown = [spelling for o in table.get(at, []) if not o.positional for spelling in o.spellings]
        bare = [*following.get(at, []), *(c for o in table.get(at, []) if o.positional for c in o.choices)]
        words.append(f'    "{" ".join(at)}") after="{" ".join(bare)}" options="{" ".join(shown)}" ;;')
    for at, known in table.items():
        for o in known:
            if o.choices and not o.positional:
                reply = f'COMPREPLY=($(compgen -W "{" ".join(o.choices)}" -- "$cur")); return'
                choices.append(f'    "{" ".join(at)} {o.name}") {reply} ;;')
    return BASH.format(steps="\n".join(steps), choices="\n".join(choices), words="\n".join(words))


def fish() -> str:
    table = dict(_commands())
    lines = []
    for at, after in _next_words(list(table)).items():
        lines.append(f"complete -c tigerjax -n '__tigerjax_at {' '.join(at)}' -f -a '{' '.join(after)}'")
    for at, known in table.items():
        where = f"complete -c tigerjax -n '__tigerjax_in {' '.join(at)}'"
        for o in known:
            if o.positional:
                lines += [f"{where} -f -a '{' '.join(o.choices)}'"] if o.choices else []
                continue
            value = f" -x -a '{' '.join(o.choices)}'" if o.choices else " -r" if o.kind else ""
            lines += [f"{where} -l {name.removeprefix('--')}{value}" for name in o.spellings]
    return FISH + "\n".join(lines) + "\n"
