"""``melt completion``: a small script that completes commands and options, made from the parser itself."""

from __future__ import annotations

import argparse
from typing import Any

_SHELLS = ("bash", "zsh", "fish")


def add_parser(subparsers: Any) -> None:
    """Adds the command."""
    parser = subparsers.add_parser(
        "completion",
        help="a script that completes melt's commands and options",
        description='bash, zsh: eval "$(melt completion bash)"; fish: melt completion fish | source',
    )
    parser.add_argument("shell", choices=_SHELLS, help="your shell")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Prints the script."""
    from melt_core.cli.main import build_parser

    words = _words(build_parser())
    print({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words))
    return 0


def _words(parser: argparse.ArgumentParser) -> dict[str, tuple[str, list[str]]]:
    """Returns, per command, its help line, and its options and sub-commands."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    helps = {action.dest: action.help or "" for action in commands._choices_actions}
    return {name: (helps.get(name, ""), _own_words(sub)) for name, sub in commands.choices.items()}


def _own_words(parser: argparse.ArgumentParser) -> list[str]:
    words: list[str] = []
    for action in parser._actions:
        words += [option for option in action.option_strings if option.startswith("--")]
        if isinstance(action, argparse._SubParsersAction):
            words += list(action.choices)
            for sub in action.choices.values():
                words += _own_words(sub)
        elif not action.option_strings and action.choices:
            words += [str(choice) for choice in action.choices]
    return list(dict.fromkeys(words))


def _bash(words: dict[str, tuple[str, list[str]]]) -> str:
    cases = "\n".join(f'    {name}) words="{" ".join(own)}" ;;' for name, (_, own) in words.items())
    return f"""_melt() {{
  local words current="${{COMP_WORDS[COMP_CWORD]}}"
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="{" ".join(words)}" ;;
  esac
  [ "$COMP_CWORD" -eq 1 ] && words="{" ".join(words)}"
  COMPREPLY=($(compgen -W "$words" -- "$current"))
}}
complete -o default -o bashdefault -F _melt melt"""


def _zsh(words: dict[str, tuple[str, list[str]]]) -> str:
    return f"autoload -U +X bashcompinit && bashcompinit\n{_bash(words)}"


def _fish(words: dict[str, tuple[str, list[str]]]) -> str:
    lines = []
    for name, (line, own) in words.items():
        quoted = line.replace("\\", "\\\\").replace("'", "\\'")
        lines.append(f"complete -c melt -n __fish_use_subcommand -a {name} -d '{quoted}'")
        for word in own:
            flag = f"-l {word[2:]}" if word.startswith("--") else f"-a {word}"
            lines.append(f"complete -c melt -n '__fish_seen_subcommand_from {name}' {flag}")
    return "\n".join(lines)
